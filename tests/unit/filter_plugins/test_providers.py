"""Mailboxes and SMTP at a provider: what a preset fills in, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetch_and_route.config import parse
from filter_plugins.fetch_and_route import mailboxes
from filter_plugins.problems import mailbox_problems
from filter_plugins.providers import (
    PORTS,
    PRESETS,
    FilterModule,
    authorizations,
    odoo_servers,
    provider_domains,
    provider_mailboxes,
    uses_provider,
    with_presets,
)

GMAIL = {"preset": "gmail", "login": "odoo@example.com", "password": "app"}
GRANTED = {"client_id": "me", "refresh_token": "granted"}
MICROSOFT = {"preset": "microsoft365", "login": "odoo@example.com", "oauth": GRANTED, "smtp": False}


def database(provider: dict[str, Any]) -> dict[str, Any]:
    return {"name": "prod", "domains": [{"name": "Example.com"}, {"name": "example.net"}], "provider": provider}


def filled(provider: dict[str, Any]) -> dict[str, Any]:
    databases: Any = with_presets([database(provider)])
    found: dict[str, Any] = databases[0]["provider"]
    return found


def test_a_preset_fills_in_what_is_not_given() -> None:
    provider = filled(GMAIL)
    assert provider["imap"] == {"host": "imap.gmail.com", "port": 993, "tls": "on_connect"}
    smtp = {"host": "smtp.gmail.com", "port": 465, "tls": "on_connect"}
    assert provider["smtp"] == {**smtp, "login": "odoo@example.com", "password": "app"}
    assert provider["recipient_header"] == "X-Gm-Original-To"
    assert "pop3" not in provider
    assert "oauth" not in provider
    assert filled({**GMAIL, "oauth": GRANTED})["oauth"]["token_url"] == "https://oauth2.googleapis.com/token"


def test_what_is_given_overrides_it() -> None:
    smtp = {"host": "smtp-relay.gmail.com", "tls": "starttls", "login": "relay", "password": "other"}
    provider = filled({**GMAIL, "smtp": smtp, "recipient_header": "", "dns": {"dkim": ["mine"]}})
    assert provider["smtp"] == {**smtp, "port": 587}
    assert provider["recipient_header"] == ""
    assert provider["dns"] == {**PRESETS["gmail"]["dns"], "dkim": ["mine"]}
    assert filled({**GMAIL, "imap": {"port": 1993}})["imap"]["port"] == 1993
    assert filled({"preset": "microsoft365", "smtp": {"tls": "on_connect"}})["smtp"]["port"] == 465


@pytest.mark.parametrize(
    ("more", "scope"),
    [
        ({}, "https://outlook.office.com/IMAP.AccessAsUser.All offline_access"),
        ({"pop3": {}}, "https://outlook.office.com/POP.AccessAsUser.All offline_access"),
        ({"oauth": {**GRANTED, "grant": "client_credentials"}}, "https://outlook.office365.com/.default"),
        ({"oauth": {**GRANTED, "scope": "mine"}}, "mine"),
    ],
)
def test_microsoft_s_scope_is_that_of_protocol_and_grant(more: dict[str, Any], scope: str) -> None:
    oauth = filled({**MICROSOFT, **more})["oauth"]
    assert oauth["scope"] == scope
    assert oauth["token_url"] == "https://login.microsoftonline.com/example.com/oauth2/v2.0/token"


def test_without_a_preset_ports_belong_to_protocols() -> None:
    provider = filled({"login": "a", "password": "b", "pop3": {"host": "x.example"}, "smtp": {"host": "x.example"}})
    assert (provider["pop3"]["port"], provider["smtp"]["port"]) == (995, 465)
    assert "imap" not in provider
    assert {protocol for protocol, _ in PORTS} == {"imap", "pop3", "smtp"}


@pytest.mark.parametrize("provider", [GMAIL, {**GMAIL, "oauth": GRANTED}, MICROSOFT, {**MICROSOFT, "pop3": {}}])
def test_its_mailbox_is_one_that_the_program_understands(provider: dict[str, Any]) -> None:
    (entry,) = provider_mailboxes([database(provider)])
    assert mailbox_problems([{**entry, "name": "other"}], [{"name": "prod"}]) == []
    (made,) = mailboxes([entry])
    table = {**made["settings"], **({"oauth": made["oauth"]} if made["oauth"] else {})}
    odoo = {"name": "prod", "url": "https://x", "protocol": "json2", "login": "g", "key": "k", "action": 7}
    (mailbox,) = parse({"databases": [odoo], "mailboxes": [table]}, "x").mailboxes
    assert (mailbox.name, mailbox.auth) == ("prod", "oauth2" if "oauth" in provider else "password")
    assert (mailbox.protocol, mailbox.port) == (("pop3", 995) if "pop3" in provider else ("imap", 993))


def test_databases_with_mailboxes_here_have_none_there() -> None:
    assert provider_mailboxes([{"name": "prod", "domains": []}]) == []


def test_odoo_is_told_of_our_hosts() -> None:
    (servers,) = odoo_servers([{"name": "prod"}], ["mx1.example.com", "mx2.example.com"], {"prod": "secret"})
    assert [server["outgoing"]["host"] for server in servers] == ["mx1.example.com", "mx2.example.com"]
    assert servers[0]["outgoing"] == {
        "host": "mx1.example.com",
        "port": 465,
        "tls": "on_connect",
        "login": "prod",
        "password": "secret",
    }
    assert servers[0]["incoming"] == {
        "host": "mx1.example.com",
        "port": 993,
        "type": "imap",
        "login": "prod",
        "password": "secret",
    }
    assert all(server["ours"] for server in servers)


def test_odoo_is_told_of_a_provider_s_servers() -> None:
    ((server,),) = odoo_servers([database(GMAIL)], ["router.example.com"], {})
    assert (server["outgoing"]["host"], server["incoming"]["host"]) == ("smtp.gmail.com", "imap.gmail.com")
    assert (server["incoming"]["login"], server["incoming"]["password"]) == ("odoo@example.com", "app")
    assert not server["ours"]
    ((pop,),) = odoo_servers([database({**GMAIL, "pop3": {"host": "pop.example"}})], [], {})
    assert pop["incoming"]["type"] == "pop"


SENDING = {"client_id": "me", "client_secret": "hush", "refresh_token": "granted"}


def test_one_authorisation_serves_both_ways() -> None:
    one = database({"preset": "microsoft365", "login": "odoo@example.com", "oauth": SENDING})
    ((server,),) = odoo_servers([one], [], {})
    token_url = "https://login.microsoftonline.com/example.com/oauth2/v2.0/token"
    assert server["outgoing"] == {
        "host": "smtp.office365.com",
        "port": 587,
        "tls": "starttls",
        "login": "odoo@example.com",
        "oauth": {**SENDING, "service": "microsoft365", "token_url": token_url},
    }
    (mailbox,) = provider_mailboxes([one])
    assert mailbox["oauth"].items() >= {**SENDING, "token_url": token_url}.items()
    assert odoo_servers(with_presets([one]), [], {}) == [[server]]  # type: ignore[arg-type]


def test_odoo_sends_by_starttls_where_it_sends_by_oauth() -> None:
    smtp = filled({"preset": "gmail", "login": "odoo@example.com", "oauth": SENDING})["smtp"]
    assert (smtp["host"], smtp["port"], smtp["tls"]) == ("smtp.gmail.com", 587, "starttls")


@pytest.mark.parametrize(
    ("more", "by"),
    [
        ({}, "granted"),
        ({"password": "app"}, "app"),
        ({"smtp": {"password": "relay"}}, "relay"),
        ({"smtp": {"oauth": {"refresh_token": "sending"}}}, "sending"),
        ({"password": "app", "smtp": {"oauth": {"refresh_token": "sending"}}}, "sending"),
    ],
)
def test_a_password_goes_before_the_mailbox_s_authorisation_and_smtp_s_own_before_both(
    more: dict[str, Any], by: str
) -> None:
    ((server,),) = odoo_servers([database({**GMAIL, "password": "", "oauth": SENDING, **more})], [], {})
    outgoing = server["outgoing"]
    assert (outgoing.get("password") or outgoing["oauth"]["refresh_token"]) == by
    assert ("oauth" in outgoing) != ("password" in outgoing)


def test_odoo_may_have_an_authorisation_where_the_mailbox_has_the_application_s_right() -> None:
    application = {"client_id": "me", "client_secret": "hush", "grant": "client_credentials"}
    smtp = {"oauth": {"refresh_token": "sending"}}
    one = database({"preset": "microsoft365", "login": "odoo@example.com", "oauth": application, "smtp": smtp})
    ((server,),) = odoo_servers([one], [], {})
    assert server["outgoing"]["oauth"]["client_secret"] == "hush"
    assert "refresh_token" not in provider_mailboxes([one])[0]["oauth"]


def test_odoo_is_not_told_of_what_it_cannot_do() -> None:
    ((server,),) = odoo_servers([database(MICROSOFT)], [], {})
    assert (server["outgoing"], server["incoming"]) == (None, None)
    ((plain,),) = odoo_servers([database({**GMAIL, "imap": {"tls": "starttls"}})], [], {})
    assert plain["incoming"] is None
    assert plain["outgoing"]["host"] == "smtp.gmail.com"


@pytest.mark.parametrize(
    ("provider", "url", "scope"),
    [
        ({"preset": "gmail"}, "https://accounts.google.com/o/oauth2/v2/auth", "https://mail.google.com/"),
        (
            {"preset": "microsoft365"},
            "https://login.microsoftonline.com/example.com/oauth2/v2.0/authorize",
            "https://outlook.office.com/IMAP.AccessAsUser.All https://outlook.office.com/SMTP.Send",
        ),
        (
            {"preset": "microsoft365", "pop3": {}},
            "https://login.microsoftonline.com/example.com/oauth2/v2.0/authorize",
            "https://outlook.office.com/POP.AccessAsUser.All https://outlook.office.com/SMTP.Send",
        ),
    ],
)
def test_what_a_person_authorises(provider: dict[str, Any], url: str, scope: str) -> None:
    application = {"client_id": "me", "client_secret": "hush"}
    (made,) = authorizations([database({"login": "odoo@example.com", "oauth": application, **provider})])
    assert made.items() >= {"name": "prod", "login": "odoo@example.com", "url": url, **application}.items()
    assert made["scope"].endswith(scope)
    assert made["token_url"].endswith("/token")


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (None, ".preset: is missing"),
        ({"login": "x", "oauth": GRANTED}, ".preset: is missing"),
        ({"preset": "gmail", "pop3": {}, "login": "x", "oauth": SENDING}, ".preset: is missing"),
        ({"preset": "gmail", "oauth": SENDING}, ".login: is missing"),
        ({"preset": "gmail", "login": "x"}, ".oauth.client_id: is missing"),
        ({"preset": "gmail", "login": "x", "oauth": {"client_id": "me"}}, ".oauth.client_secret: is missing"),
    ],
)
def test_who_cannot_authorise_is_told(provider: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^odoo_databases\[prod\]\.provider\{problem}"):
        authorizations([database(provider)])


def test_the_records_of_its_domains() -> None:
    assert provider_domains([database(MICROSOFT)]) == [
        {
            "domain": domain,
            "mx": [".mail.protection.outlook.com", ".mx.microsoft"],
            "spf": "spf.protection.outlook.com",
            "dkim": ["selector1", "selector2"],
        }
        for domain in ("example.com", "example.net")
    ]
    plain = {"login": "a", "password": "b", "imap": {"host": "x.example"}, "smtp": {"host": "x.example"}}
    assert provider_domains([database(plain)])[0] == {"domain": "example.com", "mx": [], "spf": "", "dkim": []}
    assert provider_domains([{"name": "prod", "domains": [{"name": "example.com"}]}]) == []


@pytest.mark.parametrize(
    ("databases", "there"), [(None, False), ("x", False), ([{}], False), ([{"provider": 1}], True)]
)
def test_whether_there_is_a_provider(databases: Any, there: bool) -> None:
    assert uses_provider(databases) is there


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["gmail", "microsoft365", "", "starttls"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [*PRESETS["gmail"], "grant", "provider", "preset", "login", "pop3", "port", "tls", "token_url"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(VALUES | st.lists(st.fixed_dictionaries({"provider": VALUES}), max_size=2))
def test_nothing_in_an_inventory_makes_the_filling_fail(databases: Any) -> None:
    with_presets(databases)


def test_the_names_that_the_roles_use() -> None:
    assert FilterModule().filters().keys() == {
        "authorizations",
        "odoo_servers",
        "provider_domains",
        "provider_mailboxes",
        "uses_provider",
        "with_presets",
    }
