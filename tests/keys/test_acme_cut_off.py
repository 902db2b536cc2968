"""All that asks for a certificate dies on the mail host, at each point of an order; the next run makes that good.

The authority is real (pebble), certbot too. By hand, see CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.acme import test_acme as acme
from tests.rotation import Strangers, Traffic
from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
LIVE, ARCHIVE, TLS = "/etc/letsencrypt/live/mailroom", "/etc/letsencrypt/archive/mailroom", "/etc/mailroom/tls"
POINTS = {
    "the next key was taken": f"cmp -s {LIVE}/privkey.pem {TLS}/next.key",
    "the authority is asked": "ss -Hltn sport = 80 | grep -q .",
    "certbot keeps the certificate": f"[ -s {ARCHIVE}/cert$next.pem ]",
    "the certificate is to be installed": f"[ $(readlink {LIVE}/fullchain.pem) != $before ]",
    "the daemons are to be told": f"! cmp -s {TLS}/pair.pem /run/pair.before",
}
"""What has just happened when all dies: a command that succeeds."""
EVERYTHING = "^/usr/bin/python3$|[c]ertbot|[m]ailroom-certificate"
"""Ansible's module, which comes by way of its standard input, and what it has started."""

root = acme.root  # the authority
acme.QUICK += " --setenv=PEBBLE_AUTHZREUSE=0"  # it looks at the host each time, not every other time


@pytest.fixture(scope="module")
def issued(root: Path) -> dict[str, object]:
    """The variables by which the mail host has a certificate of the authority."""
    acme.site(root)
    HOSTS.tls.load_verify_locations(root)
    return acme.ACME | {"certificate_ca_file": str(root), "dns_records_tlsa_days": 0}


def rotate(variables: dict[str, object]) -> None:
    HOSTS.site("-e", json.dumps(variables), playbook="playbooks/rotate_keys.yml")


def let_a_year_pass() -> None:
    """The key in use was seen long ago, and the next one is known to all."""
    used, following = (acme.digest(file).split()[-1] for file in ("pair.pem", "next.key"))
    known = {"used": used, "since": 0, "following": following, "shown": 0}
    content = json.dumps({"version": 1, "hosts": {HOSTS.mail.name: known}})
    (HOSTS.secrets / "ca" / "keys.json").write_text(content, encoding="utf-8")


def kill_when(point: str) -> None:
    """Have everything die on the mail host at a point."""
    before = HOSTS.ssh(HOSTS.mail, f"cp {TLS}/pair.pem /run/pair.before && readlink {LIVE}/fullchain.pem").strip()
    number = int(re.findall(r"\d+", before)[-1]) + 1
    kill = f"pkill -KILL -f '{EVERYTHING}'; touch /run/killed"
    script = f"next={number} before={before}; until {POINTS[point]}; do :; done; {kill}"
    HOSTS.ssh(HOSTS.mail, f"rm -f /run/killed; systemd-run --quiet --unit=killer --collect sh -c {shlex.quote(script)}")


@pytest.mark.parametrize("point", POINTS)
def test_an_order_that_is_cut_off_is_made_good(issued: dict[str, object], root: Path, point: str) -> None:
    let_a_year_pass()
    following = acme.digest("next.key")
    traffic, strangers = Traffic(HOSTS), Strangers(HOSTS)
    with HOSTS.names(), traffic.flowing(), strangers.connecting():
        kill_when(point)
        try:
            with pytest.raises(subprocess.CalledProcessError):
                rotate(issued)
        finally:
            HOSTS.ssh(HOSTS.mail, "systemctl stop killer 2>/dev/null || true; ls /run/killed")
        rotate(issued)
    traffic.wait()
    assert traffic.faults == []
    assert len(traffic.sent) > 4
    assert strangers.faults == []
    assert strangers.verified > 4
    (serial,) = acme.serials(root)
    assert acme.digest("pair.pem") == following
    told = sorted([following, acme.digest("next.key")])
    assert acme.in_dns(f"_25._tcp.{HOSTS.mail.name}", "TLSA") == told
    assert HOSTS.ssh(HOSTS.mail, f"ls {TLS}") == "next.key\npair.pem\n"
    HOSTS.ssh(HOSTS.mail, "certbot renew --force-renewal --no-random-sleep-on-renew --quiet")
    assert acme.serials(root).isdisjoint({serial})
    assert acme.digest("pair.pem") == following
