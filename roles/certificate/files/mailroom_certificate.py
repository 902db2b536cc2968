#!/usr/bin/python3
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mail host's certificate: is it the one that Postfix and Dovecot show, and how a renewed one gets there.

mailroom-certificate check    compares what the ports show with the file; exit 1 and a line for each difference
mailroom-certificate wait     the same, and gives the daemons, which have just been reloaded, some seconds for it
mailroom-certificate install  takes what certbot has renewed, has it shown without cutting a connection off, and checks
"""

from __future__ import annotations

import contextlib
import os
import re
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PAIR = Path("/etc/mailroom/tls/pair.pem")  # the key, then the certificate with its intermediates
LINEAGE = Path("/etc/letsencrypt/live/mailroom")
PORTS = {25: "smtp", 465: "tls", 587: "smtp", 993: "tls"}
POLICY = 443, "mailroom-mta-sts.service"  # on a host that serves the MTA-STS policy
# Not postfix-mta-sts-resolver.service: it would be restarted, and mail that leaves be put off meanwhile.
SHOWN_BY = ("postfix[.@]*service", "dovecot*.service", "mailroom-mta-sts*.service")
RELOAD = ("systemctl", "try-reload-or-restart", *SHOWN_BY)
JOURNALS = "journalctl -u 'postfix*' -u dovecot -u mailroom-mta-sts"
DAYS = 7  # certbot renews weeks before the end, and a run of site.yml 30 days before
PATIENCE = 10.0  # seconds a daemon has to take up what it was told
TIMEOUT = 10.0  # seconds a port has to answer
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def first_certificate(pem: str) -> bytes:
    """The first certificate in a text, in DER form. Raises ValueError when there is none."""
    found = CERTIFICATE.search(pem)
    if not found:
        raise ValueError("holds no certificate")
    return ssl.PEM_cert_to_DER_cert(found[0])


def shown(port: int, protocol: str) -> bytes:
    """The certificate that a port of this host shows, in DER form. Raises OSError, which SMTP's errors are, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is compared with the file, byte for byte
    context.verify_mode = ssl.CERT_NONE
    with contextlib.ExitStack() as stack:
        session: socket.socket | None
        if protocol == "tls":
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            session = stack.enter_context(context.wrap_socket(connection))
        else:
            smtp = stack.enter_context(smtplib.SMTP("127.0.0.1", port, local_hostname="localhost", timeout=TIMEOUT))
            smtp.starttls(context=context)
            session = smtp.sock
        return (session.getpeercert(binary_form=True) if isinstance(session, ssl.SSLSocket) else None) or b""


def difference(port: int, protocol: str, wanted: bytes, deadline: float) -> str:
    """What is wrong with a port, "" when nothing; a difference may go away until the deadline (time.monotonic)."""
    while True:
        try:
            if shown(port, protocol) == wanted:
                return ""
            problem = f"port {port} shows another certificate than {PAIR}: {' '.join(RELOAD)}"
        except OSError as error:
            problem = f"port {port} shows no certificate ({error}): see {JOURNALS}"
        if time.monotonic() >= deadline:
            return problem
        time.sleep(0.1)


def end_problem(pem: str) -> tuple[str, str]:
    """When the first certificate of a text ends, in words, and what is wrong with that ("": nothing)."""
    command = ["openssl", "x509", "-noout", "-enddate", "-checkend", str(DAYS * 86400)]
    done = subprocess.run(command, input=pem, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    end = done.stdout.partition("=")[2].partition("\n")[0]
    return end, f"{PAIR} ends on {end}: have it renewed, see journalctl -u certbot" if done.returncode else ""


def ports_in_use() -> dict[int, str]:
    """The ports that show the certificate, with how TLS begins there."""
    port, unit = POLICY
    command = ["systemctl", "is-active", "--quiet", unit]
    serves = subprocess.run(command, check=False).returncode == 0  # noqa: S603 - fixed
    return {**PORTS, **({port: "tls"} if serves else {})}


def check(ports: Mapping[int, str] | None = None, patience: float = 0) -> list[str]:
    """What is wrong with the certificate that is shown, one line each. Raises OSError or ValueError for the file."""
    ports = ports_in_use() if ports is None else ports
    pem = PAIR.read_text(encoding="ascii")
    wanted, deadline = first_certificate(pem), time.monotonic() + patience
    found = [difference(port, protocol, wanted, deadline) for port, protocol in ports.items()]
    end, problem = end_problem(pem)
    problems = [line for line in (*found, problem) if line]
    if not problems:
        print(f"ports {', '.join(map(str, ports))} show the certificate of {PAIR}, which ends on {end}")
    return problems


def wait() -> list[str]:
    """The same, as soon as nothing is wrong, or when patience ends."""
    return check(patience=PATIENCE)


def install() -> list[str]:
    """Put what certbot has into the daemons' file, in one instant, tell them, and check.

    One file, so that no process ever meets a key and a certificate that do not belong together.
    """
    pair = "".join((LINEAGE / name).read_text(encoding="ascii") for name in ("privkey.pem", "fullchain.pem"))
    temporary = PAIR.with_name(f".{PAIR.name}.renewed")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(pair)
        file.flush()
        os.fsync(file.fileno())
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(temporary)  # fails unless they belong together
    temporary.replace(PAIR)
    subprocess.run(RELOAD, check=True)  # noqa: S603 - fixed words
    return wait()


COMMANDS: Mapping[str, Callable[[], list[str]]] = {"check": check, "wait": wait, "install": install}


def main(arguments: list[str]) -> int:
    """Run one command. Exit code: 0 when all is well, 1 when something is wrong, 2 for a wrong command."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        problems = COMMANDS[arguments[0]]()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        problems = [f"mailroom-certificate {arguments[0]}: {error}: run site.yml"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
