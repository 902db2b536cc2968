from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.settings import NUMBERS, SHAPES, FilterModule, setting_problems, specifications

SOUND: dict[str, Any] = {
    "postfix_inet_protocols": "ipv4",
    "postfix_queue_lifetime": "3d",
    "postfix_greet_wait": 2,
    "postfix_milters": [],
    "postfix_client_rate_limit": "300",
    "nftables_enabled": "yes",
    "nftables_extra_ports": [8443, "9443"],
    "fail2ban_never_ban": ["192.0.2.0/24", "2001:db8::1", "odoo.example.com"],
    "fail2ban_find_time": "1h 30m",
    "fetch_and_route_interval": "1min 30s",
    "fail2ban_ban_time": "-1",
    "unattended_upgrades_reboot_time": "23:59",
    "rspamd_reject_score": 7.5,
    "dovecot_metrics_port": 9900,
    "dns_records_adopt": ["_dmarc.example.com", "*.Example.com."],
    "dns_records_resolver": "2001:db8::53",
    "acme_key": "has words of its own",
    "somebody_elses": object(),
}


def test_sound_settings_have_no_problems() -> None:
    assert setting_problems([SOUND, {}]) == []


@pytest.mark.parametrize(
    ("lifetime", "days", "least"),
    [("7d", 7, 9), ("3", 3, 5), ("2w", 14.0, 16), ("240h", "8", 12), ("3d", 0, 5), ("30m", 0, 2), (None, 3, 5)],
)
def test_a_key_outlives_the_queue(lifetime: str | None, days: float, least: int) -> None:
    host = {"dns_records_dkim_retired_days": days} | ({"postfix_queue_lifetime": lifetime} if lifetime else {})
    [line] = setting_problems([host, host])
    assert line.startswith(f"dns_records_dkim_retired_days: {days} is no longer than mail may wait in the queue")
    assert line.endswith(f"use {least} or more")
    assert setting_problems([host | {"dns_records_dkim_retired_days": least}]) == []


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("postfix_inet_protocols", "ipv5", "'ipv5' cannot be: use one of all, ipv4, ipv6"),
        ("postfix_queue_lifetime", "3 days", "'3 days' is no time"),
        ("postfix_greet_wait", "-2s", "'-2s' is no time"),
        ("postfix_message_size_limit", "50 MB", "'50 MB' is not a whole number"),
        ("postfix_message_size_limit", 50, "50 cannot be: use a number from 100000"),
        ("postfix_milters", ["127.0.0.1:11332"], "is no milter"),
        ("nftables_enabled", "maybe", "'maybe' is not true or false"),
        ("nftables_extra_ports", [25, 70000], "70000 cannot be: use a number from 1 to 65535"),
        ("nftables_extra_ports", ["http"], "'http' is not a whole number"),
        ("nftables_extra_ports", 8443, "8443 is not a list"),
        ("fail2ban_never_ban", ["a b"], "'a b' is no address, network or host name"),
        ("fail2ban_ban_time", "for ever", "'for ever' is no time"),
        ("fetch_and_route_interval", "0min", "'0min' is no time to wait: write one as systemd has it, such as 5min"),
        ("fetch_and_route_interval", 0, "0 is no time to wait"),
        ("fetch_and_route_interval", "now and then", "'now and then' is no time to wait"),
        ("fetch_and_route_attempts", 0, "0 cannot be: use a number from 1"),
        ("fail2ban_tries", 0, "0 cannot be: use a number from 1"),
        ("fail2ban_tries", True, "True is not a whole number"),
        ("unattended_upgrades_reboot_time", "4 am", "'4 am' is no time of day"),
        ("unattended_upgrades_reboot_time", {}, "{} is not text"),
        ("unbound_validate_root", [], "[] is not true or false"),
        ("dovecot_metrics_port", 65536, "65536 cannot be"),
        ("rspamd_reject_score", "high", "'high' is not a number"),
        (
            "dns_records_dmarc_policy",
            "reject; pct=50",
            "'reject; pct=50' cannot be: use one of none, quarantine, reject",
        ),
        ("dns_records_dane", "maybe", "'maybe' cannot be: use one of auto, always, never"),
        ("dns_records_ttl", 0, "0 cannot be: use a number from 1 to 604800"),
        ("dns_records_adopt", ["_dmarc example.com"], "is no name in DNS: write it in full"),
        ("dns_records_adopt", ["_dmarc"], "is no name in DNS: write it in full"),
        ("dns_records_adopt", [f"{'a' * 64}.example.com"], "is no name in DNS"),
        ("dns_records_block_lists", ["https://zen.spamhaus.org"], "is no list: write its name in DNS"),
        ("dns_records_resolver", "dns.example.com", "is no address: write one such as 192.0.2.53"),
    ],
)
def test_a_setting_with_a_problem(name: str, value: Any, problem: str) -> None:
    (line,) = setting_problems([{name: value}, {name: value}])
    assert line.startswith(f"{name}: ")
    assert problem in line


def test_what_is_checked_is_a_variable_of_a_role() -> None:
    assert {*SHAPES, *NUMBERS} <= {*specifications()}


def test_the_defaults_would_pass() -> None:
    defaults = {name: option["default"] for name, option in specifications().items() if "default" in option}
    plain = {name: value for name, value in defaults.items() if "{{" not in str(value)}
    assert setting_problems([plain]) == []


@given(st.sampled_from(sorted(specifications())), st.one_of(st.none(), st.text(), st.floats(), st.lists(st.text())))
def test_nothing_makes_the_filter_fail(name: str, value: Any) -> None:
    assert all("\n" not in line for line in setting_problems([{name: value}]))
    setting_problems(value)


def test_the_filter_has_a_name() -> None:
    assert FilterModule().filters() == {"setting_problems": setting_problems}
