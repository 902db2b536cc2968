"""Odoo sends by OAuth at Gmail and at Microsoft 365: its own modules, our settings, and tests/oauth_provider.py.

A copy of the database that nobody has used sends by way of this machine, which Odoo's host takes for the providers.
CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import http.client
import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lookup_plugins.private_certificate import private_certificate
from tests.oauth_provider import NAMES, Provider, endpoint, served
from tests.story import ROOT, WAIT, Hosts, Odoo

pytestmark = pytest.mark.hosts

DEMO = Hosts()
NAME = "oauth"
GATEWAY = "10.77.0.1"  # of the hosts' network: this machine
LOGIN = "odoo@example.com"
SECRETS = ("hush-hush", "granted-once", "granted-again", "never-granted")
SERVICES = [("gmail", "google_gmail", "gmail"), ("microsoft365", "microsoft_outlook", "outlook")]


def answers() -> bool:
    """Whether Odoo does; nginx says 502 until then."""
    with contextlib.closing(http.client.HTTPSConnection(DEMO.odoo.address, context=DEMO.tls, timeout=WAIT)) as session:
        session.request("GET", "/web/login")
        return session.getresponse().status < 500


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """The copy; returns the major version of its Odoo."""
    postgres = "cd / && runuser -u postgres --"
    DEMO.ssh(DEMO.odoo, f"{postgres} createdb --owner odoo --template pristine {NAME}")
    try:
        # Odoo's library for web requests has read at its start which authorities are trusted: ours may be newer.
        DEMO.ssh(DEMO.odoo, "systemctl restart odoo")
        deadline = time.monotonic() + WAIT
        while not answers():
            assert time.monotonic() < deadline, "Odoo does not start"
        yield DEMO.ssh(DEMO.odoo, "odoo --version").split()[-1].partition(".")[0]
    finally:
        DEMO.ssh(DEMO.odoo, f"{postgres} dropdb --force {NAME}")


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Both providers, where Odoo's host looks for them."""
    made = Provider("application", SECRETS[0], granted={SECRETS[1]: LOGIN})
    now = datetime.datetime.now(datetime.UTC)
    private_certificate(DEMO.secrets / "ca", NAMES, 90, now)
    chain, key = (DEMO.secrets / "ca" / f"{NAMES[0]}.{kind}" for kind in ("pem", "key"))
    DEMO.ssh(DEMO.odoo, f"cp /etc/hosts /run/hosts && echo {GATEWAY} {' '.join(NAMES)} >>/etc/hosts")
    try:
        with served(made, GATEWAY, chain, key, (443, 587)):
            yield made
    finally:
        DEMO.ssh(DEMO.odoo, "cat /run/hosts >/etc/hosts")


class Here:
    """An inventory whose database has its mail at a provider, and what is done with it."""

    def __init__(self, directory: Path, preset: str) -> None:
        self.directory = directory
        (directory / "group_vars").mkdir()
        (directory / "secrets").symlink_to(DEMO.secrets.resolve())
        (directory / "hosts.yml").write_text((DEMO.inventory / "hosts.yml").read_text())
        self.oauth = {"client_id": "application", "client_secret": SECRETS[0], "refresh_token": SECRETS[1]}
        self.facts = yaml.safe_load((DEMO.inventory / "group_vars" / "all.yml").read_text())
        (database,) = self.facts["odoo_databases"]
        self.database = database | {
            "name": NAME,
            "domains": [{"name": "example.com"}],
            "provider": {"preset": preset, "login": LOGIN, "oauth": self.oauth},
        }
        self.output = ""

    def _write(self) -> None:
        facts = self.facts | {"odoo_databases": [self.database]}
        (self.directory / "group_vars" / "all.yml").write_text(yaml.safe_dump(facts))

    @contextlib.contextmanager
    def started(self, playbook: str) -> Iterator[subprocess.Popen[str]]:
        """A playbook while it runs."""
        self._write()
        program = str(Path(sys.executable).parent / "ansible-playbook")
        with subprocess.Popen(
            [program, "-i", str(self.directory), f"playbooks/{playbook}.yml"],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            yield run
        assert run.returncode == 0

    def run(self, *options: str, playbook: str = "odoo_mail", fails: bool = False) -> str:
        """Run a playbook; returns what it prints."""
        self._write()
        hosts = Hosts()
        hosts.inventory = self.directory
        try:
            text = hosts.site(*options, playbook=f"playbooks/{playbook}.yml")
            assert not fails, text
        except subprocess.CalledProcessError as error:
            text = str(error.stdout)
            assert fails, text
        self.output += text
        return text

    @contextlib.contextmanager
    def odoo(self) -> Iterator[Odoo]:
        """Odoo as its administrator."""
        hosts = Hosts()
        hosts.database = self.database
        with contextlib.closing(Odoo(hosts, "admin", "admin")) as odoo:
            yield odoo

    def server(self, *fields: str) -> dict[str, Any]:
        """The outgoing server as Odoo has it."""
        with self.odoo() as odoo:
            (row,) = odoo("ir.mail_server", "search_read", [("name", "=like", "Mailroom%")], list(fields))
            found: dict[str, Any] = row
            return found

    def parameters(self) -> dict[str, str]:
        """Odoo's system parameters that have to do with it."""
        with self.odoo() as odoo:
            rows = odoo("ir.config_parameter", "search_read", [], ["key", "value"])
        return {row["key"]: row["value"] for row in rows if row["key"].startswith(("google", "micros", "mailroom"))}


@pytest.fixture
def here(tmp_path: Path, preset: str) -> Here:
    return Here(tmp_path, preset)


def line_of(text: str, part: str) -> str:
    """The one line that has a part."""
    (line,) = {line.strip().strip('",') for line in text.splitlines() if part in line}
    return line


@pytest.mark.parametrize(("preset", "prefix", "authentication"), SERVICES)
def test_odoo_sends_by_oauth(base: str, provider: Provider, here: Here, prefix: str, authentication: str) -> None:
    if base == "14":
        pytest.skip("the packaged Odoo 14 is older than the modules")
    before = here.parameters()
    token = f"{prefix}_refresh_token"

    foretold = here.run("--check", "--diff")
    assert f"{token}" in foretold
    assert (here.parameters(), provider.forms) == (before, [])

    here.run("--diff")
    server = here.server("smtp_authentication", "smtp_encryption", token)
    assert (server["smtp_authentication"], server["smtp_encryption"]) == (authentication, "starttls")
    assert (server[token] == SECRETS[1]) == (prefix == "google_gmail")  # Microsoft has given another one meanwhile
    assert len(provider.forms) == 1  # by Odoo's Test Connection

    again = here.run("--diff")
    assert "changed=0 " in again, again
    assert here.server(token) == {"id": server["id"], token: server[token]}
    assert len(provider.forms) == 1

    with here.odoo() as odoo:
        customer = odoo("res.partner", "create", {"name": "Customer", "email": "customer@customer.example"})
        sender = {"email_from": "Boss <boss@example.com>"}
        odoo("res.partner", "message_post", [customer], subject="Ten chairs", partner_ids=[customer], **sender)
    deadline = time.monotonic() + WAIT
    while not provider.mails:
        assert time.monotonic() < deadline, "Odoo sends nothing"
    (mail,) = provider.mails
    assert (mail.login, mail.sender, mail.recipients) == (LOGIN, "bounce@example.com", ("customer@customer.example",))
    assert email.message_from_bytes(mail.content, policy=email.policy.default)["Subject"] == "Ten chairs"

    provider.opens.clear()  # the access token that Odoo has is good for nothing any more
    line = line_of(here.run(fails=True), "Odoo's Test Connection says")
    assert "refused the sender" in line
    assert line.endswith(
        "have the login itself authorise, with the right to send, and allow it SMTP at " + provider_host(here)
    )
    assert provider.refused == 1

    here.oauth["refresh_token"] = SECRETS[3]
    line = line_of(here.run(fails=True), "Odoo's Test Connection says")
    assert "An error occurred when fetching the access token." in line
    assert ("AADSTS700082" in line) == (prefix != "google_gmail")  # Google's own words Odoo keeps to itself
    assert line.endswith("or have a person authorise again and give the new refresh_token")

    here.oauth["refresh_token"] = SECRETS[2]
    provider.granted[SECRETS[2]] = LOGIN
    here.run("--diff")
    assert "changed=0 " in here.run()

    here.run("--diff", playbook="odoo_remove")
    assert here.parameters() == before
    with here.odoo() as odoo:
        assert odoo("ir.mail_server", "search", []) == []
    log = DEMO.ssh(DEMO.odoo, "cat /var/log/odoo/*.log; journalctl -u odoo --no-pager")
    assert not [secret for secret in SECRETS if secret in here.output or secret in log]


def provider_host(here: Here) -> str:
    """Where Odoo sends."""
    return {"gmail": "smtp.gmail.com", "microsoft365": "smtp.office365.com"}[here.database["provider"]["preset"]]


@pytest.mark.parametrize("preset", ["microsoft365"])
def test_an_odoo_without_the_module_is_told(base: str, here: Here) -> None:
    if base != "14":
        pytest.skip("has the module by itself")
    line = line_of(here.run(fails=True), "provider.oauth")
    assert "does not send by OAuth: install its module Outlook (microsoft_outlook)" in line


@pytest.mark.parametrize("preset", ["microsoft365"])
def test_a_person_authorises_by_a_browser(here: Here) -> None:
    provider = Provider("application", SECRETS[0], codes={"c0de": LOGIN})
    server = http.server.HTTPServer(("127.0.0.1", 0), endpoint(provider))
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    del here.oauth["refresh_token"]
    here.oauth["token_url"] = f"http://127.0.0.1:{server.server_port}/token"
    kept = DEMO.secrets / f"oauth-{NAME}"
    try:
        with here.started("authorize") as run:
            assert run.stdout
            shown = next(line for line in run.stdout if "open this, signed in as" in line)
            address = urllib.parse.urlsplit(shown.split()[-1])
            assert (address.hostname, address.path) == (
                "login.microsoftonline.com",
                "/example.com/oauth2/v2.0/authorize",
            )
            asked = dict(urllib.parse.parse_qsl(address.query))
            come_back(f"{urllib.parse.urlsplit(asked['redirect_uri']).path}?state={asked['state']}&code=c0de")
            rest = run.stdout.read()
        thread.join()
        (token,) = provider.granted
        assert kept.read_text().strip() == token
        assert "changed=1 " in rest, rest
        assert not [secret for secret in (token, SECRETS[0], "c0de") if secret in shown + rest]

        # As the last line says: it goes into the inventory like that, and to Odoo and fetch-and-route from there.
        here.oauth["refresh_token"] = "{{ lookup('ansible.builtin.file', secrets_directory ~ '/oauth-oauth') }}"
        assert here.oauth["refresh_token"] in rest
    finally:
        kept.unlink(missing_ok=True)
        server.server_close()


def come_back(path: str) -> None:
    """What the browser does when the provider sends it back."""
    deadline = time.monotonic() + WAIT
    while True:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", 8765, timeout=WAIT)) as session:
            try:
                session.request("GET", path)
            except ConnectionRefusedError:  # it has not been told to wait yet
                assert time.monotonic() < deadline, "nobody waits for the browser"
                continue
            assert session.getresponse().status == 200
            return
