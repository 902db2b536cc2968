"""Nothing in the daemons' journals is a warning or an error that has no explanation here.

It judges what has been logged so far, whatever ran before: after converge next to nothing, after all tests what they
provoked.  molecule runs it last.  What test_chaos.py provokes is up to chance, and is left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.story import ROOT, Hosts

pytestmark = pytest.mark.hosts

HOSTS = Hosts(Path(os.environ.get("MAILROOM_INVENTORY", ROOT / "inventory" / "demo")))
# Not fetch-and-route: what it says while others are away is what it is there for, and its own tests judge it.
UNITS = ("certbot", "dovecot", "fail2ban", "mailroom-mta-sts", "*nftables", "postfix*", "rspamd", "unbound")
WARNING = 4  # and above it in urgency, see syslog(3)

# rspamd writes to its standard error, which has no priorities, from "notice" on: these alone are no warnings.
RSPAMD_NOTICES = (
    "; rspamd_task_write_log: ",  # one for each message
    " is loading configuration, build id: ",
)

EXPLAINED = (
    # The first run of site.yml has Odoo try the connection before fetch-and-route has asked for its addresses: mail to
    # us would be put off until then (docs/decisions.md).
    "/fetch-and-route/recipients: No such file or directory",
    "/fetch-and-route/recipients lookup error for ",
    "/fetch-and-route/recipients, inline:{OK=OK} } lookup error for ",
    # fail2ban says so once, of a new host's list of bans.
    "New database created. Version '",
    # fail2ban calls every ban and its end a warning.
    "] Ban ",
    "] Unban ",
    "] Flush ticket(s) with nftables",
    # How Dovecot calls a reload, and a restart or stop by systemctl.
    "SIGHUP received - reloading configuration",
    "Killed with signal 15 (by pid=",
    "Shutting down logging for ",
    # rspamd's word for a process that was told to end as it began, before it listened for that: two changes in a row.
    "terminated abnormally with exit code 0 by signal: Terminated but NOT created core file",
    # rspamd says so of an answer of the resolver that takes 0.3 s, as on a busy machine.
    "; finalize_item: slow asynchronous rule: ",
    # Postfix compares the clock of the files with its own, which a virtual machine may have a moment apart.
    "warning: file system clock is 1 seconds ahead of local clock",
    "warning: resetting file time stamps - this hurts performance",
    # Tests stop or kill rspamd and Dovecot (test_faults.py): Postfix puts mail off, systemd starts them.
    "warning: connect to Milter service inet:127.0.0.1:11332: Connection refused",
    "warning: milter inet:127.0.0.1:11332: ",
    "rspamd.service: State 'stop-sigterm' timed out. Killing.",
    "rspamd.service: Failed with result 'timeout'",
    "rspamd_srv_request_handler: cannot write to server pipe: Broken pipe; command = heartbeat",
    "SASL: Connect to Dovecot auth socket '/run/dovecot/postfix-auth' failed: Connection refused",
    "fatal: no SASL authentication mechanisms",
    "warning: process /usr/lib/postfix/sbin/smtpd pid ",
    "warning: /usr/lib/postfix/sbin/smtpd: bad command startup -- throttling",
    "Main process exited, code=killed, status=9/KILL",
    "Failed with result 'signal'",
    "(anvil-auth-penalty) failed: ",
    "rspamd_control_default_worker_handler: short read of control command: ",
    # ... fill the disk of the mailboxes,
    "No space left on device",
    # ... restart Dovecot, some of whose processes end later than others,
    "imap-login: Error: read(anvil) failed: EOF",
    "/run/dovecot/stats-writer (pid=",
    # ... stop what tells Postfix how others are verified, and give others wrong keys and policies,
    "/run/mailroom-tls-policy/socket",
    "/run/mta-sts/socket",
    "policy table lookup error",
    "client TLS configuration problem",
    ": no TLSA records found",
    " does not match STS MX pattern for ",
    # ... let the authority refuse to renew (tests/acme), which is told by the failed service,
    "Failed to start certbot.service",
    "certbot.service: Failed with result 'exit-code'",
    # ... guess passwords, give Odoo a wrong one, or a login that there is not, and offer TLS that is too weak
    # (test_mail_host.py, test_verify_mail.py, test_odoo_remove.py, test_tls.py),
    "SASL PLAIN authentication failed: ",
    "SASL LOGIN authentication failed: (reason unavailable), sasl_username=prod",
    "SASL LOGIN authentication failed: (reason unavailable), sasl_username=removal",
    "warning: TLS library problem: error:",
    # ... open more connections than there may be, and guess names (test_attacks.py).
    "service(imap-login): client_limit (500) reached, client connections are being dropped",
    "warning: Recipient address rate limit exceeded: ",
)


def explained(message: str) -> bool:
    return any(each in message for each in EXPLAINED)


def chaos() -> list[tuple[int, float]]:
    """From when to when test_chaos.py had all things die, in microseconds; it says so in the journal."""
    found: list[tuple[int, float]] = []
    for line in HOSTS.ssh(HOSTS.mail, "journalctl --quiet --identifier=chaos --output=json").splitlines():
        entry = json.loads(line)
        when = int(entry["__REALTIME_TIMESTAMP"])
        if entry["MESSAGE"] == "begins":
            found.append((when, float("inf")))
        else:
            found[-1] = (found[-1][0], when)
    return found


def test_every_warning_and_error_in_the_journals_is_explained() -> None:
    units = " ".join(f"--unit='{unit}'" for unit in UNITS)
    entries = map(json.loads, HOSTS.ssh(HOSTS.mail, f"journalctl --output=json {units}").splitlines())
    surprises = set()
    seen = set()
    left_out = chaos()
    for entry in entries:
        unit, message = entry.get("_SYSTEMD_UNIT", ""), entry["MESSAGE"]
        text = message if isinstance(message, str) else bytes(message).decode(errors="replace")
        seen.add(unit)
        if unit == "rspamd.service":
            serious = not any(notice in text for notice in RSPAMD_NOTICES)
        else:
            serious = int(entry.get("PRIORITY", WARNING)) <= WARNING
        when = int(entry["__REALTIME_TIMESTAMP"])
        if serious and not explained(text) and not any(begin <= when <= end for begin, end in left_out):
            surprises.add(f"{unit}: {text}")
    assert {"dovecot.service", "fail2ban.service", "rspamd.service", "unbound.service"} <= seen
    assert not surprises, "\n".join(sorted(surprises))
