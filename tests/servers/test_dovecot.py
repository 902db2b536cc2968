"""The program against a real Dovecot: access tokens, POP3 and STARTTLS, with deaths and refusals on the way.

Needs dovecot with its IMAP and POP3 (Debian's packages dovecot-imapd and dovecot-pop3d).
"""

from __future__ import annotations

import pytest

from filter_plugins.fetch_and_route import mailboxes
from filter_plugins.providers import provider_mailboxes

from .conftest import Dovecot, Endpoint, Odoo, Program, StartDovecot

pytestmark = pytest.mark.hosts


def mail(name: str, body: str = "hello\r\n") -> bytes:
    head = "Delivered-To: sales@example.com\r\nReceived: from x\r\nFrom: a@customer.example\r\n"
    return f"{head}Message-ID: <{name}@x>\r\nSubject: {name}\r\n\r\n{body}".encode()


def names(*many: str) -> dict[str, int]:
    """Each posted once."""
    return {f"<{name}@x>": 1 for name in many}


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_refresh_token_opens_a_mailbox(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program, protocol: str, algorithm: str
) -> None:
    login = program.mailbox("prod", protocol, **program.by_token(endpoint))
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    endpoint.algorithm = algorithm
    for name in ("a", "b"):
        dovecot.deliver(login, mail(name))
        assert program.run().code == 0
    assert odoo.posted == names("a", "b")
    assert dovecot.holds(login) == []
    assert len(endpoint.forms) == 1, "a token serves the next run, too"
    assert f"user=<{login}>, method=XOAUTH2" in dovecot.log()


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_client_opens_a_mailbox_in_its_own_right(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program, protocol: str
) -> None:
    scope = "https://outlook.office365.com/.default"
    login = program.mailbox(
        "prod", protocol, "starttls", **program.by_token(endpoint, grant="client_credentials", scope=scope)
    )
    dovecot.deliver(login, mail("a"))
    endpoint.allowed = login
    assert program.run().code == 0
    assert odoo.posted == names("a")
    assert endpoint.forms == [
        {"grant_type": "client_credentials", "client_id": "mailroom", "client_secret": "c-secret", "scope": scope}
    ]


@pytest.mark.parametrize(
    ("preset", "protocol", "scope"),
    [
        ("gmail", "imap", None),
        ("microsoft365", "imap", "https://outlook.office.com/IMAP.AccessAsUser.All offline_access"),
        ("microsoft365", "pop3", "https://outlook.office.com/POP.AccessAsUser.All offline_access"),
    ],
)
def test_what_a_preset_says_opens_a_mailbox_but_for_the_hosts(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program, preset: str, protocol: str, scope: str | None
) -> None:
    here = program.by_token(endpoint)["oauth"]
    granted = {key: here[key] for key in ("client_id", "client_secret", "refresh_token")}
    provider = {"preset": preset, "login": "odoo@example.com", "oauth": granted, "smtp": False}
    provider |= {"pop3": {}} if protocol == "pop3" else {}
    (made,) = mailboxes(provider_mailboxes([{"name": "prod", "provider": provider}]))
    settings = {key: made["settings"][key] for key in ("auth", "recipient_header") if key in made["settings"]}
    login = program.mailbox("prod", protocol, made["settings"]["tls"], oauth=made["oauth"] | here, **settings)
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    dovecot.deliver(login, mail("a"))
    assert program.run().code == 0
    assert odoo.posted == names("a")
    (form,) = endpoint.forms
    assert form.get("scope") == scope


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_client_that_may_not_open_a_mailbox_says_so(
    dovecot: Dovecot, endpoint: Endpoint, program: Program, protocol: str
) -> None:
    login = program.mailbox("prod", protocol, **program.by_token(endpoint, grant="client_credentials"))
    endpoint.allowed = "somebody@else.example.com"
    for requests in (1, 2):
        done = program.run()
        assert done.code == 77
        [line] = done.lines
        assert f"allow the client mailroom to open the mailbox of '{login}'" in line
        assert len(endpoint.forms) == requests, "a new token that is refused is no reason to ask for another"
        endpoint.says = 0
    assert dovecot.logins(login) == 0
    program.secret("client", "wrong")
    done = program.run()
    assert done.code == 77
    [line] = done.lines
    assert "HTTP 401: Client authentication failed: check token_url, client_id, client_secret and scope" in line


def test_a_refresh_token_that_serves_once_is_replaced_whatever_dies(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program
) -> None:
    login = program.mailbox("prod", **program.by_token(endpoint))
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    endpoint.rotates = True
    endpoint.says = 60  # too short to be kept
    dovecot.deliver(login, mail("a"))
    odoo.committed = program.kill
    assert program.run().code == -9
    odoo.committed = lambda: None
    for _ in range(2):
        assert program.run().code == 0
    used = [form["refresh_token"] for form in endpoint.forms]
    assert used[0] == "r1"
    assert len(set(used)) == 3
    assert odoo.posted == names("a")
    assert odoo.calls == [["routed"], ["duplicate"]]


def test_a_revoked_refresh_token_stops_its_mailbox_and_no_other(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program
) -> None:
    revoked = program.mailbox("revoked", **program.by_token(endpoint))
    by_token = program.mailbox("token", "pop3", **program.by_token(endpoint, refresh_token="other"))
    by_password = program.mailbox("password")
    program.secret("granted", "r1")
    program.secret("other", "r2")
    endpoint.granted["r2"] = by_token
    for name, login in (("a", revoked), ("b", by_token), ("c", by_password)):
        dovecot.deliver(login, mail(name))
    done = program.run()
    assert done.code == 77
    [line] = [line for line in done.lines if "mailbox revoked" in line]
    assert line.endswith(
        "HTTP 400: Token has been expired or revoked.: a person must authorise again: renew the secret 'granted'"
    )
    assert odoo.posted == names("b", "c")
    assert dovecot.holds(revoked) == [mail("a")]
    program.secret("granted", "r3")
    endpoint.granted["r3"] = revoked
    assert program.run().code == 0
    assert odoo.posted == names("a", "b", "c")


def test_a_token_that_ends_during_a_run_is_replaced_where_sessions_are_renewed(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program
) -> None:
    login = program.mailbox("prod", "pop3", **program.by_token(endpoint))
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    endpoint.rotates = True
    endpoint.lasts = 3

    def long_call() -> None:
        if len(odoo.calls) == 2:
            endpoint.wait_for_the_end()
            endpoint.lasts = 3600

    odoo.committed = long_call
    many = [str(number) for number in range(620)]
    dovecot.deliver(login, *map(mail, many))
    done = program.run()
    assert done.code == 0, done.lines[-3:]
    assert odoo.posted == names(*many)
    assert all(set(call) == {"routed"} for call in odoo.calls), "nothing is asked about twice"
    assert dovecot.holds(login) == []
    assert dovecot.logins(login) == 2
    assert len(endpoint.forms) == 2


def test_a_refresh_token_that_is_revoked_during_a_run_ends_it(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program
) -> None:
    login = program.mailbox("prod", "pop3", **program.by_token(endpoint))
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    endpoint.lasts = 3

    def revoke() -> None:
        if len(odoo.calls) == 2:
            del endpoint.granted["r1"]
            endpoint.wait_for_the_end()

    odoo.committed = revoke
    many = [str(number) for number in range(620)]
    dovecot.deliver(login, *map(mail, many))
    done = program.run()
    assert done.code == 77
    [line] = [line for line in done.lines if line.startswith("mailbox prod")]
    assert line.endswith("a person must authorise again: renew the secret 'granted'")
    assert 0 < len(dovecot.holds(login)) <= 120, "what had its verdict is deleted"
    program.secret("granted", "r2")
    endpoint.granted["r2"] = login
    endpoint.lasts = 3600
    assert program.run().code == 0
    assert odoo.posted == names(*many)
    assert dovecot.holds(login) == []


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_server_that_hangs_up_when_the_token_ends_is_gone_on_with(
    dovecot: Dovecot, odoo: Odoo, endpoint: Endpoint, program: Program, protocol: str
) -> None:
    login = program.mailbox("prod", protocol, **program.by_token(endpoint))
    program.secret("granted", "r1")
    endpoint.granted["r1"] = login
    endpoint.lasts = 3

    def hang_up() -> None:
        if len(odoo.calls) == 2:
            endpoint.wait_for_the_end()
            dovecot.kick(login)

    odoo.committed = hang_up
    program.batch = 5
    many = [str(number) for number in range(20)]
    dovecot.deliver(login, *map(mail, many))
    done = program.run()
    assert done.code == 75
    [line] = [line for line in done.lines if "broke" in line]
    assert line.endswith(": the next run tries again")
    endpoint.lasts = 3600
    assert program.run().code == 0
    assert odoo.posted == names(*many)
    assert dovecot.holds(login) == []
    assert len(endpoint.forms) == 2


def test_a_server_that_takes_no_xoauth2_is_named(
    start_dovecot: StartDovecot, program: Program, endpoint: Endpoint
) -> None:
    program.dovecot = start_dovecot(mechanisms="plain oauthbearer")
    login = program.mailbox("imap", **program.by_token(endpoint, grant="client_credentials"))
    program.mailbox("pop3", "pop3", **program.by_token(endpoint, grant="client_credentials"))
    endpoint.allowed = login
    done = program.run()
    assert done.code == 77
    assert len([line for line in done.lines if line.endswith("the server takes no XOAUTH2: use a password")]) == 2
    assert program.dovecot.logins(login) == 0


HARD = {
    "dots": mail("dots", ".\r\n..\r\n.x\r\n\r\n.\r\n"),
    "long": mail("long", "x" * 100_000 + "\r\n." + "y" * 70_000 + "\r\n"),
    "bytes": mail("bytes").replace(b"hello", bytes(range(14, 256))),
    "open": mail("open", "no end of line"),
}


@pytest.mark.parametrize("tls", ["on_connect", "starttls"])
def test_a_maildrop_is_emptied_by_verdict(dovecot: Dovecot, odoo: Odoo, program: Program, tls: str) -> None:
    login = program.mailbox("prod", "pop3", tls)
    nameless = b"Delivered-To: sales@example.com\r\nReceived: x\r\nSubject: nameless\r\n\r\nhello\r\n"
    refused = [raw.replace(b"Message-ID: <", b"Message-ID: <refused-") for raw in HARD.values()]
    dovecot.deliver(login, mail("retry"), nameless, *HARD.values(), *refused)
    done = program.run()
    assert done.code == 0, done.lines
    assert dovecot.holds(login) == [mail("retry")]
    assert len(odoo.posted) == len(HARD) + 1
    ended = [raw if raw.endswith(b"\r\n") else raw + b"\r\n" for raw in refused]
    assert program.quarantine("prod") == sorted(ended), "byte for byte, but for the end of a last line"
    for name, raw in HARD.items():
        assert odoo.contents[f"<{name}@x>"].partition(b"\r\n\r\n")[2].rstrip() == raw.partition(b"\r\n\r\n")[2].rstrip()
    said = dovecot.commands(login)
    assert said.index("UIDL") < said.index("TOP 1 0") < said.index("RETR 1") < said.index("DELE 3")
    assert said[-1] == "QUIT"


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_what_dies_between_verdict_and_quit_is_asked_about_again(
    dovecot: Dovecot, odoo: Odoo, program: Program, how: str
) -> None:
    login = program.mailbox("prod", "pop3")
    program.batch = 4
    many = [mail(name) for name in ("a", "refused", *"bcdefghijk")]
    dovecot.deliver(login, *many)

    def die() -> None:
        if len(odoo.calls) == 3:  # asked when the first four are settled
            if how == "killed":
                program.kill()
            else:
                dovecot.kick(login)

    odoo.committed = die
    done = program.run()
    assert done.code == (-9 if how == "killed" else 75), done.lines
    assert "DELE 1" in dovecot.commands(login)
    assert sorted(dovecot.holds(login)) == sorted(many), "without QUIT nothing is deleted"
    assert program.quarantine("prod") == [mail("refused")], "before it is deleted anywhere"
    odoo.calls.clear()
    odoo.committed = lambda: None
    assert program.run().code == 0
    assert sorted(word for call in odoo.calls for word in call) == ["duplicate"] * 11 + ["refused"]
    assert odoo.posted == names(*"abcdefghijk")
    assert dovecot.holds(login) == []
    assert program.quarantine("prod") == [mail("refused")]


def test_a_large_maildrop_is_emptied_in_several_sessions(dovecot: Dovecot, odoo: Odoo, program: Program) -> None:
    login = program.mailbox("prod", "pop3")
    many = [f"refused-{number}" if number % 100 == 7 else str(number) for number in range(1100)]
    dovecot.deliver(login, *map(mail, many))
    done = program.run()
    assert done.code == 0
    assert dovecot.logins(login) == 3
    assert dovecot.holds(login) == []
    assert odoo.posted == names(*(name for name in many if "refused" not in name))
    assert program.quarantine("prod") == sorted(mail(name) for name in many if "refused" in name)
    assert sum(map(len, odoo.calls)) == 1100, "nothing is asked about twice"


def test_starttls_leads_to_the_same(dovecot: Dovecot, odoo: Odoo, program: Program) -> None:
    login = program.mailbox("prod", "imap", "starttls")
    dovecot.deliver(login, mail("a"), mail("refused"), mail("retry"))
    assert program.run().code == 0
    assert odoo.posted == names("a")
    assert [dovecot.holds(login, folder) for folder in ("", "Routed", "Quarantine")] == [
        [mail("retry")],
        [mail("a")],
        [mail("refused")],
    ]
    files = [file.name for folder in ("", "Routed", "Quarantine") for file in dovecot.files(login, folder)]
    assert not [name for name in files if "S" in name.partition(":2,")[2]], "nothing is marked as seen"
    assert "UID MOVE" in " ".join(dovecot.commands(login))
    assert program.run("check").code == 0


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("tls", ["on_connect", "starttls"])
def test_a_certificate_for_another_name_ends_it(
    dovecot: Dovecot, odoo: Odoo, program: Program, protocol: str, tls: str
) -> None:
    login = program.mailbox("prod", protocol, tls, host="mail.example.org")
    dovecot.deliver(login, mail("a"))
    done = program.run()
    assert done.code == 77
    [line] = done.lines
    assert line.startswith(f"mailbox prod at mail.example.org:{dovecot.ports[protocol, tls]}: connecting: ")
    assert "its certificate is not trusted: Hostname mismatch" in line
    assert login not in dovecot.log(), "nobody has tried to log in"
    assert odoo.calls == []


def test_an_authority_that_is_not_ours_ends_it(dovecot: Dovecot, program: Program) -> None:
    login = program.mailbox("prod", "imap", "starttls", ca_file="")
    done = program.run()
    assert done.code == 77
    [line] = done.lines
    assert "its certificate is not trusted: unable to get local issuer certificate" in line
    assert login not in dovecot.log()


def test_without_move_mail_is_copied_and_only_that_is_expunged(
    start_dovecot: StartDovecot, odoo: Odoo, program: Program
) -> None:
    dovecot = program.dovecot = start_dovecot(without=("MOVE",))
    login = program.mailbox("prod", "imap", "starttls")
    dovecot.deliver(login, mail("retry"), flags="T")  # which a person has marked as deleted
    dovecot.deliver(login, mail("a"), mail("refused"), mail("b"))
    done = program.run()
    assert done.code == 0, done.lines
    assert odoo.posted == names("a", "b")
    assert [sorted(dovecot.holds(login, folder)) for folder in ("", "Routed", "Quarantine")] == [
        [mail("retry")],
        [mail("a"), mail("b")],
        [mail("refused")],
    ]
    said = " ".join(dovecot.commands(login))
    assert "UID MOVE" not in said
    assert said.index("UID COPY") < said.index("UID STORE") < said.index("UID EXPUNGE")
    assert program.run("check").code == 0


def test_without_move_and_uidplus_nothing_is_touched(start_dovecot: StartDovecot, odoo: Odoo, program: Program) -> None:
    dovecot = program.dovecot = start_dovecot(without=("MOVE", "UIDPLUS"))
    login = program.mailbox("prod")
    dovecot.deliver(login, mail("a"))
    done = program.run()
    assert done.code == 77
    assert "neither MOVE nor UIDPLUS: use another server" in " ".join(done.lines)
    assert dovecot.holds(login) == [mail("a")]
    assert odoo.posted == names("a"), "and not again, however often it is asked about"
    assert program.run("check").code == 77
