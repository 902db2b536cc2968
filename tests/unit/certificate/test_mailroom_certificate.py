"""What compares the host's certificate with what its daemons show, against servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

import mailroom_certificate
import pytest
import yaml

from lookup_plugins.private_certificate import private_certificate

NOW = datetime.now(UTC)
ROLE = Path(__file__).parents[3] / "roles" / "certificate"


def pair(directory: Path, name: str, now: datetime = NOW) -> str:
    made = private_certificate(directory / name, ["mail.example.com"], 397, now)
    return made["key"] + made["chain"]


@contextlib.contextmanager
def server(pem: str, directory: Path, protocol: str) -> Iterator[int]:
    """Shows a certificate to whoever comes, after STARTTLS when it speaks SMTP; yields its port."""
    file = directory / "served.pem"
    file.write_text(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                if protocol == "smtp":
                    connection.sendall(b"220 mail.example.com ESMTP\r\n")
                    connection.recv(100)
                    connection.sendall(b"250-mail.example.com\r\n250 STARTTLS\r\n")
                    connection.recv(100)
                    connection.sendall(b"220 go ahead\r\n")
                with context.wrap_socket(connection, server_side=True) as session:
                    while said := session.recv(100):
                        session.sendall(b"221 bye\r\n" if said.startswith(b"QUIT") else b"250 fine\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The daemons' file, here."""
    file = tmp_path / "pair.pem"
    file.write_text(pair(tmp_path, "own"))
    monkeypatch.setattr(mailroom_certificate, "PAIR", file)
    return file


@pytest.mark.parametrize("protocol", ["smtp", "tls"])
def test_a_port_that_shows_the_file_is_fine(
    file: Path, tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(file.read_text(), tmp_path, protocol) as port:
        assert mailroom_certificate.check({port: protocol}, 0) == []
    assert f"ports {port} show the certificate of {file}, which ends on " in capsys.readouterr().out


@pytest.mark.parametrize("protocol", ["smtp", "tls"])
def test_a_port_that_shows_another_one_is_named(file: Path, tmp_path: Path, protocol: str) -> None:
    with server(pair(tmp_path, "other"), tmp_path, protocol) as port:
        assert mailroom_certificate.check({port: protocol}, 0) == [
            f"port {port} shows another certificate than {file}: "
            "systemctl try-reload-or-restart postfix[.@]*service dovecot*.service mailroom-mta-sts*.service"
        ]


@pytest.mark.parametrize("serves", [True, False])
def test_the_port_of_the_policy_counts_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\nexit {0 if serves else 3}\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert (443 in mailroom_certificate.ports_in_use()) == serves


def test_a_port_where_nobody_answers_is_named(file: Path) -> None:
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (line,) = mailroom_certificate.check({port: "tls"}, 0)
    assert file.exists()
    assert line.startswith(f"port {port} shows no certificate ([Errno 111] ")


def test_a_daemon_has_time_to_take_it_up(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter([b"the old one", mailroom_certificate.first_certificate(file.read_text())])
    monkeypatch.setattr(mailroom_certificate, "shown", lambda _port, _protocol: next(shown))
    assert tmp_path.exists()
    assert mailroom_certificate.check({993: "tls"}, 60) == []


def test_a_certificate_that_ends_soon_is_told(file: Path, tmp_path: Path) -> None:
    file.write_text(pair(tmp_path, "old", NOW - timedelta(days=391)))
    with server(file.read_text(), tmp_path, "tls") as port:
        (line,) = mailroom_certificate.check({port: "tls"}, 0)
    assert line.startswith(f"{file} ends on ")
    assert line.endswith(": have it renewed, see journalctl -u certbot")


@pytest.fixture
def lineage(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What certbot has renewed; the daemons are reloaded when told."""
    assert file.exists()
    lineage = tmp_path / "live"
    lineage.mkdir()
    made = private_certificate(tmp_path / "issued", ["mail.example.com"], 397, NOW)
    (lineage / "privkey.pem").write_text(made["key"])
    (lineage / "fullchain.pem").write_text(made["chain"])
    monkeypatch.setattr(mailroom_certificate, "LINEAGE", lineage)
    monkeypatch.setattr(mailroom_certificate, "RELOAD", ("true",))
    monkeypatch.setattr(mailroom_certificate, "wait", lambda: ["as checked"])
    return lineage


def test_what_certbot_renewed_is_installed_in_one_instant(file: Path, lineage: Path) -> None:
    file.with_name(".pair.pem.renewed").write_text("what a crash left behind")
    before = file.stat().st_ino
    assert mailroom_certificate.install() == ["as checked"]
    assert file.read_text() == "".join((lineage / name).read_text() for name in ("privkey.pem", "fullchain.pem"))
    assert file.stat().st_ino != before
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.with_name(".pair.pem.renewed").exists()


def test_a_key_of_another_certificate_is_not_installed(
    file: Path, lineage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_text()
    (lineage / "privkey.pem").write_text(before.partition("-----BEGIN CERT")[0])
    assert mailroom_certificate.main(["install"]) == 1
    assert "KEY_VALUES_MISMATCH" in capsys.readouterr().err
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "spoil", "code", "said"),
    [
        ([], None, 2, "mailroom-certificate check "),
        (["renew"], None, 2, "mailroom-certificate check "),
        (["check"], lambda file: file.unlink(), 1, "No such file"),
        (["check"], lambda file: file.write_text("nothing"), 1, "holds no certificate: run site.yml"),
    ],
)
def test_a_person_is_told_what_is_wrong(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    spoil: Callable[[Path], object] | None,
    code: int,
    said: str,
) -> None:
    if spoil:
        spoil(file)
    assert mailroom_certificate.main(arguments) == code
    assert said in capsys.readouterr().err


def test_those_who_show_it_are_told_and_nobody_else() -> None:
    """What finds others' policies would be restarted, since it cannot be reloaded."""
    told = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))["__certificate_shown_by"].split()
    units = {f"{name}.service" for name in ("postfix", "postfix@-", "dovecot", "mailroom-mta-sts")}
    others = {"postfix-mta-sts-resolver.service", "mailroom-tls-policy.service"}
    assert tuple(told) == mailroom_certificate.SHOWN_BY
    assert {unit for unit in units | others if any(fnmatch(unit, pattern) for pattern in told)} == units
