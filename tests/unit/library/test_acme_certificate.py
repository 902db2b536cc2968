"""Certbot is asked only when it has to be, and what it has failed of is told in one line."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args

from library import acme_certificate
from library.acme_certificate import Certificate, problem, run

if TYPE_CHECKING:
    from module_utils import acme_facts
    from module_utils.acme_facts import NEXT_KEY, make_next_key
else:  # the same module that the module under test has
    from ansible.module_utils import acme_facts
    from ansible.module_utils.acme_facts import NEXT_KEY, make_next_key

# What certbot 2.1 and 4.0 print, with what pebble and Let's Encrypt report.
FAILED = """\
Saving debug log to /var/log/letsencrypt/letsencrypt.log
Account registered.
Requesting a certificate for mail.example.com and nowhere.example.com

Certbot failed to authenticate some domains (authenticator: standalone). The CA reported these problems:
  Domain: {domain}
  Type:   {kind}
  Detail: {detail}

Hint: The Certificate Authority failed to download the challenge files from the temporary standalone webserver.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile for more details.
"""
ERROR = """\
Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for mail.example.com
An unexpected error occurred:
{error}
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile for more details.
"""


@pytest.mark.parametrize(
    ("kind", "detail", "remedy"),
    [
        ("dns", "DNS problem: NXDOMAIN looking up A for mail.example.com", "publish the address records"),
        ("connection", "lookup mail.example.com on 192.0.2.54:53: no such host", "publish the address records"),
        ("connection", "192.0.2.25: Fetching http://mail.example.com/: Timeout", "let everybody reach port 80"),
        ("unauthorized", "192.0.2.80: Invalid response from http://mail.example.com/: 404", "let the name's address"),
        ("unauthorized", 'Incorrect TXT record "x" found at _acme-challenge', "raise acme_propagation_seconds"),
        ("caa", "CAA record for mail.example.com prevents issuance", "add a CAA record that allows this authority"),
    ],
)
def test_what_the_authority_reports_is_one_line_with_a_remedy(kind: str, detail: str, remedy: str) -> None:
    output = FAILED.format(domain="mail.example.com", kind=kind, detail=detail)
    line = problem(output)
    assert line.startswith(f"no certificate was issued: mail.example.com: {detail} ({kind}): {remedy}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            "Error creating new order :: too many certificates (5) already issued for this exact set of domains in the "
            "last 168 hours: mail.example.com, retry after 2026-12-01T00:00:00Z",
            "wait as long as it says",
        ),
        ("Could not bind TCP port 80 because it is already in use by another process.", "stop what has taken port 80"),
        (
            "requests.exceptions.SSLError: Max retries exceeded with url: /dir (Caused by SSLError("
            "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')))",
            "give the authority that the directory's certificate is from as certificate_ca_file",
        ),
        (
            "requests.exceptions.ConnectionError: Max retries exceeded with url: /dir (Caused by NameResolutionError("
            "\"Failed to resolve 'acme.example' ([Errno -2] Name or service not known)\"))",
            "see that this host reaches acme_directory",
        ),
        ("ValueError: Requesting acme.example/dir: Connection refused", "see that this host reaches acme_directory"),
        ("Account https://acme.example/1 not found.", "remove /etc/letsencrypt/accounts"),
        (
            "Encountered error adding TXT record: The peer didn't like the signature we sent",
            "let the TSIG key write TXT records",
        ),
        ("Received response from server: REFUSED", "let the TSIG key write TXT records"),
        ("Encountered error when making query: The DNS operation timed out.", "see that this host reaches"),
        ("Something new.", "see /var/log/letsencrypt/letsencrypt.log"),
    ],
)
def test_what_goes_wrong_elsewhere_is_one_line_with_a_remedy(error: str, remedy: str) -> None:
    assert problem(ERROR.format(error=error)).startswith(f"no certificate was issued: {error}: {remedy}")


def test_each_name_that_failed_is_told() -> None:
    blocks = "\n\n".join(
        f"  Domain: {name}.example.com\n  Type:   dns\n  Detail: NXDOMAIN for {name}" for name in ("a", "b")
    )
    line = problem(f"reported these problems:\n{blocks}\n\nHint: see\n\nSome challenges have failed.\n")
    told = "a.example.com: NXDOMAIN for a (dns); b.example.com: NXDOMAIN for b (dns)"
    assert line.startswith(f"no certificate was issued: {told}: publish")


def test_nothing_said() -> None:
    assert "certbot said nothing" in problem("")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """One that was issued as the options say, and installed."""
    config = tmp_path / "certbot.ini"
    config.write_text("domains = mail.example.com\n")
    certificate = Certificate(config, tmp_path)
    for file, text in (
        (certificate.renewal, "[renewalparams]\n"),
        (certificate.live / "privkey.pem", "key\n"),
        (certificate.live / "fullchain.pem", "chain\n"),
        (certificate.pair, "key\nchain\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    certificate.remember()
    return certificate


def test_a_certificate_that_is_there_is_not_asked_for(certificate: Certificate) -> None:
    assert not certificate.is_due()
    assert certificate.is_installed()


def test_a_host_without_one_asks(certificate: Certificate) -> None:
    certificate.renewal.unlink()
    assert certificate.is_due()
    assert certificate.command()[-1] == "--keep-until-expiring"


def test_another_way_of_asking_is_a_new_certificate(certificate: Certificate) -> None:
    certificate.config.write_text("domains = mail.example.com, imap.example.com\n")
    assert certificate.is_due()
    assert certificate.command()[-1] == "--force-renewal"


def test_a_run_that_was_cut_off_after_the_issue_asks_for_no_second_one(certificate: Certificate) -> None:
    certificate.asked.unlink()
    assert certificate.is_due()
    assert certificate.command()[-1] == "--keep-until-expiring"


def test_a_hook_that_failed_is_seen(certificate: Certificate) -> None:
    (certificate.live / "fullchain.pem").write_text("renewed\n")
    assert not certificate.is_due()
    assert not certificate.is_installed()
    certificate.pair.unlink()
    assert not certificate.is_installed()


def test_a_command_that_is_not_there_or_fails() -> None:
    assert run(["/nowhere/certbot"]) == (127, "/nowhere/certbot is not installed")
    assert run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\nerr\n")


class Ran:
    """Commands instead of real ones."""

    def __init__(self, certificate: Certificate, answers: dict[str, tuple[int, str]]) -> None:
        self.certificate, self.answers, self.commands = certificate, answers, []  # type: ignore[var-annotated]

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.commands.append(command[:2])
        if command[1] == "certonly" and self.answers.get("certonly", (0, ""))[0] == 0:
            (self.certificate.live / "fullchain.pem").write_text("new\n")
            self.certificate.renewal.write_text("[renewalparams]\n")
        if command[1] == "install":
            self.certificate.pair.write_text("key\nnew\n")
        return self.answers.get(command[1], (0, ""))


def module(
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ran: Ran,
    **arguments: object,
) -> dict[str, Any]:
    monkeypatch.setattr(acme_certificate, "run", ran)
    monkeypatch.setattr(acme_certificate, "Certificate", lambda _config: certificate)
    with patch_module_args(arguments), pytest.raises(SystemExit):
        acme_certificate.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(
    ("due", "check", "answers", "commands", "expected"),
    [
        (False, False, {}, [], {"changed": True, "issued": False}),  # the next key is made
        (True, True, {}, [], {"changed": True, "issued": True}),
        (
            True,
            False,
            {},
            [["certbot", "certonly"], [acme_certificate.PROGRAM, "install"]],
            {"changed": True, "issued": True},
        ),
        (
            True,
            False,
            {"certonly": (1, ERROR.format(error="too many"))},
            [["certbot", "certonly"]],
            {"failed": True},
        ),
        (
            True,
            False,
            {"install": (1, "port 25 shows\nport 465 shows\n")},
            [["certbot", "certonly"], [acme_certificate.PROGRAM, "install"]],
            {"failed": True, "changed": True, "msg": "port 25 shows; port 465 shows"},
        ),
    ],
)
def test_as_a_module(
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    due: bool,
    check: bool,
    answers: dict[str, tuple[int, str]],
    commands: list[list[str]],
    expected: dict[str, object],
) -> None:
    if due:
        certificate.renewal.unlink()
        certificate.asked.unlink()
    ran = Ran(certificate, answers)
    answer = module(certificate, monkeypatch, capsys, ran, _ansible_check_mode=check)
    assert ran.commands == commands
    assert answer.items() >= expected.items()
    facts = answer.get("ansible_facts", {})
    assert facts.get("acme_certificate", True) == (not due or not check)
    assert (certificate.root / NEXT_KEY).exists() == (not check and "failed" not in expected)
    if not due:
        assert module(certificate, monkeypatch, capsys, ran)["changed"] is False
    failed = "certonly" in answers
    assert certificate.is_due() == (due and (check or failed))


@pytest.mark.parametrize("check", [False, True])
def test_it_is_forgotten(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check: bool
) -> None:
    ran = Ran(certificate, {})
    answer = module(certificate, monkeypatch, capsys, ran, state="absent", _ansible_check_mode=check)
    assert answer["changed"] is True
    assert ran.commands == ([] if check else [["certbot", "delete"]])
    assert certificate.asked.exists() == check


def test_what_certbot_keeps_is_told(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(certificate, {"delete": (1, "no\n")})
    assert module(certificate, monkeypatch, capsys, ran, state="absent")["msg"] == "certbot keeps the certificate: no"


class Killed(BaseException):
    """The module is killed."""


class Authority:
    """Certbot, which makes the next certificate from the key it has, and daemons that show what they last read.

    left: after so many steps the module is killed.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.certificate = Certificate(root / "certbot.ini", root)
        self.left, self.issued, self.refuses = 1000, 0, False
        self.real = acme_facts._replace
        monkeypatch.setattr(acme_facts, "_replace", self.replace)
        monkeypatch.setattr(acme_certificate, "run", self)
        monkeypatch.setattr(acme_certificate, "Certificate", lambda _config: self.certificate)
        for directory in (self.certificate.live, self.certificate.renewal.parent, self.certificate.pair.parent):
            directory.mkdir(parents=True)
        self.certificate.config.write_text("domains = mail.example.com\n")
        self.certificate.renewal.write_text("[renewalparams]\n")
        self.certificate.remember()
        make_next_key(root)
        (root / NEXT_KEY).replace(self.certificate.live / "privkey.pem")
        self.renew()
        make_next_key(root)

    @property
    def told(self) -> list[str]:
        """The keys that DNS is to tell of."""
        told: Any = acme_facts.acme_facts(self.certificate.root)["tls_keys"]
        return list(told)

    def step(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1

    def replace(self, file: Path, content: bytes) -> None:
        self.step()
        self.real(file, content)
        self.step()

    def renew(self) -> None:
        """What certbot's timer does, too."""
        live, chain = self.certificate.live / "privkey.pem", self.certificate.live / "fullchain.pem"
        new = ["openssl", "req", "-x509", "-key", str(live), "-subj", "/CN=mail", "-out", str(chain)]
        subprocess.run(new, check=True, capture_output=True)
        self.issued += 1
        self.step()
        self.install()

    def install(self) -> None:
        pair = b"".join((self.certificate.live / name).read_bytes() for name in ("privkey.pem", "fullchain.pem"))
        self.certificate.pair.write_bytes(pair)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate.pair)
        self.step()
        self.reload()

    def reload(self) -> None:
        self.shown = acme_facts._digest(self.certificate.pair)

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.step()
        if command[1] == "certonly":
            if self.refuses:
                return 1, ERROR.format(error="too many certificates")
            assert command[-1] == "--force-renewal"
            self.renew()
        elif command[1] == "install":
            self.install()
        else:
            self.reload()
        self.step()
        return 0, ""


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """A host with a certificate and the next key."""
    return Authority(tmp_path, monkeypatch)


def play(capsys: pytest.CaptureFixture[str], **arguments: object) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        acme_certificate.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_next_key_takes_the_place_of_the_one_in_use(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    _, following = authority.told
    assert play(capsys, next_key=True, _ansible_check_mode=True)["issued"]
    assert authority.issued == 1
    answer = play(capsys, next_key=True)
    assert answer["changed"]
    assert answer["issued"]
    used, another = answer["ansible_facts"]["tls_keys"]
    assert used == following == authority.shown
    assert another != following
    assert not play(capsys)["changed"]
    assert authority.issued == 2


def test_an_authority_that_refuses_leaves_the_key_as_it_was(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    before = authority.told
    authority.refuses = True
    assert play(capsys, next_key=True)["msg"].startswith("no certificate was issued: too many certificates")
    authority.refuses = False
    authority.renew()  # by its timer
    assert authority.shown == before[0]
    assert play(capsys)["changed"]
    assert authority.told == before


@pytest.mark.parametrize(("renews", "again"), [(False, True), (True, False)])
def test_a_change_of_keys_is_cut_off_anywhere(
    authority: Authority, capsys: pytest.CaptureFixture[str], renews: bool, again: bool
) -> None:
    """Whatever the host shows then, and after certbot's timer, DNS tells of it; the next run puts all right."""
    steps = 0
    while True:
        told = authority.told
        authority.left = steps
        with contextlib.suppress(Killed):
            play(capsys, next_key=True)
            break
        authority.left = 1000
        assert authority.shown in authority.told
        assert authority.shown in told[:2]
        if renews:
            authority.renew()
            assert authority.shown in authority.told
            assert authority.shown in told[:2]
        play(capsys, next_key=again)
        assert authority.told[0] == authority.shown
        assert len(set(authority.told)) == len(authority.told) == 2
        assert not play(capsys)["changed"]
        steps += 1
    assert steps > 8
