"""The test hosts as bench/routing uses them: Odoo and the mailbox, what is put there, and what is left of it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bench.on_host import make_mail
from module_utils.odoo_rpc import Odoo, OdooError
from tests.story import ROOT, Host, Hosts, StoryError

__all__ = ["Failed", "Lab", "OdooError", "StoryError"]

HELPER = "/run/mailroom-bench"
UNITS = "fetch-and-route.timer fetch-and-route.service"
ALIAS, MODEL = "projects@example.com", "project.task"
"""Where mail goes, and what Odoo makes of it. Nobody is told of a task by mail, as the leader of a team is of each lead
and its followers are of each reply: that would measure Odoo's sending."""
FOLDERS = ("INBOX", "Routed", "Quarantine")


class Failed(Exception):
    """The bench cannot go on; the text says why."""


class Mail(NamedTuple):
    """One message."""

    message_id: str
    raw: bytes


class Mails(NamedTuple):
    """What one side gets; its tag is in every subject, and each makes a record of its own."""

    tag: str
    mails: list[Mail]


def make_mails(count: int, **kind: Any) -> Mails:
    """Mail to the alias; see on_host.make_mail."""
    tag = f"bench-{uuid.uuid4().hex[:10]}"
    return Mails(tag, [Mail(*make_mail(tag, number, ALIAS, **kind)) for number in range(count)])


def environment() -> dict[str, str]:
    """The environment of the commands that make the hosts: this venv, podman's settings of this machine."""
    return os.environ | {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "NO_COLOR": "1",
        "CONTAINERS_CONF": str(ROOT / ".cache" / "containers.conf"),
    }


def run(*command: str) -> str:
    """The output of a command of this machine. Raises Failed with its last words."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"'{' '.join(command)}' ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def site(*more: str) -> None:
    """Bring the hosts to what this repository says."""
    run("ansible-playbook", "-i", "inventory/demo", "site.yml", *more)


def command(hosts: Hosts, host: Host, text: str) -> list[str]:
    """A command on a host, to be started here."""
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    return ["ssh", "-F", str(hosts.secrets / "ssh" / "config"), *options, host.name, text]


def output(arguments: Sequence[str], data: bytes = b"") -> bytes:
    """What a command prints, given `data`. Raises Failed with its last words."""
    done = subprocess.run(arguments, env=environment(), input=data, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace")[-2000:]
        raise Failed(f"'{' '.join(arguments[-2:])}' ended with {done.returncode}: {words}")
    return done.stdout


def deployed() -> Hosts:
    """The test hosts, made if they do not answer, with what is in this repository. Raises Failed."""
    try:
        hosts = Hosts()
        output(command(hosts, hosts.mail, "true"))
    except Failed:
        run("tests/setup", "hosts")
        run("molecule", "destroy")
        run("molecule", "create")
        hosts = Hosts()
    site()
    return hosts


class Admin(Odoo):
    """Odoo's administrator; each call has a connection of its own, for minutes may be between two of them."""

    def call(self, model: str, method: str, *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a method; see Odoo.call."""
        self.close()
        return super().call(model, method, *arguments, timeout=timeout, **options)


class Lab:
    """All hosts, ready to be measured: nothing fetches mail by itself."""

    def __init__(self) -> None:
        """Make the hosts if they do not answer, and deploy what is in this repository. Raises Failed."""
        self.hosts = deployed()
        self.name: str = self.hosts.database["name"]
        ca_file = str(self.hosts.secrets / "ca" / "ca.pem")
        self.admin = Admin(self.hosts.database["url"], self.name, ca_file, timeout=300)
        self.admin.log_in(self.hosts.database["login"], self.hosts.database["password"])
        if self.admin.version() < 19:  # without JSON-2, and with a mailgate script for Python 2
            raise Failed("the test hosts have an older Odoo: destroy them, and do not set MAILROOM_ODOO")
        domain = [["name", "=", "Mailroom gateway"], ["state", "=", "code"]]
        self.action: int = self.admin.search_read("ir.actions.server", domain, ["name"])[0]["id"]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Within this block the hosts are the bench's; afterwards they are as they were."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hosts.names())
            for host in (self.hosts.mail, self.hosts.odoo, self.hosts.outside):
                stack.callback(self.ssh, host, f"rm -rf {HELPER}")
                helper = (ROOT / "bench" / "on_host.py").read_bytes()
                self.ssh(host, f"mkdir -p {HELPER} && cat >{HELPER}/on_host.py", helper)
            stack.callback(self.ssh, self.hosts.mail, "systemctl start fetch-and-route.timer")
            self.ssh(self.hosts.mail, f"systemctl stop {UNITS}")
            stack.enter_context(self._odoo_may_fetch())
            yield

    @contextlib.contextmanager
    def _odoo_may_fetch(self) -> Iterator[None]:
        """Let Odoo's own incoming server be used, which Mailroom leaves archived; not by its timer, though."""
        servers = self.admin.search_read("fetchmail.server", [["server", "=", self.hosts.mail.name]], ["state"])
        crons = self.admin.search_read(
            "ir.model.data", [["module", "=", "mail"], ["name", "=", "ir_cron_mail_gateway_action"]], ["res_id"]
        )
        if not servers or servers[0]["state"] != "done" or not crons:
            raise Failed(f"Odoo has no tested incoming server {self.hosts.mail.name}: run site.yml")
        self.server, cron = servers[0]["id"], crons[0]["res_id"]
        before = self.admin.search_read("ir.cron", [["id", "=", cron]], ["nextcall"])[0]["nextcall"]
        tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        self.admin.call("ir.cron", "write", [cron], {"nextcall": f"{tomorrow:%Y-%m-%d %H:%M:%S}"})
        try:
            self.admin.call("fetchmail.server", "write", [self.server], {"active": True})
            yield
        finally:
            self.admin.call("fetchmail.server", "write", [self.server], {"active": False})
            self.admin.call("ir.cron", "write", [cron], {"nextcall": before})

    def command(self, host: Host, text: str) -> list[str]:
        """A command on a host, to be started here."""
        return command(self.hosts, host, text)

    def ssh(self, host: Host, text: str, data: bytes = b"") -> bytes:
        """What a command on a host prints, given `data`. Raises Failed with its last words."""
        return output(self.command(host, text), data)

    def helper(self, host: Host, arguments: str, data: bytes = b"") -> dict[str, Any]:
        """What on_host.py says on a host. Raises Failed, also when what it measured failed."""
        answer: dict[str, Any] = json.loads(self.ssh(host, f"python3 {HELPER}/on_host.py {arguments}", data))
        if answer.get("exit_code"):
            raise Failed(f"{host.name}: '{arguments}': exit code {answer['exit_code']}: see journalctl -t bench there")
        return answer

    # What waits, and what became of it

    def _put(self, mails: Mails) -> None:
        """Put mail into the mailbox (MULTIAPPEND, RFC 3502)."""
        with self.hosts.mailbox() as session:
            for first in range(0, len(mails.mails), 100):
                session.multiappend("INBOX", [mail.raw for mail in mails.mails[first : first + 100]])

    @contextlib.contextmanager
    def mails(self, count: int, *, waiting: bool = False, **kind: Any) -> Iterator[Mails]:
        """New mail, put into INBOX if `waiting`; after this block it is counted in Odoo and removed. Raises Failed."""
        mails = make_mails(count, **kind)
        try:
            if waiting:
                self._put(mails)
            yield mails
            self._arrived(mails)
        finally:
            self._clean(mails)

    def _arrived(self, mails: Mails) -> None:
        """Each message is in Odoo, once, and in a record of its own. Raises Failed."""
        domain = [["message_id", "in", [mail.message_id for mail in mails.mails]], ["model", "=", MODEL]]
        posted = self.admin.call("mail.message", "search_count", domain)
        records = self.admin.call(MODEL, "search_count", [["name", "=like", f"{mails.tag} %"]])
        if not posted == records == len(mails.mails):
            raise Failed(f"of {len(mails.mails)} messages {posted} are in Odoo, in {records} records: see its log")

    def _clean(self, mails: Mails) -> None:
        """Remove mail from the mailbox and what Odoo made of it."""
        with self.hosts.mailbox() as session:
            for folder in FOLDERS:
                session.select_folder(folder)
                uids = session.search(["SUBJECT", mails.tag])
                if uids:
                    session.delete_messages(uids)
                    session.uid_expunge(uids)
        for model, field, pattern in ((MODEL, "name", f"{mails.tag} %"), ("res.partner", "email", f"c-{mails.tag}-%")):
            rows = self.admin.search_read(model, [[field, "=like", pattern]], ["id"])
            if rows:
                self.admin.call(model, "unlink", [row["id"] for row in rows])

    # Ways into Odoo; each returns the seconds it took

    def program(self) -> dict[str, Any]:
        """Let fetch-and-route run once; what it took."""
        return self.helper(self.hosts.mail, "measure fetch-and-route run")

    def from_memory(self, mails: Mails, per_call: int) -> float:
        """Two clients call the gateway action with mail that they have already, so many messages a call."""
        calls: list[bytes] = []
        for first in range(0, len(mails.mails), per_call):
            messages = [
                {"id": str(place), "message_id": mail.message_id, "raw": base64.b64encode(mail.raw).decode()}
                for place, mail in enumerate(mails.mails[first : first + per_call])
            ]
            context = {"mailroom": {"version": 1, "messages": messages}}
            calls.append(json.dumps({"ids": [self.action], "context": context}).encode())
        calls.reverse()
        clients = [self._client(calls) for _ in range(2)]
        return timed(clients)

    def _client(self, calls: list[bytes]) -> Callable[[], None]:
        """Something that makes calls until there are none left, over one connection."""
        parts = urlsplit(self.hosts.database["url"])
        connection = HTTPSConnection(parts.hostname or "", parts.port, context=self.hosts.tls, timeout=300)
        connection.connect()
        headers = {
            "Authorization": f"bearer {self.hosts.secret(f'gateway-{self.name}')}",
            "Content-Type": "application/json",
            "X-Odoo-Database": self.name,
        }

        def client() -> None:
            with contextlib.closing(connection), contextlib.suppress(IndexError):
                while True:
                    connection.request("POST", "/json/2/ir.actions.server/run", calls.pop(), headers)
                    answer = json.loads(connection.getresponse().read())
                    verdicts = {verdict["verdict"] for verdict in answer["mailroom"]["verdicts"]}
                    if verdicts != {"routed"}:
                        raise Failed(f"the gateway action said {verdicts}")

        return client

    def fetch_mail(self, mails: Mails) -> float:
        """Odoo fetches from INBOX by itself, 50 messages a call, as its timer and its button Fetch Now do."""
        seconds = 0.0
        for _ in range(0, len(mails.mails), 50):
            began = time.monotonic()
            try:
                self.admin.call("fetchmail.server", "fetch_mail", [self.server])
            except OdooError as error:
                if "cannot marshal None" not in str(error):  # what XML-RPC makes of a method that returns nothing
                    raise
            seconds += time.monotonic() - began
        return seconds

    def mailgate(self, mails: Mails) -> float:
        """Odoo's script for mail servers, on Odoo's own host, started for each message, as it has to be."""
        user = self.admin.search_read("res.users", [["login", "=", self.hosts.database["login"]]], ["id"])[0]["id"]
        script = "/usr/lib/python3/dist-packages/odoo/addons/mail/static/scripts/odoo-mailgate.py"
        options = f"-d {self.name} -u {user} -p {self.hosts.database['password']} --host 127.0.0.1"
        data = b"".join(base64.b64encode(mail.raw) + b"\n" for mail in mails.mails)
        return float(self.helper(self.hosts.odoo, f"mailgate python3 {script} {options}", data)["seconds"])

    # A mailbox with very much in it, and an Odoo that takes all at once

    @contextlib.contextmanager
    def backlog(self, folder: str, count: int) -> Iterator[None]:
        """A folder in which so many messages wait, and a configuration of that name that serves it by the stub."""
        lines = [
            f'state_directory = "{HELPER}/state"',
            'summary_to = ""',
            '[[databases]]\nname = "stub"\nurl = "http://127.0.0.1:8069"\nprotocol = "json2"\nlogin = "stub"',
            'key = "stub"\naction = 1',
            f'[[mailboxes]]\nname = "{folder}"\ndatabase = "stub"\nhost = "{self.hosts.mail.name}"',
            f'address = "127.0.0.1"\nlogin = "{self.name}"\npassword = "mailbox"\ninbox = "{folder}"',
            f'routed = "{folder}-routed"\nquarantine = "{folder}-quarantine"\n',
        ]
        secrets = f"{HELPER}/secrets"
        link = f"ln -sf /etc/fetch-and-route/secrets/mailbox-{self.name} {secrets}/mailbox"
        self.ssh(self.hosts.mail, f"mkdir -p {secrets} && echo stub >{secrets}/stub && {link}")
        self.ssh(self.hosts.mail, f"cat >{HELPER}/{folder}.toml", "\n".join(lines).encode())
        with self.hosts.mailbox() as session:
            session.create_folder(folder)
        try:
            self.fill(folder, count)
            yield
        finally:
            with self.hosts.mailbox() as session:
                for name in (folder, f"{folder}-routed"):
                    if session.folder_exists(name):
                        session.delete_folder(name)

    def fill(self, folder: str, count: int) -> None:
        """Put so many messages more into a folder."""
        home = self.ssh(self.hosts.mail, f"doveadm user -f home {self.name}").decode().strip()
        self.helper(self.hosts.mail, f"fill {home}/Maildir/.{folder} {count}")

    def routed_by_stub(self, folder: str, count: int) -> dict[str, Any]:
        """Let the program route at least so many messages of a folder; what it took."""
        used = self.helper(self.hosts.mail, f"routed-by-stub {count} {HELPER}/{folder}.toml")
        if used["routed"] < count:
            raise Failed(f"{used['routed']} messages of {folder} were routed, not {count}: see journalctl -t bench")
        return used

    # New mail that is routed as it comes

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Push mode within this block."""
        here = ("--tags", "fetch_and_route")
        site("--extra-vars", "fetch_and_route_mode=push", *here)
        try:
            deadline = time.monotonic() + 60
            show = "systemctl show --value --property=StatusText fetch-and-route-watch.service"
            while not self.ssh(self.hosts.mail, show).decode().strip().endswith(" watching"):
                if time.monotonic() > deadline:
                    raise Failed(f"{self.hosts.mail.name}: fetch-and-route-watch.service does not watch: see its log")
            yield
        finally:
            site(*here)
            self.ssh(self.hosts.mail, f"systemctl stop {UNITS}")

    def push(self, mails: Mails) -> list[float]:
        """Send mail from outside, each after the one before is in Odoo; seconds from accepted to routed, of each.

        Accepted is the answer to DATA by our Postfix, routed what the journal has of fetch-and-route, a little after
        Odoo's commit; the hosts have one clock.
        """
        follow = "journalctl --follow --lines=0 --output=json --identifier=fetch-and-route"
        send = f"python3 {HELPER}/on_host.py send {self.hosts.mail.name} {ALIAS}"
        took = []
        with (
            subprocess.Popen(self.command(self.hosts.mail, follow), stdout=subprocess.PIPE) as journal,
            subprocess.Popen(
                self.command(self.hosts.outside, send), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as sender,
        ):
            assert journal.stdout is not None  # noqa: S101 - all are pipes
            assert sender.stdin is not None  # noqa: S101
            assert sender.stdout is not None  # noqa: S101
            try:
                for mail in mails.mails:
                    sender.stdin.write(base64.b64encode(mail.raw) + b"\n")
                    sender.stdin.flush()
                    accepted = json.loads(sender.stdout.readline())["accepted"]
                    routed = 0.0
                    while not routed:
                        line = json.loads(journal.stdout.readline())
                        text = str(line["MESSAGE"])
                        if f"message-id={mail.message_id} " in text and " verdict=routed " in text:
                            routed = int(line["__REALTIME_TIMESTAMP"]) / 1e6
                    took.append(routed - accepted)
            finally:
                sender.stdin.close()
                journal.terminate()
        return took


def timed(jobs: Sequence[Callable[[], None]]) -> float:
    """Seconds that jobs take at the same time. Raises what one of them raises."""
    problems: list[BaseException] = []

    def attempt(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=attempt, args=(job,)) for job in jobs]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if problems:
        raise problems[0]
    return seconds
