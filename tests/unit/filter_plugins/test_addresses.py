"""Addresses: who is accepted, where it goes, who may send as whom."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins import addresses

HOST = "mail.example.com"


def database(name: str = "prod", **domain: Any) -> dict[str, Any]:
    return {"name": name, "domains": [{"name": "example.com", **domain}]}


FULL = database(
    catchall="Reception",
    bounce="returns",
    default_from="odoo",
    former_names=["catchall"],
    aliases=[{"name": "sales", "model": "crm.team", "record": "Sales"}],
    people=[{"name": "Anna", "relay_to": "MX.provider.example."}, {"name": "bob", "relay_to": "2001:db8::25"}],
)


def test_every_name_of_a_domain_is_a_recipient() -> None:
    odoo = {"prod": {"version": "19.0", "former": {"example.com": ["old-bounce"]}}}
    assert addresses.recipients([FULL], odoo, HOST) == [
        "abuse@example.com",
        "abuse@mail.example.com",
        "anna@example.com",
        "bob@example.com",
        "catchall@example.com",
        "dmarc-reports@example.com",
        "mailer-daemon@mail.example.com",
        "odoo@example.com",
        "old-bounce@example.com",
        "postmaster@example.com",
        "postmaster@localhost",
        "postmaster@mail.example.com",
        "reception@example.com",
        "reports@reports.localhost",
        "returns@example.com",
        "root@mail.example.com",
        "sales@example.com",
        "tls-reports@example.com",
    ]


def test_names_have_odoos_defaults() -> None:
    found = addresses.recipients([database()], None, HOST)
    assert {"catchall@example.com", "bounce@example.com", "notifications@example.com"} <= set(found)


def test_former_names_belong_to_their_own_database() -> None:
    databases = [database(), {"name": "test", "domains": [{"name": "test.example.com"}]}]
    odoo = {"test": {"former": {"example.com": ["stranger"], "test.example.com": ["former"]}}}
    found = addresses.recipients(databases, odoo, HOST)
    assert "former@test.example.com" in found
    assert "stranger@example.com" not in found


def test_peoples_mail_goes_to_their_provider_without_a_look_up() -> None:
    assert addresses.people_transports([FULL]) == {
        "anna@example.com": "smtp:[mx.provider.example]",
        "bob@example.com": "smtp:[2001:db8::25]",
    }


def test_a_databases_account_may_send_as_its_domains_only() -> None:
    databases = [FULL, {"name": "Test", "domains": [{"name": "a.example"}, {"name": "b.example"}]}]
    assert addresses.sender_logins(databases) == {"@example.com": "prod", "@a.example": "test", "@b.example": "test"}
    assert addresses.domain_databases(databases) == {"example.com": "prod", "a.example": "Test", "b.example": "Test"}


def test_postmaster_and_abuse_are_local_unless_forwarded() -> None:
    databases = [
        database(),
        {"name": "test", "domains": [{"name": "b.example", "postmaster": "Admin@Elsewhere.example"}]},
    ]
    assert addresses.forwards(databases, {}, HOST) == {
        "abuse@b.example": "admin@elsewhere.example",
        "abuse@example.com": addresses.POSTMASTER,
        "abuse@mail.example.com": addresses.POSTMASTER,
        "dmarc-reports@b.example": addresses.REPORTS,
        "dmarc-reports@example.com": addresses.REPORTS,
        "mailer-daemon@mail.example.com": addresses.POSTMASTER,
        "postmaster@b.example": "admin@elsewhere.example",
        "postmaster@example.com": addresses.POSTMASTER,
        "postmaster@mail.example.com": addresses.POSTMASTER,
        "root@mail.example.com": addresses.POSTMASTER,
        "tls-reports@b.example": addresses.REPORTS,
        "tls-reports@example.com": addresses.REPORTS,
    }


def test_an_abuse_address_of_odoo_or_of_a_person_is_theirs() -> None:
    mine = database(aliases=[{"name": "abuse"}], people=[{"name": "postmaster", "relay_to": "mx.provider.example"}])
    assert not {"abuse@example.com", "postmaster@example.com"} & set(addresses.forwards([mine], {}, HOST))


def test_the_host_may_have_the_domains_own_name() -> None:
    found = addresses.forwards([database(postmaster="admin@elsewhere.example")], {}, "example.com")
    assert found["postmaster@example.com"] == "admin@elsewhere.example"
    assert found["root@example.com"] == addresses.POSTMASTER


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"catchall": "catch all"}, "example.com: 'catch all' is not the part of an address before the @"),
        ({"aliases": [{"name": "a@b"}]}, "'a@b' is not the part"),
        ({"aliases": [{"name": "a\nroot"}]}, r"'a\\nroot' is not the part"),
        ({"former_names": [".a"]}, "'.a' is not the part"),
        ({"people": [{"name": "anna", "relay_to": "mx provider"}]}, "people of example.com: 'mx provider' is not"),
        ({"postmaster": "somebody"}, "postmaster of example.com: 'somebody' is not a mail address"),
    ],
)
def test_what_is_no_address_is_refused_with_its_place(domain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        addresses.recipients([database(**domain)], {}, HOST)


def test_a_domain_is_written_as_dns_has_it() -> None:
    with pytest.raises(ValueError, match="odoo_databases, prod: 'exämple' is not a domain name"):
        addresses.domain_databases([{"name": "prod", "domains": [{"name": "exämple"}]}])


def test_two_databases_cannot_share_a_domain() -> None:
    with pytest.raises(ValueError, match=r"odoo_databases, test: example\.com already belongs to prod"):
        addresses.domain_databases([database(), database("test")])


SMARTHOSTS: list[dict[str, Any]] = [
    {"host": "smtp.Provider.example", "login": "prod", "password": "it's: # a secret"},
    {"host": "relay.provider.example", "port": 25, "tls": "starttls", "domains": ["erp.example.com"]},
    {
        "host": "smtp.provider.example",
        "tls": "starttls",
        "login": "x",
        "password": "y",
        "domains": ["Example.com", "b.example"],
    },
]


def test_each_smarthost_is_a_service_of_its_own() -> None:
    found = addresses.smarthosts(SMARTHOSTS)
    assert [(each["service"], each["next_hop"], each["tls"]) for each in found] == [
        ("smarthost1", "[smtp.provider.example]:465", "on_connect"),
        ("smarthost2", "[relay.provider.example]:25", "starttls"),
        ("smarthost3", "[smtp.provider.example]:587", "starttls"),
    ]


def test_the_smarthost_without_domains_takes_what_is_left() -> None:
    assert addresses.default_transport(SMARTHOSTS) == "smarthost1:[smtp.provider.example]:465"
    assert addresses.default_transport(SMARTHOSTS[1:]) == addresses.default_transport([]) == "smtp"


def test_a_sender_has_the_smarthost_of_the_domain() -> None:
    assert addresses.smarthost_transports(SMARTHOSTS) == {
        "@erp.example.com": "smarthost2:[relay.provider.example]:25",
        "@example.com": "smarthost3:[smtp.provider.example]:587",
        "@b.example": "smarthost3:[smtp.provider.example]:587",
    }


def test_a_login_is_for_the_senders_of_the_domain_or_for_the_rest() -> None:
    assert addresses.smarthost_passwords(SMARTHOSTS) == {
        "[smtp.provider.example]:465": "prod:it's: # a secret",
        "@example.com": "x:y",
        "@b.example": "x:y",
    }


def test_the_filters_are_the_functions() -> None:
    for name, function in addresses.FilterModule().filters().items():
        assert function is getattr(addresses, name)
