"""Real and small servers on loopback: Dovecot and name servers of this machine, an Odoo that remembers, and others.

Dovecot is started as an ordinary user with a configuration of its own; its service need not run.
"""

from __future__ import annotations

import base64
import grp
import hmac
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from lookup_plugins.private_certificate import private_certificate
from tests.name_servers import NameServer, StartNameServer, running

ROOT = Path(__file__).resolve().parents[2]
CLIENT = "mailroom"
"""What the program is called at the token endpoint."""


class Certificate(NamedTuple):
    """A certificate for mail.example.com and localhost, its key, and the authority that signed it; all PEM files."""

    ca_file: Path
    chain_file: Path
    key_file: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("ca")
    made = private_certificate(directory, ["mail.example.com", "localhost"], 90, datetime.now(UTC))
    files = Certificate(*(directory / name for name in ("own-ca.pem", "chain.pem", "key.pem")))
    for path, text in zip(files, (made["ca"], made["chain"], made["key"]), strict=True):
        path.write_text(text)
    return files


class Signer:
    """Signs access tokens (JWT, RFC 7519) in the ways that Dovecot can check (RFC 7518, section 3.1)."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._rsa = rsa.generate_private_key(65537, 2048)
        self._ec = ec.generate_private_key(ec.SECP256R1())

    def keys(self) -> dict[str, bytes]:
        """What Dovecot checks with, as its files are to have it."""

        def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
            return key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )

        return {"HS256": base64.b64encode(self._secret), "RS256": public(self._rsa), "ES256": public(self._ec)}

    def token(self, algorithm: str, claims: Mapping[str, object]) -> str:
        """A signed token."""
        head = {"typ": "JWT", "alg": algorithm, "kid": "key1"}
        text = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        if algorithm == "HS256":
            signature = hmac.digest(self._secret, text, "sha256")
        elif algorithm == "RS256":
            signature = self._rsa.sign(text, padding.PKCS1v15(), hashes.SHA256())
        else:
            pair = decode_dss_signature(self._ec.sign(text, ec.ECDSA(hashes.SHA256())))
            signature = b"".join(number.to_bytes(32, "big") for number in pair)
        return (text + b"." + _base64url(signature)).decode()


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


COMMON = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
first_valid_gid = 1
listen = 127.0.0.1
protocols = imap pop3
ssl = required
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
mail_uid = {user}
mail_gid = {group}
mail_max_userip_connections = 100
namespace inbox {{
  inbox = yes
  separator = /
}}
service anvil {{
  chroot =
  # No login waits because others failed.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {ports[imap,starttls]}
  }}
  inet_listener imaps {{
    port = {ports[imap,on_connect]}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {ports[pop3,starttls]}
  }}
  inet_listener pop3s {{
    port = {ports[pop3,on_connect]}
    ssl = yes
  }}
}}
"""
OLD = """
mail_location = maildir:~/Maildir
rawlog_dir = {directory}/mail/%u/rawlog
ssl_cert = <{directory}/chain.pem
ssl_key = <{directory}/key.pem
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {directory}/oauth2.conf
}}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = home={directory}/mail/%u
}}
"""
OLD_OAUTH2 = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={directory}/keys/
"""
NEW = """
mail_driver = maildir
mail_path = ~/Maildir
rawlog_dir = {directory}/mail/%{{user}}/rawlog
ssl_server_cert_file = {directory}/chain.pem
ssl_server_key_file = {directory}/key.pem
oauth2 {{
  introspection_mode = local
  oauth2_local_validation {{
    dict fs {{
      fs posix {{
        prefix = {directory}/keys/
      }}
    }}
  }}
}}
passdb static {{
  password = secret
}}
userdb static {{
  fields {{
    home = {directory}/mail/%{{user}}
  }}
}}
"""
OLD_CAPABILITIES = "IMAP4rev1 SASL-IR LITERAL+ ENABLE IDLE NAMESPACE UNSELECT"
"""What an IMAP server says that can do little; Dovecot 2.3 takes the whole line, 2.4 what is not to be in it."""


class Dovecot:
    """A Dovecot in which every login has a mailbox: by the password `secret`, or by a token for its address."""

    def __init__(
        self,
        directory: Path,
        certificate: Certificate,
        signer: Signer,
        *,
        mechanisms: str = "plain xoauth2 oauthbearer",
        without: tuple[str, ...] = (),
    ) -> None:
        """Write its configuration; `without` are IMAP capabilities that it is not to announce, MOVE or UIDPLUS."""
        self.directory = directory
        self.certificate = certificate
        pairs = [(protocol, tls) for protocol in ("imap", "pop3") for tls in ("on_connect", "starttls")]
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in pairs]
            numbers = [int(probe.getsockname()[1]) for probe in probes]
        self.ports = dict(zip(pairs, numbers, strict=True))
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.user = self._account.pw_name
        group = grp.getgrgid(self._account.pw_gid).gr_name
        version = subprocess.run([_binary("dovecot"), "--version"], check=True, capture_output=True, text=True).stdout
        self.is_old = version.startswith("2.3.")
        head = "" if self.is_old else "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
        whole = head + COMMON + (OLD if self.is_old else NEW) + self._capabilities(without)
        values = {"directory": directory, "user": self.user, "group": group, "mechanisms": mechanisms}
        ports = {f"{protocol},{tls}": port for (protocol, tls), port in self.ports.items()}
        self._write("dovecot.conf", whole.format(**values, ports=ports).encode())
        self._write("oauth2.conf", OLD_OAUTH2.format(**values).encode())
        self._write("chain.pem", certificate.chain_file.read_bytes())
        self._write("key.pem", certificate.key_file.read_bytes())
        for algorithm, key in signer.keys().items():
            self._write(f"keys/{CLIENT}/{algorithm}/key1", key)
        self._give_away(directory)
        self._process: subprocess.Popen[bytes] | None = None

    def _capabilities(self, without: tuple[str, ...]) -> str:
        if not without:
            return ""
        if self.is_old:
            rest = [OLD_CAPABILITIES, *(name for name in ("MOVE", "UIDPLUS") if name not in without)]
            return f"protocol imap {{{{\n  imap_capability = {' '.join(rest)}\n}}}}\n"
        lines = "".join(f"    {name} = no\n" for name in without)
        return f"protocol imap {{{{\n  imap_capability {{{{\n{lines}  }}}}\n}}}}\n"

    def _write(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _give_away(self, directory: Path) -> None:
        """Let Dovecot's user have what a test writes."""
        for path in (directory, *directory.rglob("*")):
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _command(self, *words: str) -> list[str]:
        return [_binary(words[0]), "-c", str(self.directory / "dovecot.conf"), *words[1:]]

    @property
    def _as_user(self) -> dict[str, Any]:
        return {"user": self.user, "group": self._account.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self) -> None:
        """Start, and wait until all ports are open."""
        self._process = subprocess.Popen(self._command("dovecot", "-F"), **self._as_user)
        deadline = time.monotonic() + 10
        for port in self.ports.values():
            while True:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"Dovecot does not start: {self.log()}")
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)  # it can only be asked again

    def stop(self) -> None:
        """Stop, if it runs."""
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def log(self) -> str:
        """What it has logged."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def logins(self, login: str) -> int:
        """So many times somebody has logged in."""
        known = re.compile(rf"-login: Info: (Login|Logged in): user=<{re.escape(login)}>")
        return len(known.findall(self.log()))

    def kick(self, login: str) -> None:
        """Disconnect somebody, and wait until it is done."""
        before = self._ended(login)
        subprocess.run(self._command("doveadm", "kick", login), check=True, capture_output=True, **self._as_user)
        deadline = time.monotonic() + 10
        while self._ended(login) == before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)  # it tells nobody

    def _ended(self, login: str) -> int:
        return len(re.findall(rf" (?:imap|pop3)\({re.escape(login)}\).*: Info: Disconnected", self.log()))

    def deliver(self, login: str, *messages: bytes, flags: str = "") -> None:
        """Put messages into an inbox, in this order; a message with flags counts as looked at already."""
        home = self.directory / "mail" / login
        folder = home / "Maildir" / ("cur" if flags else "new")
        for path in (home / "rawlog", *(folder.with_name(name) for name in ("cur", "new", "tmp"))):
            path.mkdir(parents=True, exist_ok=True)
        for number, message in enumerate(messages):
            name = f"{time.time():.6f}.M{number:06}.{secrets.token_hex(4)}"
            (folder / (f"{name}:2,{flags}" if flags else name)).write_bytes(message)
        self._give_away(home)

    def files(self, login: str, folder: str = "") -> list[Path]:
        """The files of the messages in a folder, which is the inbox unless it is named."""
        directory = self.directory / "mail" / login / "Maildir" / (f".{folder}" if folder else "")
        return sorted(path for name in ("cur", "new") for path in (directory / name).glob("*"))

    def holds(self, login: str, folder: str = "") -> list[bytes]:
        """The messages in a folder."""
        return [path.read_bytes() for path in self.files(login, folder)]

    def commands(self, login: str) -> list[str]:
        """What clients have said since they logged in: each line without its time and tag."""
        logs = sorted((self.directory / "mail" / login / "rawlog").glob("*.in"))
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        return [re.sub(r"\A\S+ (?:[A-P]{4}\d+ )?", "", line) for line in lines]


def _binary(name: str) -> str:
    """Find a server's program, for people who have no /usr/sbin in their PATH, too."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or name


StartDovecot = Callable[..., Dovecot]


@contextmanager
def _running(certificate: Certificate, signer: Signer, **more: Any) -> Iterator[Dovecot]:
    with tempfile.TemporaryDirectory(prefix="mailroom-dovecot-") as directory:  # pytest's own are closed to others
        server = Dovecot(Path(directory), certificate, signer, **more)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def dovecot(certificate: Certificate, signer: Signer) -> Iterator[Dovecot]:
    """One for all tests: each test has logins of its own."""
    with _running(certificate, signer) as server:
        yield server


@pytest.fixture
def start_dovecot(certificate: Certificate, signer: Signer) -> Iterator[StartDovecot]:
    """Start one that is unlike the others."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(_running(certificate, signer, **more))


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    """A server that takes a killed client for no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet."""


@contextmanager
def _served(server: _Server) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(10)


class Odoo(_Server):
    """A database with a gateway action (JSON-2): it posts each Message-ID once and knows it from then on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OdooHandler)
        self.posted: Counter[str] = Counter()
        self.contents: dict[str, bytes] = {}
        """What was handed over last, by Message-ID."""
        self.calls: list[list[str]] = []
        """The verdicts of each call that had messages."""
        self.committed: Callable[[], None] = lambda: None
        """Called when a call's messages are posted and nobody knows it yet."""

    def verdict(self, identity: str) -> str:
        """By what is in the Message-ID: refused, to be asked again later, or posted."""
        for word in ("refused", "retry"):
            if word in identity:
                return word
        if identity in self.posted:
            return "duplicate"
        self.posted[identity] += 1
        return "routed"


class _OdooHandler(_Quiet):
    server: Odoo

    def do_POST(self) -> None:
        asked = json.loads(self.body())["context"]["mailroom"]
        verdicts = []
        for message in asked["messages"]:
            self.server.contents[message["message_id"]] = base64.b64decode(message["raw"])
            word = self.server.verdict(message["message_id"])
            reason = "No possible route" if word == "refused" else ""
            verdicts.append({"id": message["id"], "verdict": word, "model": "crm.lead", "res_id": 7, "reason": reason})
        if verdicts:
            self.server.calls.append([verdict["verdict"] for verdict in verdicts])
            self.server.committed()
        self.answer(200, {"mailroom": {"version": 1, "verdicts": verdicts, "found": []}})


@pytest.fixture
def odoo() -> Iterator[Odoo]:
    server = Odoo()
    with _served(server):
        yield server


class Endpoint(_Server):
    """A token endpoint (RFC 6749) over TLS, with the ways of Google's and Microsoft's."""

    def __init__(self, certificate: Certificate, signer: Signer) -> None:
        super().__init__(("127.0.0.1", 0), _EndpointHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain_file, certificate.key_file)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.signer = signer
        self.algorithm = "RS256"
        self.granted: dict[str, str] = {}
        """Whose mailbox a refresh token opens."""
        self.rotates = False
        """Whether a refresh token serves only once and brings the next one."""
        self.allowed = ""
        """Whose mailbox the client opens in its own right, with the secret `c-secret`."""
        self.says, self.lasts = 3600, 3600
        """Seconds that the next token is said to last, and does."""
        self.ends = 0
        """Unix time at which the newest token is at its end."""
        self.forms: list[dict[str, str]] = []

    def token(self, form: Mapping[str, str]) -> tuple[int, dict[str, object]]:
        """Answer a request (RFC 6749, sections 5.1 and 5.2)."""
        more: dict[str, object] = {}
        if form.get("client_id") != CLIENT or form.get("client_secret") != "c-secret":
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        if form.get("grant_type") == "client_credentials":
            login = self.allowed
        else:
            given = form.get("refresh_token", "")
            login = self.granted.get(given, "")
            if not login:
                return 400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            if self.rotates:
                del self.granted[given]
                more["refresh_token"] = secrets.token_hex(8)
                self.granted[str(more["refresh_token"])] = login
        now = int(time.time())
        self.ends = now + self.lasts
        claims = {
            "iss": "https://login.example.com",
            "aud": "https://mail.example.com",
            "azp": CLIENT,
            "sub": login,
            "email": login,
            "iat": now,
            "nbf": now,
            "exp": self.ends,
        }
        token = self.signer.token(self.algorithm, claims)
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.says, **more}

    def wait_for_the_end(self) -> None:
        """Wait until the newest token is of no use any more."""
        time.sleep(max(0, self.ends + 1.1 - time.time()))


class _EndpointHandler(_Quiet):
    server: Endpoint

    def do_POST(self) -> None:
        form = dict(urllib.parse.parse_qsl(self.body().decode()))
        self.server.forms.append(form)
        self.answer(*self.server.token(form))


@pytest.fixture
def endpoint(certificate: Certificate, signer: Signer) -> Iterator[Endpoint]:
    server = Endpoint(certificate, signer)
    with _served(server):
        yield server


class Done(NamedTuple):
    """How a run ended; its lines on standard output and standard error."""

    code: int
    lines: list[str]


class Program:
    """The program with a configuration of its own, run as its users run it: as a process."""

    def __init__(self, directory: Path, dovecot: Dovecot, odoo: Odoo) -> None:
        self.directory = directory
        self.dovecot = dovecot
        self.batch = 20
        self._odoo = odoo
        self._domain = f"{secrets.token_hex(4)}.example.com"
        self._mailboxes: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        (directory / "secrets").mkdir(parents=True)
        self.secret("key", "k-secret")
        self.secret("password", "secret")
        self.secret("client", "c-secret")

    def secret(self, name: str, value: str) -> None:
        """Write a secret of the configuration."""
        (self.directory / "secrets" / name).write_text(value)

    def mailbox(self, name: str, protocol: str = "imap", tls: str = "on_connect", **more: object) -> str:
        """Add a mailbox; returns its login."""
        login = f"{name}@{self._domain}"
        values = {
            "name": name,
            "database": "prod",
            "protocol": protocol,
            "tls": tls,
            "host": "mail.example.com",
            "address": "127.0.0.1",
            "port": self.dovecot.ports[protocol, tls],
            "login": login,
            "ca_file": str(self.dovecot.certificate.ca_file),
            **({} if "auth" in more else {"password": "password"}),
            **more,
        }
        self._mailboxes.append("[[mailboxes]]\n" + _toml(values))
        self.dovecot.deliver(login)
        return login

    def by_token(self, endpoint: Endpoint, **more: object) -> dict[str, Any]:
        """Settings of a mailbox that logs in by access token, from a refresh token unless another grant is named."""
        url = f"https://localhost:{endpoint.server_port}/token"
        oauth = {"token_url": url, "client_id": CLIENT, "client_secret": "client", **more}
        oauth["ca_file"] = str(self.dovecot.certificate.ca_file)
        if "grant" not in oauth:
            oauth.setdefault("refresh_token", "granted")
        return {"auth": "oauth2", "oauth": oauth}

    def run(self, *arguments: str) -> Done:
        """Run it to its end, or until it is killed."""
        database = {
            "name": "prod",
            "url": f"http://127.0.0.1:{self._odoo.server_port}",
            "protocol": "json2",
            "login": "gate",
            "key": "key",
            "action": 7,
            "concurrency": 1,
        }
        head = _toml({"state_directory": str(self.directory / "state"), "batch_messages": self.batch})
        config = self.directory / "config.toml"
        config.write_text("\n".join([head, "[[databases]]", _toml(database), *self._mailboxes]))
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "roles/fetch_and_route/files")}
        environment.pop("CREDENTIALS_DIRECTORY", None)
        command = [sys.executable, "-m", "fetch_and_route", "--config", str(config), *(arguments or ["run"])]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as self._process:
            try:
                output, _ = self._process.communicate(timeout=60)
            except BaseException:
                self._process.kill()
                raise
        return Done(self._process.returncode, output.splitlines())

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)

    def quarantine(self, name: str) -> list[bytes]:
        """The originals that a POP3 mailbox's quarantine holds on this host."""
        return sorted(path.read_bytes() for path in (self.directory / "state/quarantine" / name).glob("*.eml"))


def _toml(values: Mapping[str, object]) -> str:
    """A table, its tables inline; JSON's texts and numbers are TOML's."""
    return "\n".join(f"{key} = {_inline(value)}" for key, value in values.items())


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture
def program(tmp_path: Path, dovecot: Dovecot, odoo: Odoo) -> Program:
    return Program(tmp_path / "program", dovecot, odoo)


@pytest.fixture(scope="session")
def start_name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNameServer]:
    """Give a name server of a kind, the same to all tests, with its zones as at the beginning."""
    servers: dict[str, NameServer] = {}
    with ExitStack() as stack:

        def given(kind: str) -> NameServer:
            if kind not in servers:
                servers[kind] = stack.enter_context(running(kind, tmp_path_factory.mktemp(kind)))
            server = servers[kind]
            if not server.process:  # a test has stopped it
                server.start()
            server.reset()
            return server

        yield given


@pytest.fixture(params=["knot-signed", "bind-signed", "bind", "powerdns"])
def name_server(request: pytest.FixtureRequest, start_name_server: StartNameServer) -> NameServer:
    """One of each kind."""
    return start_name_server(request.param)
