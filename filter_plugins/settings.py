# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with the settings of roles that run later, which Ansible would find only when the host is half done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
# What has checks of its own, with better words.
ELSEWHERE = re.compile(r"acme_.*|certificate_.*|postfix_dnsbl_sites|unbound_forwarders|unbound_trust_anchors")
BOOLEANS = ("yes", "no", "on", "off", "true", "false", "y", "n", "t", "f", "1", "0")  # as Ansible takes them
POSTFIX_TIME = r"[0-9]+[smhdw]?"  # postconf(5), "time units"
# systemd.time(7), "Parsing Time Spans"; not nothing, or the timer would fire without end.
SYSTEMD_TIME = r"(?=.*[1-9])([0-9]+ ?(s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?)? ?)+"
# What the service would refuse, or take for something else.
SHAPES = {
    "postfix_queue_lifetime": (POSTFIX_TIME, "is no time: write a number and s, m, h, d or w, such as 3d"),
    "postfix_greet_wait": (POSTFIX_TIME, "is no time: write a number and s, m, h, d or w, such as 2s"),
    "postfix_milters": (r"(inet|unix):[^\s,]+", "is no milter: write inet:host:port or unix:path"),
    "fetch_and_route_interval": (SYSTEMD_TIME, "is no time to wait: write one as systemd has it, such as 5min"),
    "fail2ban_find_time": (r"([0-9]+[smhdw]? ?)+", "is no time: write a number and s, m, h, d or w, such as 10m"),
    "fail2ban_ban_time": (r"([0-9]+[smhdw]? ?)+|-1", "is no time: write a number and s, m, h, d or w, such as 1h"),
    "fail2ban_never_ban": (r"[0-9a-zA-Z.:/_-]+", "is no address, network or host name"),
    "dns_records_adopt": (r"([\w*-]{1,63}\.)+[\w-]{1,63}\.?", "is no name in DNS: write it in full"),
    "dns_records_block_lists": (r"([\w-]{1,63}\.)+[\w-]{1,63}", "is no list: write its name in DNS"),
    "dns_records_resolver": (r"|[0-9.]+|[0-9a-fA-F.]*:[0-9a-fA-F:.]+", "is no address: write one such as 192.0.2.53"),
    "unattended_upgrades_reboot_time": (r"([01][0-9]|2[0-3]):[0-5][0-9]|now", "is no time of day: write one as 04:00"),
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
NUMBERS = {
    "postfix_message_size_limit": (100_000, 2**31 - 1),
    "postfix_client_rate_limit": (0, 10**6),
    "postfix_dnsbl_threshold": (1, 1000),
    "dovecot_metrics_port": (0, 65535),
    "dovecot_quota_megabytes": (0, 10**9),
    "dovecot_routed_days": (1, 36500),
    "dovecot_reports_days": (1, 36500),
    "dovecot_connections_per_address": (1, 10**5),
    "fail2ban_tries": (1, 10**5),
    "fetch_and_route_attempts": (1, 10**5),
    "fetch_and_route_concurrency": (1, 100),
    "mta_sts_max_age": (86400, 31557600),
    "nftables_ports": (1, 65535),
    "odoo_mail_timeout": (1, 3600),
    "preflight_timeout": (1, 3600),
    "nftables_extra_ports": (1, 65535),
    "nftables_ssh_ports": (1, 65535),
    "rspamd_reject_score": (1, 10**6),
    "dns_records_dkim_days": (0, 36500),
    "dns_records_dkim_retired_days": (0, 36500),
    "dns_records_tlsa_days": (0, 36500),
    "dns_records_ttl": (1, 604800),
    "dns_records_readback_timeout": (0, 86400),
}


def _types(option: Mapping[str, Any]) -> tuple[str, str]:
    return option.get("type", "str"), option.get("elements", "")


@cache
def specifications() -> dict[str, dict[str, Any]]:
    """The argument specification of each public variable of each role; not of dictionaries, which may hold secrets."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        options = yaml.safe_load(file.read_text())["argument_specs"]["main"]["options"]
        found |= {name: option for name, option in options.items() if not {"raw", "dict"} & {*_types(option)}}
    return found


def _is(kind: str, value: object) -> bool:
    """Whether Ansible takes a value for one of that type."""
    match kind:
        case "bool":
            return isinstance(value, bool) or str(value).lower() in BOOLEANS
        case "int" | "float":
            try:
                number = float(value) if isinstance(value, int | float | str) else None
            except ValueError:
                return False
            return number is not None and not isinstance(value, bool) and (kind == "float" or number.is_integer())
        case "list":
            return isinstance(value, Sequence)
        case "str":
            return isinstance(value, str | int | float)
    return True


WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "list": "a list",
    "str": "text",
}


def _value_problems(name: str, value: object, option: Mapping[str, Any], kind: str) -> Iterator[str]:
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    if not _is(kind, value):
        yield f"{shown} is not {WORDS[kind]}: write {WORDS[kind]}"
        return
    if kind == "list" and isinstance(value, Sequence):
        entries = value.split(",") if isinstance(value, str) else value
        for entry in entries:
            yield from _value_problems(name, entry, {}, option.get("elements", "any"))
        return
    choices = option.get("choices")
    if choices and value not in choices:
        yield f"{shown} cannot be: use one of {', '.join(map(str, choices))}"
    if name in SHAPES and not re.fullmatch(SHAPES[name][0], str(value).strip()):
        yield f"{shown} {SHAPES[name][1]}"
    if name in NUMBERS:
        low, high = NUMBERS[name]
        if not _is("float", value) or not low <= float(str(value)) <= high:
            yield f"{shown} cannot be: use a number from {low} to {high}"


def setting_problems(hosts: object) -> list[str]:
    """Problems of what the inventory sets for roles, one line each, for all hosts once; takes their hostvars.

    Takes anything, raises nothing. What is left to its default is not looked at.
    """
    found: dict[str, None] = {}
    for host in hosts if isinstance(hosts, Sequence) else list(hosts) if hasattr(hosts, "__iter__") else ():
        if not isinstance(host, Mapping):
            continue
        for name, option in specifications().items():
            if name in host and not ELSEWHERE.fullmatch(name):
                lines = _value_problems(name, host[name], option, option.get("type", "str"))
                found |= {f"{name}: {line}": None for line in lines}
        found |= dict.fromkeys(_queue_problems(host))
    return list(found)


def _queue_problems(host: Mapping[str, Any]) -> Iterator[str]:
    """Whether a DKIM key is still in DNS when the last mail that it signed leaves the queue."""
    names = ("postfix_queue_lifetime", "dns_records_dkim_retired_days")
    lifetime, days = (str(host.get(name, specifications()[name]["default"])).strip() for name in names)
    if re.fullmatch(POSTFIX_TIME, lifetime) and _is("float", days):
        seconds = int(lifetime.rstrip("smhdw")) * SECONDS[lifetime[-1] if lifetime[-1] in SECONDS else "d"]
        if float(days) * SECONDS["d"] <= seconds:
            yield (
                f"dns_records_dkim_retired_days: {days} is no longer than mail may wait in the queue "
                f"(postfix_queue_lifetime: {lifetime}): use {seconds // SECONDS['d'] + 2} or more"
            )


class FilterModule:
    """Ansible's door to the function above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"setting_problems": setting_problems}
