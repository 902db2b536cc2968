"""Who is never banned."""

from __future__ import annotations

from filter_plugins.bans import FilterModule, never_banned

LOOPBACK = ["127.0.0.0/8", "::1"]


def test_odoo_is_never_banned_by_whatever_name_it_has() -> None:
    urls = ["https://Odoo.example.com:8443/", "https://192.0.2.69", "https://[2001:db8::69]", "http://localhost:8069"]
    banned = never_banned([{"url": url} for url in urls], [], [{"ansible_host": "192.0.2.70"}, {}], [])
    assert banned == ["127.0.0.0/8", "192.0.2.69", "192.0.2.70", "2001:db8::69", "::1", "odoo.example.com"]


def test_the_mail_hosts_are_never_banned() -> None:
    hosts = [{"mail_host_ipv4": "192.0.2.25", "mail_host_ipv6": "2001:db8::25"}, {"mail_host_ipv4": "192.0.2.26"}]
    assert never_banned([], hosts, [], []) == ["127.0.0.0/8", "192.0.2.25", "192.0.2.26", "2001:db8::25", "::1"]


def test_others_are_named_once_and_nobody_is_nobody() -> None:
    assert never_banned([], [], [], ["", "192.0.2.7", "192.0.2.7"]) == ["127.0.0.0/8", "192.0.2.7", "::1"]
    assert never_banned([], [{"mail_host_ipv6": None}], [], []) == LOOPBACK


def test_the_filter_has_a_name() -> None:
    assert list(FilterModule().filters()) == ["never_banned"]
