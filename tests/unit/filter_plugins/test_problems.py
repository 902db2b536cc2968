"""What is wrong with an inventory, in words; and that nothing whatever in an inventory makes the words fail."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins import providers
from filter_plugins.problems import (
    GMAIL_ENDPOINT,
    PRESETS,
    SENDING_OAUTH,
    FilterModule,
    address_problem,
    askable_databases,
    delegation_problems,
    dns_name_problems,
    dnsbl_problems,
    domain_problem,
    host_problem,
    host_problems,
    inventory_problems,
    local_part_problem,
    mailbox_problems,
    octodns_problems,
    only_odoo_online,
    problem_count,
    problem_list,
    report_problems,
    resolver_problems,
    smarthost_problems,
    unused_zone_problems,
    url_problem,
    zone_problems,
)

WHERE = "odoo_databases[prod].domains[example.com]"

SOUND: dict[str, Any] = {
    "name": "prod",
    "url": "https://odoo.example.com",
    "login": "admin",
    "password": "hunter2",
    "ca_file": "/ca.pem",
    "domains": [
        {
            "name": "example.com",
            "catchall": "reception",
            "bounce": "bounce",
            "default_from": "notifications",
            "former_names": ["catchall"],
            "postmaster": "Anna.Example@customer.example",
            "companies": ["Example Ltd", {"name": "Example GmbH", "email": "office@example.com"}],
            "aliases": [
                {"name": "sales", "model": "crm.team", "record": "Sales", "contact": "everyone"},
                {"name": "jobs+it", "model": "hr.job", "record": "IT"},
            ],
            "people": [
                {"name": "anna", "relay_to": "mx.provider.example"},
                {"name": "bert", "relay_to": "2001:db8::25"},
            ],
        },
        {"name": "erp.example.com"},
    ],
    "queue_minutes": 5,
    "fetch_minutes": 5,
    "loop_minutes": 120,
    "loop_threshold": 20,
    "allowed_senders": ["robot@customer.example"],
    "mass_mailing_server": {"host": "smtp.provider.example", "tls": "starttls", "login": "x", "password": "hunter2"},
}

HOST: dict[str, Any] = {
    "inventory_hostname": "mail.example.com",
    "mail_host_ipv4": "192.0.2.25",
    "mail_host_ipv6": "2001:db8::25",
    "ansible_facts": {
        "distribution": "Debian",
        "distribution_major_version": "13",
        "effective_user_id": 0,
        "taken_ports": {},
    },
}


def problems_with(**changes: Any) -> list[str]:
    """Problems of the sound database with other values; None takes a key out."""
    database = {**copy.deepcopy(SOUND), **changes}
    return inventory_problems([{key: value for key, value in database.items() if value is not None}])


def problems_in_domain(**changes: Any) -> list[str]:
    """The same with other values in its first domain."""
    domain = {**copy.deepcopy(SOUND["domains"][0]), **changes}
    return problems_with(domains=[{key: value for key, value in domain.items() if value is not None}])


def test_a_sound_inventory_has_no_problems() -> None:
    assert inventory_problems([SOUND]) == []
    assert inventory_problems([{**SOUND, "domains": [{"name": "example.com"}]}]) == []


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_no_databases(nothing: object) -> None:
    assert inventory_problems(nothing) == [
        "odoo_databases: is missing: list your Odoo databases as the example inventory does"
    ]


@pytest.mark.parametrize("key", ["name", "url", "login", "password", "domains"])
@pytest.mark.parametrize("empty", [None, "", []])
def test_what_is_missing_is_named(key: str, empty: Any) -> None:
    lines = problems_with(**{key: empty})
    assert len(lines) == 1
    assert lines[0].startswith(f"odoo_databases[{0 if key == 'name' else 'prod'}].{key}: is missing: ")


@pytest.mark.parametrize("key", ["name", "url", "login", "password", "ca_file"])
@pytest.mark.parametrize(("value", "kind"), [(7, "a number"), (True, "true or false"), ({"a": 1}, "a dictionary")])
def test_a_wrong_type_is_named(key: str, value: Any, kind: str) -> None:
    (line,) = problems_with(**{key: value})
    assert line.endswith(f".{key}: is {kind}, not text: put it in quotes")


def test_a_password_is_never_shown() -> None:
    assert "12345" not in str(problems_with(password=12345))
    for url in ("https://admin:hunter2@odoo.example.com", "https://admin:hun/ter2@x", "x://a:hunter2@x y"):
        (line,) = problems_with(url=url)
        assert "ter2" not in line


def test_what_is_quoted_is_short_and_on_one_line() -> None:
    (line,) = problems_in_domain(catchall="a\nb" + "x" * 1000)
    assert line.endswith("xxx... has a space: use letters, digits and . _ -")
    assert r"'a\nbxxx" in line
    assert len(line) < 200


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    assert problems_with(pasword="x") == ["odoo_databases[prod]: has no 'pasword': write password"]
    (problem,) = problems_with(zzz="x")
    assert problem.startswith(
        "odoo_databases[prod]: has no 'zzz': it has name, database, url, login, password, ca_file,"
    )
    assert problems_in_domain(catch_all="x") == [f"{WHERE}: has no 'catch_all': write catchall"]
    alias = {"name": "a", "modell": "crm.team", "model": "crm.team", "record": "A"}
    assert problems_in_domain(aliases=[alias]) == [f"{WHERE}.aliases[a]: has no 'modell': write model"]
    person = {"name": "a", "relay_to": "mx.example", "relay": 1}
    assert problems_in_domain(people=[person]) == [f"{WHERE}.people[a]: has no 'relay': write relay_to"]


def test_a_list_that_is_none_and_an_entry_that_is_no_dictionary() -> None:
    assert problems_in_domain(aliases={"name": "sales"}) == [
        f"{WHERE}.aliases: is a dictionary, not a list: write one entry per line, each after '- '"
    ]
    assert problems_in_domain(aliases=["sales"]) == [
        f"{WHERE}.aliases[0]: is text, not a dictionary: give name, model, record, contact"
    ]
    assert problems_in_domain(people="anna") == [
        f"{WHERE}.people: is text, not a list: write one entry per line, each after '- '"
    ]


def test_an_empty_entry_lacks_everything() -> None:
    def lacking(lines: list[str]) -> list[str]:
        assert all(": is missing: " in line for line in lines)
        return [line.partition(": ")[0].rpartition(".")[2] for line in lines]

    assert lacking(inventory_problems([{}])) == ["name", "url", "login", "password", "domains"]
    assert lacking(problems_with(domains=[{}])) == ["name"]
    assert lacking(problems_in_domain(aliases=[{}])) == ["name", "model", "record"]
    assert lacking(problems_in_domain(people=[{}])) == ["name", "relay_to"]
    assert lacking(zone_problems([{}])) == ["name", "server", "key_name", "key_file"]


@pytest.mark.parametrize(
    "name", ["example.com", "a.b", "xn--mnchen-3ya.example", "1.2.3.example", "r3---sn.example", "a" * 63 + ".example"]
)
def test_domains(name: str) -> None:
    assert domain_problem(name) == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("example", "it needs a dot"),
        ("example.com.", "write example.com"),
        ("Example.COM", "write example.com"),
        ("münchen.example", "write xn--mnchen-3ya.example"),
        ("mün chen.example", "its registered form"),
        ("", "is no domain"),
        (".", "is no domain"),
        ("example..com", "is no domain"),
        (".example.com", "is no domain"),
        ("example.com/", "is no domain"),
        ("example.com\n", "is no domain"),
        ("https://example.com", "is no domain"),
        ("anna@example.com", "is no domain"),
        ("exam_ple.com", "is no domain"),
        ("-a.example", "is no domain"),
        ("a-.example", "is no domain"),
        ("a b.example", "is no domain"),
        ("a" * 64 + ".example", "is no domain"),
        (".".join(["a" * 60] * 5), "is no domain"),
        ("192.0.2.1", "looks like an address"),
        ("xn--999999999.example", "what follows xn-- is not valid"),
    ],
)
def test_no_domains(name: str, problem: str) -> None:
    assert problem in domain_problem(name)


@pytest.mark.parametrize("name", ["a", "catch.all", "o'brien", "a+b", "_x-y", "1", "a" * 64])
def test_local_parts(name: str) -> None:
    assert local_part_problem(name) == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("my mail", "has a space"),
        ("mail\n", "has a space"),
        ("sales@example.com", "is a whole address"),
        ("Sales", "write sales"),
        ("böunce", "beyond ASCII"),
        (".a", "cannot stand before an @"),
        ("a.", "cannot stand before an @"),
        ("a..b", "cannot stand before an @"),
        ('"a"', "cannot stand before an @"),
        ("a,b", "cannot stand before an @"),
        ("a" * 65, "cannot stand before an @"),
        ("postmaster", "is kept for those who run the domain"),
        ("abuse", "is kept for those who run the domain"),
    ],
)
def test_no_local_parts(name: str, problem: str) -> None:
    assert problem in local_part_problem(name)
    for lines in (
        problems_in_domain(catchall=name),
        problems_in_domain(bounce=name),
        problems_in_domain(default_from=name),
        problems_in_domain(former_names=[name]),
        problems_in_domain(aliases=[{"name": name, "model": "crm.team", "record": "Sales"}]),
        problems_in_domain(people=[{"name": name, "relay_to": "mx.example"}]),
    ):
        assert len(lines) == 1
        assert problem in lines[0]
        assert "\n" not in lines[0]


@pytest.mark.parametrize(
    ("changes", "variable", "what"),
    [
        ({"catchall": "bounce"}, "bounce", "the catchall"),
        ({"catchall": "sales"}, "aliases[sales].name", "the catchall"),
        ({"bounce": "sales"}, "aliases[sales].name", "the bounce name"),
        ({"catchall": "anna"}, "people[anna].name", "the catchall"),
        ({"bounce": "anna"}, "people[anna].name", "the bounce name"),
        ({"former_names": ["sales"]}, "former_names[0]", "a business alias"),
        ({"former_names": ["x", "x"]}, "former_names[1]", "a former name"),
        ({"catchall": None}, "former_names[0]", "the catchall"),  # by default it is what was used formerly
        ({"catchall": None, "bounce": "catchall", "former_names": None}, "bounce", "the catchall"),
        ({"people": [{"name": "sales", "relay_to": "mx.example"}]}, "people[sales].name", "a business alias"),
        ({"people": [{"name": "carl", "relay_to": "mx.example"}] * 2}, "people[carl].name", "a person"),
    ],
)
def test_two_uses_of_a_name_that_exclude_each_other(changes: dict[str, Any], variable: str, what: str) -> None:
    (line,) = problems_in_domain(**changes)
    assert line.startswith(f"{WHERE}.{variable}: ")
    assert f"is already {what} of this domain" in line
    assert ": choose another name" in line
    assert ("instead_of_alias" in line) == ((what, variable[:6]) == ("a business alias", "people"))
    assert ("a person's own mail to the person" in line) == (variable.startswith("people") and what != "a person")


def test_a_person_may_have_an_alias_s_mail_on_purpose() -> None:
    person = {"name": "sales", "relay_to": "mx.example", "instead_of_alias": True}
    assert problems_in_domain(people=[person]) == []
    (line,) = problems_in_domain(people=[person, person])
    assert "is already a person of this domain" in line
    (line,) = problems_in_domain(people=[{**person, "name": "bounce"}])
    assert "is already the bounce name of this domain" in line
    (line,) = problems_in_domain(people=[{**person, "name": "carl", "instead_of_alias": "yes"}])
    assert "instead_of_alias: is text: write true or false" in line


def test_the_same_name_in_two_domains_is_fine() -> None:
    domains = [
        {"name": name, "aliases": [{"name": "sales", "model": "crm.team", "record": f"Sales {name}"}]}
        for name in ("a.example", "b.example")
    ]
    assert problems_with(domains=domains) == []


def test_a_record_has_one_alias() -> None:
    aliases = [{"name": name, "model": "crm.team", "record": "Sales"} for name in ("sales", "shop")]
    assert problems_in_domain(aliases=aliases) == [
        f"{WHERE}.aliases[shop].record: crm.team 'Sales' already has the alias domains[example.com].aliases[sales]: "
        "a record has one alias, drop one of the two"
    ]
    other = {"name": "b.example", "aliases": aliases[1:]}
    (line,) = problems_with(domains=[{"name": "a.example", "aliases": aliases[:1]}, other])
    assert "already has the alias domains[a.example].aliases[sales]" in line


@pytest.mark.parametrize(("key", "remedy"), [("name", "give what"), ("model", "crm.team"), ("record", "in Odoo")])
def test_an_incomplete_alias(key: str, remedy: str) -> None:
    alias = {"name": "sales", "model": "crm.team", "record": "Sales"}
    alias.pop(key)
    (line,) = problems_in_domain(aliases=[alias])
    assert f".{key}: is missing: " in line
    assert remedy in line


@pytest.mark.parametrize("model", ["CRM Team", "crm team", "crm.", ".crm", "crm/team"])
def test_no_models(model: str) -> None:
    (line,) = problems_in_domain(aliases=[{"name": "sales", "model": model, "record": "x"}])
    assert "is no model: write its technical name, such as crm.team" in line


def test_who_may_write_to_an_alias() -> None:
    alias = {"name": "sales", "model": "crm.team", "record": "Sales", "contact": "employees"}
    (line,) = problems_in_domain(aliases=[alias])
    assert line.endswith(".contact: 'employees' cannot be: use one of everyone, partners, followers")


@pytest.mark.parametrize(
    ("companies", "problem"), [("Example Ltd", ".companies: is text, not a list"), ([7], ".companies[0]: is a number")]
)
def test_companies_are_a_list_of_names(companies: Any, problem: str) -> None:
    assert problem in problems_in_domain(companies=companies)[0]


def test_a_company_has_one_domain_and_an_address_that_people_read() -> None:
    companies = ["Example Ltd", "Example Ltd", {"name": "Example GmbH", "email": "Reception@example.com", "mail": "x"}]
    assert problems_in_domain(companies=companies) == [
        f"{WHERE}.companies[1]: already writes from example.com: a company has one domain, keep one",
        f"{WHERE}.companies[Example GmbH]: has no 'mail': write email",
        f"{WHERE}.companies[Example GmbH].email: 'Reception@example.com' is the catchall address, which nobody reads: "
        "give one that people read",
    ]


@pytest.mark.parametrize("key", ["queue_minutes", "fetch_minutes", "loop_minutes", "loop_threshold"])
@pytest.mark.parametrize("value", [0, -5, True, "5", 2.5])
def test_an_interval_or_limit_is_a_number_from_1(key: str, value: object) -> None:
    (line,) = problems_with(**{key: value})
    assert line.startswith(f"odoo_databases[prod].{key}: {value!r} is no ")
    assert line.endswith("from 1 up; leave it out to keep Odoo's")


def test_who_and_what_odoo_allows() -> None:
    assert problems_with(allowed_senders=["robot"], allowed_domains=["example.com", "exa_mple.net"]) == [
        "odoo_databases[prod].allowed_senders[0]: 'robot' is no mail address: write name@example.com",
        "odoo_databases[prod].allowed_domains[1]: 'exa_mple.net' is no domain: letters, digits and hyphens between "
        "single dots, such as example.com",
        "odoo_databases[prod].allowed_domains: leaves out erp.example.com, an alias domain of this database: add it, "
        "or drop the whole list",
    ]
    assert problems_with(allowed_domains=["example.com", "erp.example.com", "example.net"]) == []


def test_a_server_for_mass_mailings() -> None:
    where = "odoo_databases[prod].mass_mailing_server"
    server = {"host": "192.0.2.1", "port": 587, "login": "hunter2", "user": "x"}
    assert problems_with(mass_mailing_server=server) == [
        f"{where}: has no 'user': it has host, port, tls, login, password",
        f"{where}.host: '192.0.2.1' is an address: write the server's name, which its certificate has",
        f"{where}.port: 587 begins without TLS: write tls: starttls",
        f"{where}.password: is missing: give the login's password, from Ansible Vault",
    ]
    assert problems_with(mass_mailing_server={"host": "mail.example.com"}) == []


def test_a_person_without_a_provider() -> None:
    assert problems_in_domain(people=[{"name": "anna"}]) == [
        f"{WHERE}.people[anna].relay_to: is missing: name the mail host of the provider that has the mailbox"
    ]
    (line,) = problems_in_domain(people=[{"name": "anna", "relay_to": "provider"}])
    assert "'provider' is no host name: it needs a dot" in line


@pytest.mark.parametrize("address", ["anna", "@example.com", "a b@example.com", "anna@example", "anna@exa_mple.com"])
def test_no_addresses(address: str) -> None:
    assert "is no mail address" in address_problem(address)
    assert len(problems_in_domain(postmaster=address)) == 1


@pytest.mark.parametrize("address", ["Anna@example.com", "sales@example.com", "nobody@customer.example"])
def test_a_postmaster_of_ours_is_somebody(address: str) -> None:
    assert problems_in_domain(postmaster=address) == []


@pytest.mark.parametrize("address", ["chief@example.com", "Postmaster@example.com", "anna+x@example.com"])
def test_a_postmaster_of_ours_who_is_nobody(address: str) -> None:
    (line,) = problems_in_domain(postmaster=address)
    assert line.startswith(f"{WHERE}.postmaster: '{address}' is in a domain of ours, where nobody has it: add it to")


def test_a_domain_belongs_to_one_database() -> None:
    other = {**SOUND, "name": "test", "domains": [{"name": "example.com"}]}
    assert inventory_problems([SOUND, other]) == [
        "odoo_databases[test].domains[example.com].name: example.com is given twice, first in odoo_databases[prod]: "
        "a domain has one database"
    ]
    twice = problems_with(domains=[{"name": "example.com"}, {"name": "example.com"}])
    assert len(twice) == 1


@pytest.mark.parametrize("name", ["prod", "PROD"])
def test_mailboxes_are_named_after_databases(name: str) -> None:
    other = {**SOUND, "name": name, "url": "https://odoo.example.net", "domains": [{"name": "b.example"}]}
    (line,) = inventory_problems([SOUND, other])
    assert "is given twice: the mailbox on the mail host has this name, choose another for one" in line
    assert inventory_problems([SOUND, {**other, "name": "second", "database": name}]) == []


@pytest.mark.parametrize("names", [{}, {"name": "second", "database": "prod"}])
def test_a_database_has_one_entry(names: dict[str, str]) -> None:
    other = {**SOUND, "domains": [{"name": "b.example"}], **names}
    (line,) = inventory_problems([SOUND, other])
    assert line.endswith("is the same database as odoo_databases[prod]: make one entry of both")


def test_a_database_does_not_take_the_postmasters_mailbox() -> None:
    (line,) = problems_with(name="Postmaster")
    assert "is the mailbox of those who run the host" in line


@pytest.mark.parametrize("name", ["my db", "../x", "-x", "a" * 64, "é"])
def test_no_names_of_databases(name: str) -> None:
    (line,) = problems_with(name=name)
    assert "is no name of a database: use letters, digits and . _ -" in line


@pytest.mark.parametrize(
    "url", ["https://odoo.example.com", "https://odoo.example.com:8443/", "http://localhost:8069", "https://[::1]"]
)
def test_urls(url: str) -> None:
    assert url_problem(url) == ""


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("odoo.example.com", "is no URL"),
        ("ftp://odoo.example.com", "is no URL"),
        ("https://", "is no URL"),
        ("https://odoo example.com", "is no URL"),
        ("https://odoo.example.com:port", "is no URL"),
        ("https://odoo.example.com:0", "is no URL"),
        ("https://odoo", "is no URL (odoo is no host name)"),
        ("https://[::1", "is no URL"),
        ("https://admin:x@odoo.example.com", "has a login in it"),
        ("https://odoo.example.com/web", "write https://odoo.example.com"),
        ("https://odoo.example.com/?db=prod", "write https://odoo.example.com"),
    ],
)
def test_no_urls(url: str, problem: str) -> None:
    assert problem in url_problem(url)
    assert len(problems_with(url=url)) == 1


@pytest.mark.parametrize("host", ["mx.example.com", "192.0.2.1", "2001:db8::1"])
def test_hosts_are_names_or_addresses(host: str) -> None:
    assert host_problem(host) == ""


def test_odoo_online_among_others_is_to_be_taken_out() -> None:
    online = {"name": "shop", "url": "https://shop.odoo.com"}
    assert inventory_problems([SOUND, online]) == [
        "odoo_databases[shop].url: https://shop.odoo.com is Odoo Online, which brings its own mail server: "
        "take the database out"
    ]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["https://a.odoo.com"], True),
        (["https://a.odoo.com", "https://B.Odoo.Com:443/web"], True),
        (["https://a.odoo.com", "https://odoo.example.com"], False),
        (["https://a.odoo.com.example"], False),
        (["https://notodoo.com"], False),
        (["https://odoo.com"], False),
        (["https://example.com/a.odoo.com"], False),
        ([], False),
        ([None], False),
        (["https://[a.odoo.com"], False),
    ],
)
def test_only_odoo_online(urls: list[Any], expected: bool) -> None:
    assert only_odoo_online([{"url": url} for url in urls]) is expected


def zone(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    key = tmp_path / "key"
    if not key.exists():
        key.write_text("c2VjcmV0IG9mIHRoZSB6b25l\n")
        key.chmod(0o600)
    entry = {"name": "example.com", "server": "192.0.2.53", "key_name": "mailroom", "key_file": str(key), **changes}
    return {key: value for key, value in entry.items() if value is not None}


def test_sound_zones_have_no_problems(tmp_path: Path) -> None:
    assert zone_problems(None) == []
    zones = [
        zone(tmp_path),
        zone(tmp_path, name="2.0.192.in-addr.arpa", server="ns.example.com", port=5353, key_algorithm="hmac-sha512"),
        zone(tmp_path, name="0/25.2.0.192.in-addr.arpa", key_name="Mailroom.example.com."),
    ]
    assert zone_problems(zones) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": None}, "dns_records_zones[0].name: is missing"),
        ({"name": "example.com."}, "is no zone"),
        ({"name": "Example.com"}, "is no zone"),
        ({"server": None}, ".server: is missing: name the zone's primary name server"),
        ({"server": "ns"}, "is no host name"),
        ({"port": "53"}, "is no port"),
        ({"port": 0}, "is no port"),
        ({"port": True}, "is no port"),
        ({"key_name": None}, ".key_name: is missing: give the name of the TSIG key that may update the zone"),
        ({"key_name": "my key"}, "is no name of a key"),
        ({"key_file": None}, ".key_file: is missing: name the file on the control node with the TSIG key's secret"),
        ({"key_file": "/nonexistent/key"}, "cannot be read (no such file or directory): write the key's secret"),
        ({"key_file": "/"}, "cannot be read (is a directory)"),
        ({"key_file": "~nobody-of-this-name/key"}, "cannot be read (no such user)"),
        ({"key_file": "a\0b"}, "key_file: "),
        ({"key_algorithm": "hmac-md5"}, "'hmac-md5' is broken: make a new key with hmac-sha256"),
        ({"key_algorithm": "hmac-md5.sig-alg.reg.int"}, "is broken"),
        ({"key_algorithm": "hmac-sha1"}, "is broken"),
        ({"key_algorithm": "gss-tsig"}, "is not supported: use one of hmac-sha256"),
        ({"keyfile": "x"}, "has no 'keyfile': write key_file"),
    ],
)
def test_a_zone_with_a_problem(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    (line,) = zone_problems([zone(tmp_path, **changes)])
    assert line.startswith("dns_records_zones[")
    assert problem in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty: write the key's secret into it, in base64"),
        (b" \n", "is empty"),
        (b"c2VjcmV0!c2VjcmV0", "is not a TSIG key"),
        (b"not base64!", "is not a TSIG key: it has to hold the key's secret in base64, nothing else"),
        (b'key "mailroom" { secret "c2VjcmV0"; };', "is not a TSIG key"),
        (b"\xff\xfe", "is not a TSIG key"),
    ],
)
def test_a_key_file_that_has_no_key(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    (line,) = zone_problems([zone(tmp_path)])
    assert problem in line
    assert content.decode(errors="replace").strip() not in line or not content.strip()


def test_a_key_is_for_its_owner_only(tmp_path: Path) -> None:
    zones = [zone(tmp_path)]
    (tmp_path / "key").chmod(0o640)
    assert zone_problems(zones) == []
    (tmp_path / "key").chmod(0o644)
    assert "can be read by everybody on this machine: chmod 600 it" in zone_problems(zones)[0]


def test_a_key_may_be_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zone_problems([zone(tmp_path, key_file="~/key")]) == []


def test_a_zone_is_given_once(tmp_path: Path) -> None:
    assert zone_problems([zone(tmp_path), zone(tmp_path)]) == [
        "dns_records_zones[example.com].name: example.com is given twice: keep one"
    ]


@pytest.mark.parametrize("selector", ["mailroom1", "a", "2026-11", "a" * 50])
def test_a_selector_is_one_label_with_room_for_more(selector: str) -> None:
    assert dns_name_problems([SOUND], [HOST], selector) == []


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        ("Mailroom1", "'Mailroom1' has capital letters: write mailroom1"),
        ("a" * 51, "is no selector: use a-z, digits and hyphens between, at most 50 characters"),
        ("a.b", "is no selector"),
        ("_a", "is no selector"),
        ("a-", "is no selector"),
        ("", "is missing: leave it out for mailroom1"),
        (2026, "is a number, not text: put it in quotes"),
    ],
)
def test_what_is_no_selector_is_refused(selector: object, problem: str) -> None:
    (line,) = dns_name_problems([SOUND], [HOST], selector)
    assert line.startswith("dkim_selector: ")
    assert problem in line


def test_a_name_that_is_too_long_for_what_is_put_before_it_is_refused() -> None:
    """RFC 1035, 2.3.4."""
    long = ".".join(["a" * 63] * 3 + ["b" * 33])
    database = {"name": "prod", "domains": [{"name": long[:-1]}, {"name": long}]}
    assert dns_name_problems([database], [], "mailroom1") == [
        f"odoo_databases[prod].domains[{long}].name: mailroom1-ed25519._domainkey.... would have 254 characters, "
        "and 253 are the most in DNS: use a shorter name"
    ]
    host = ".".join(["a" * 63] * 3 + ["b" * 53])
    assert dns_name_problems([], [{"inventory_hostname": host[:-1]}], "mailroom1") == []
    (line,) = dns_name_problems([], [{"inventory_hostname": host}], "mailroom1")
    assert line == f"{host}: _25._tcp.... would have 254 characters, and 253 are the most in DNS: use a shorter name"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("anna", "is no mail address: write name@example.com"),
        ("a,b@example.com", "is no mail address"),
        ("a!b@example.com", "cannot stand in a DMARC record: use letters, digits and . _ + - before the @"),
        ("", "is missing: remove the empty entry"),
        (7, "is a number, not text"),
    ],
)
def test_an_address_that_no_report_can_go_to_is_refused(address: object, problem: str) -> None:
    (line,) = report_problems(["x1+y@dmarc.provider.example", address])
    assert line.startswith("dns_records_dmarc_reports[1]: ")
    assert problem in line


def unused(*zones: object, host: dict[str, Any] = HOST, ledger: str = "") -> list[str]:
    return unused_zone_problems([{"name": zone} for zone in zones], [SOUND], [host], "mailroom1", ledger)


@pytest.mark.parametrize(
    "zone",
    [
        "example.com",
        "com",
        "erp.example.com",
        "_domainkey.example.com",
        "_dmarc.example.com",
        "mail.example.com",
        "_tcp.mail.example.com",
        "_acme-challenge.mail.example.com",
        "2.0.192.in-addr.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
    ],
)
def test_a_zone_that_holds_a_name_of_ours_is_of_use(zone: str) -> None:
    assert unused(zone) == []


@pytest.mark.parametrize(
    ("zone", "near"),
    [("exmaple.com", " (example.com?)"), ("3.0.192.in-addr.arpa", ""), ("_dmarc.customer.example", "")],
)
def test_a_zone_that_holds_no_name_of_ours_is_refused(zone: str, near: str) -> None:
    assert unused("example.com", zone) == [
        f"dns_records_zones[{zone}].name: holds no name of ours{near}: correct it, or take the zone out"
    ]


def test_a_zone_from_which_something_may_have_to_go_is_of_use(tmp_path: Path) -> None:
    host = {**HOST, "mail_host_ipv6": "", "certificate_names": ["imap.customer.example"]}
    assert unused("8.b.d.0.1.0.0.2.ip6.arpa", "customer.example", host=host) == []
    ledger = tmp_path / "ledger.json"
    ledger.write_text('{"records": {"old.example. MX": ["10 mail.example.com."]}}')
    assert unused("old.example", ledger=str(ledger)) == []
    ledger.write_text("[]")
    assert len(unused("old.example", ledger=str(ledger))) == 1


def test_a_zone_that_customers_names_lead_into_is_of_use() -> None:
    zones = [{"name": "example.com"}, {"name": "provider.example"}]
    assert len(unused_zone_problems(zones, [SOUND], [HOST], "mailroom1", "")) == 1
    assert unused_zone_problems(zones, [SOUND], [HOST], "mailroom1", "", "mail-dns.provider.example") == []


def test_a_zone_of_octodns_has_to_hold_a_name_of_ours_too() -> None:
    def unused_of_octodns(name: str) -> list[str]:
        return unused_zone_problems([], [SOUND], [HOST], "mailroom1", "", "", [{"name": name}])

    assert unused_of_octodns("example.com") == unused_of_octodns("_dmarc.example.com") == []
    what = "holds no name of ours (example.com?): correct it, or take the zone out"
    assert unused_of_octodns("exmaple.com") == [f"dns_records_octodns_zones[exmaple.com].name: {what}"]


PROVIDER = {"class": "octodns_cloudflare.CloudflareProvider", "token": "env/HOME"}


def octodns(zones: object, provider: object = PROVIDER, command: object = "/bin/true") -> list[str]:
    return octodns_problems(zones, provider, command, [{"name": "example.org"}, "nonsense"])


def test_a_sound_octodns_has_no_problems() -> None:
    zones = [{"name": "example.com"}, {"name": "erp.example.com", "server": "ns.example.com", "port": 5353}]
    assert octodns(zones) == []
    assert octodns(zones, {**PROVIDER, "token": "env/NOBODY_SETS_THIS/a default", "url": "https://a.example/b"}) == []
    assert octodns(zones, command="true") == []
    assert octodns(None, None, None) == octodns([], "nonsense", "/nowhere") == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": None}, "dns_records_octodns_zones[0].name: is missing: name it, such as example.com"),
        ({"name": "Example.com"}, "is no zone"),
        ({"name": "example.org"}, "name: example.org is written by dns_records_zones: keep one of the two"),
        ({"server": "ns"}, "is no host name"),
        ({"port": "53"}, "is no port"),
        ({"key_file": "x"}, "has no 'key_file': it has name, server, port"),
    ],
)
def test_a_zone_of_octodns_with_a_problem(changes: dict[str, Any], problem: str) -> None:
    (line,) = octodns([{"name": "example.com", **changes}])
    assert line.startswith("dns_records_octodns_zones[")
    assert problem in line


def test_a_zone_of_octodns_is_given_once() -> None:
    what = "example.com is given twice: keep one of the two"
    assert octodns([{"name": "example.com"}] * 2) == [f"dns_records_octodns_zones[example.com].name: {what}"]


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (None, ": is nothing, not a dictionary: give class, and what octoDNS needs for it"),
        ({}, ".class: is missing: give the class of the provider, as its package for octoDNS says"),
        (
            {"class": "cloudflare"},
            ".class: 'cloudflare' is no class: write one as octodns_cloudflare.CloudflareProvider",
        ),
        (
            {**PROVIDER, "keys": {"token": "env/NOBODY_SETS_THIS"}},
            ": takes 'NOBODY_SETS_THIS' from the environment, where it is not set: export it",
        ),
    ],
)
def test_a_provider_of_octodns_with_a_problem(provider: object, problem: str) -> None:
    assert octodns([{"name": "example.com"}], provider) == [f"dns_records_octodns_provider{problem}"]


@pytest.mark.parametrize("command", ["/nowhere/octodns-sync", "no-such-program", "~nobody-of-this-name/x", "a\0b"])
def test_without_octodns_nothing_is_begun(command: str) -> None:
    (line,) = octodns([{"name": "example.com"}], command=command)
    assert line.startswith("dns_records_octodns_command: ")
    assert line.endswith("install octoDNS with the provider's package, and write where its octodns-sync is")


def test_at_a_provider_octodns_writes_nothing() -> None:
    (line,) = octodns_problems([{"name": "example.com"}], None, None, None, read_only=True)
    assert line == "dns_records_octodns_zones: is not used: at a provider DNS is only looked at, remove it"


OURS, OCTODNS = [{"name": "provider.example"}], [{"name": "octodns.example"}]
CUSTOMERS = [{"domains": [{"name": "customer.example"}, {"name": "provider.example"}]}]


@pytest.mark.parametrize("name", [None, "", "provider.example", "mail-dns.provider.example", "octodns.example"])
def test_names_may_lead_into_any_zone_of_ours(name: object) -> None:
    assert delegation_problems(name, OURS, OCTODNS, CUSTOMERS, "mailroom1") == []


@pytest.mark.parametrize(
    ("name", "provider", "problem"),
    [
        ("elsewhere.example", False, "'elsewhere.example' lies in none of dns_records_zones: write the name of one"),
        ("notprovider.example", False, "lies in none of dns_records_zones"),
        ("Provider.example", False, "is no zone: write it in lower case"),
        (True, False, "is true or false, not text"),
        (["provider.example"], False, "is a list, not text"),
        (
            ".".join([*["a" * 63] * 3, "provider.example"]),
            False,
            "names of 'customer.example' below it would be longer than 253 characters: write a shorter one",
        ),
        ("provider.example", True, "is not used: at a provider DNS is only looked at, remove it"),
    ],
)
def test_a_delegation_with_a_problem(name: object, provider: bool, problem: str) -> None:
    (line,) = delegation_problems(name, OURS, None, CUSTOMERS, "mailroom1", provider)
    assert line.startswith("dns_records_delegation: ")
    assert problem in line
    assert "\n" not in line


def test_a_sound_host_has_no_problems() -> None:
    assert host_problems([HOST]) == []
    assert host_problems([{**HOST, "mail_host_ipv6": None}, {**HOST, "ansible_facts": {}}]) == []
    assert host_problems([{**HOST, "ansible_facts": "x"}, {**HOST, "ansible_facts": {"cmdline": {}}}]) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inventory_hostname": "mail"}, "mail: is no full host name: name it in the inventory by its full host name"),
        ({"mail_host_ipv4": None}, "mail_host_ipv4 of mail.example.com: is missing: give the host's public IPv4"),
        ({"mail_host_ipv4": "2001:db8::1"}, "is no IPv4 address: write one such as 192.0.2.25"),
        ({"mail_host_ipv4": "192.0.2"}, "is no IPv4 address"),
        ({"mail_host_ipv4": 3221225985}, "is a number, not text"),
        ({"mail_host_ipv4": "127.0.0.1"}, "cannot be reached by others: give the host's public address"),
        ({"mail_host_ipv4": "0.0.0.0"}, "cannot be reached by others"),  # noqa: S104 -- nothing binds to it
        ({"mail_host_ipv6": "192.0.2.1"}, "mail_host_ipv6 of mail.example.com: '192.0.2.1' is no IPv6 address"),
        ({"mail_host_ipv6": "fe80::1"}, "cannot be reached by others"),
    ],
)
def test_a_host_with_a_problem(changes: dict[str, Any], problem: str) -> None:
    (line,) = host_problems([{**HOST, **changes}])
    assert problem in line


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"distribution_major_version": "11"}, "mail.example.com: is Debian 11: use a host with Debian 12 or 13"),
        ({"distribution": "Ubuntu", "distribution_major_version": "24"}, "is Ubuntu 24: use a host with Debian"),
        ({"distribution": "Ubuntu", "distribution_major_version": "13"}, "is Ubuntu 13: use a host with Debian"),
        ({"distribution": "", "distribution_major_version": ""}, "is no system that we know: use a host with Debian"),
        (
            {"taken_ports": {"25": "exim4"}},
            "mail.example.com: port 25 is taken by exim4: stop and remove it, or use another host",
        ),
        ({"taken_ports": {"53": "dnsmasq"}}, "mail.example.com: port 53 is taken by dnsmasq: stop and remove it"),
        ({"effective_user_id": 1000}, "not root: set ansible_user: root, or ansible_become: true"),
        ({"effective_user_id": 1000, "taken_ports": {"25": "a process out of sight"}}, "not root"),
    ],
)
def test_a_host_whose_facts_are_a_problem(facts: dict[str, Any], problem: str) -> None:
    (line,) = host_problems([{**HOST, "ansible_facts": {**HOST["ansible_facts"], **facts}}])
    assert problem in line


def test_a_host_that_only_routes_is_asked_for_little() -> None:
    facts = {**HOST["ansible_facts"], "taken_ports": {"25": "exim4"}}
    router = {"inventory_hostname": "router", "ansible_facts": facts}
    assert host_problems([router], routes_only=True) == []
    assert len(host_problems([router])) == 3
    (line,) = host_problems([{**router, "ansible_facts": {**facts, "effective_user_id": 7}}], routes_only=True)
    assert "is entered as a user who is not root" in line


GMAIL = {"preset": "gmail", "login": "odoo@example.com", "password": "app-word"}
APPLICATION = {"client_id": "me", "client_secret": "app-word", "grant": "client_credentials"}
GRANTED = {"client_id": "me", "client_secret": "app-word", "refresh_token": "granted"}


def provider_problems(provider: Any, **changes: Any) -> list[str]:
    """Problems of a database with that provider and one plain domain."""
    database = {**SOUND, "domains": [{"name": "example.com"}], "provider": provider, **changes}
    return inventory_problems(providers.with_presets([database]))


@pytest.mark.parametrize(
    "provider",
    [
        GMAIL,
        {**GMAIL, "oauth": GRANTED},
        {**GMAIL, "smtp": {"host": "smtp-relay.gmail.com", "tls": "starttls"}},
        {"preset": "gmail", "login": "odoo@example.com", "oauth": GRANTED},
        {**GMAIL, "smtp": {"oauth": GRANTED}},
        {"preset": "microsoft365", "login": "odoo@example.com", "oauth": GRANTED},
        {
            "preset": "microsoft365",
            "login": "o@example.com",
            "oauth": APPLICATION,
            "smtp": {"oauth": {"refresh_token": "x"}},
        },
        {"preset": "gmail", "login": "odoo@example.com", "oauth": GRANTED, "smtp": False},
        {"preset": "microsoft365", "login": "odoo@example.com", "oauth": GRANTED, "password": "for-smtp"},
        {"preset": "microsoft365", "login": "catchall@example.com", "oauth": GRANTED, "smtp": False, "pop3": {}},
        {
            "login": "odoo",
            "password": "x",
            "imap": {"host": "mx.provider.example", "tls": "starttls"},
            "smtp": {"host": "mx.provider.example", "login": "sender", "password": "y"},
            "dns": {"mx": ["mx.provider.example"], "spf": "spf.provider.example", "dkim": ["s1"]},
            "recipient_header": "X-Original-To",
        },
    ],
)
def test_a_sound_provider_has_no_problem(provider: dict[str, Any]) -> None:
    assert provider_problems(provider) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"preset": "gmial"}, ".preset: 'gmial' cannot be: use one of gmail, microsoft365"),
        ({"login": None}, ".login: is missing: give the mailbox's login"),
        ({"password": None}, ".password: is missing: give the login's password, at Gmail an app password"),
        ({"preset": None}, ".imap.host: is missing: name the provider's server, or give the provider's preset"),
        ({"preset": None}, ".smtp.host: is missing: name the provider's server, or give the provider's preset"),
        ({"imap": {"host": "192.0.2.1"}}, ".imap.host: '192.0.2.1' is an address: write the server's name"),
        ({"imap": {"port": 143}}, ".imap.tls: 143 begins without TLS: write starttls"),
        ({"smtp": {"port": 465, "tls": "starttls"}}, ".smtp.tls: 465 begins with TLS: leave tls out"),
        ({"smtp": {"port": 0}}, ".smtp.port: 0 is no port"),
        ({"smtp": {"tls": "none"}}, ".smtp.tls: 'none' cannot be: use one of on_connect, starttls"),
        ({"smtp": True}, ".smtp: is true or false, not a dictionary"),
        ({"smtp": {"hots": "x"}}, ".smtp: has no 'hots': write host"),
        ({"pop3": {}, "imap": {}}, ".pop3: is given beside imap: fetch by one of the two"),
        ({"pop3": {}}, ".pop3: Gmail shows a message only once over POP3: leave it out for IMAP"),
        ({"preset": "microsoft365"}, ".oauth: is missing: Microsoft takes no passwords over IMAP and POP3"),
        ({"oauth": {"client_id": "me"}}, ".oauth.refresh_token: is missing: have a person authorise by playbooks/"),
        (
            {"oauth": {**GRANTED, "client_secret": ""}, "password": None},
            ".smtp.oauth.client_secret: is missing: Odoo takes no application without one",
        ),
        (
            {"oauth": APPLICATION, "password": None},
            ".smtp.oauth.refresh_token: is missing: Odoo sends by what a person's authorisation gave",
        ),
        ({"smtp": {"oauth": {"refresh_token": "granted"}}}, ".smtp.oauth.client_id: is missing"),
        ({"smtp": {"oauth": None}}, ".smtp.oauth: is nothing, not a dictionary: give token_url"),
        ({"smtp": {"oauth": {**GRANTED, "scope": "x"}}}, ".smtp.oauth: has no 'scope': it has token_url"),
        (
            {"smtp": {"oauth": GRANTED, "password": "app-word"}},
            ".smtp.password: is given beside oauth: Odoo logs in by one of the two, remove one",
        ),
        ({"smtp": {"oauth": GRANTED, "tls": "on_connect"}}, ".smtp.tls: Odoo's modules for OAuth take STARTTLS alone"),
        ({"preset": None, "smtp": {"oauth": GRANTED}}, ".smtp.oauth: Odoo sends by OAuth at Gmail and Microsoft 365"),
        (
            {"smtp": {"oauth": {**GRANTED, "token_url": "https://x.example/token"}}},
            ".smtp.oauth.token_url: Odoo's module Gmail asks https://oauth2.googleapis.com/token and no other",
        ),
        (
            {"preset": "microsoft365", "smtp": {"oauth": {**GRANTED, "token_url": "https://x.example/t"}}},
            ".smtp.oauth.token_url: 'https://x.example/t' does not end in /token",
        ),
        ({"ca_file": "ca.pem"}, ".ca_file: 'ca.pem' is a relative path"),
        ({"recipient_header": "To: x"}, ".recipient_header: 'To: x' is no name of a header"),
        ({"dns": {"spf": 1}}, ".dns.spf: is a number, not text"),
        ({"dns": ["x"]}, ".dns: is a list, not a dictionary"),
        ({"login": "Catchall@example.com", "recipient_header": ""}, ".login: 'Catchall@example.com' is an address of"),
        ({"extra": 1}, ": has no 'extra': it has preset, login, password"),
    ],
)
def test_what_is_wrong_with_a_provider_is_said(changes: dict[str, Any], problem: str) -> None:
    provider = {key: value for key, value in {**GMAIL, **changes}.items() if value is not None}
    lines = provider_problems(provider)
    assert [line for line in lines if f"odoo_databases[prod].provider{problem}" in line]
    assert not [line for line in lines if "app-word" in line or "granted" in line]


def test_what_is_the_provider_s_business_is_refused() -> None:
    people = [{"name": "anna", "relay_to": "mx.provider.example"}]
    domain = {"name": "example.com", "people": people, "postmaster": "anna@example.com"}
    assert provider_problems(GMAIL, domains=[domain]) == [
        f"{WHERE}.people: is the provider's business: make the mailbox or alias there, remove it here",
        f"{WHERE}.postmaster: is the provider's business: make the mailbox or alias there, remove it here",
    ]
    assert provider_problems(None) == [
        "odoo_databases[prod].provider: is nothing, not a dictionary: give preset, login, password, oauth, imap, pop3, "
        "smtp, ca_file, recipient_header, dns"
    ]
    (line,) = zone_problems([{"name": "example.com"}], read_only=True)
    assert line == "dns_records_zones: is not used: at a provider DNS is only looked at, remove it"


def test_a_provider_is_for_all_databases_or_for_none() -> None:
    second = {**SOUND, "name": "second", "domains": [{"name": "second.example.com"}]}
    first = {**SOUND, "domains": [{"name": "example.com"}], "provider": GMAIL}
    assert inventory_problems(providers.with_presets([first, second])) == [
        "odoo_databases: some have a provider, some a mail server of ours: give all databases a provider or none: "
        "a second inventory is for the others"
    ]


def test_every_preset_is_known() -> None:
    assert set(PRESETS) == set(providers.PRESETS)
    assert SENDING_OAUTH == providers.SENDING_OAUTH
    assert providers.PRESETS["gmail"]["oauth"]["token_url"] == GMAIL_ENDPOINT


def test_a_port_counts_only_where_it_is_used() -> None:
    facts = {**HOST["ansible_facts"], "taken_ports": {"995": "courier"}}
    assert host_problems([{**HOST, "ansible_facts": facts}]) == []
    (line,) = host_problems([{**HOST, "ansible_facts": facts, "dovecot_pop3": True}])
    assert "port 995 is taken by courier" in line
    facts["taken_ports"] = {"443": "nginx"}
    assert host_problems([{**HOST, "ansible_facts": facts}]) == []
    (line,) = host_problems([{**HOST, "ansible_facts": facts}], {HOST["inventory_hostname"]: ["mta-sts.example.com"]})
    assert "port 443 is taken by nginx: stop and remove it, or write mta_sts_enabled: false" in line


def test_everything_is_said_at_once() -> None:
    lines = inventory_problems(
        [
            {"name": "a", "url": "nowhere", "domains": [{"name": "x", "catchall": "a b", "bounce": "A"}]},
            {"name": "b b", "login": "admin", "domains": [{"name": "x y"}]},
        ]
    )
    assert [line.partition(":")[0] for line in lines] == [
        "odoo_databases[a].url",
        "odoo_databases[a].login",
        "odoo_databases[a].password",
        "odoo_databases[a].domains[x].name",
        "odoo_databases[a].domains[x].catchall",
        "odoo_databases[a].domains[x].bounce",
        "odoo_databases[b b].name",
        "odoo_databases[b b].url",
        "odoo_databases[b b].password",
        "odoo_databases[b b].domains[x y].name",
    ]


def test_sound_databases_are_askable_as_they_are() -> None:
    (askable,) = askable_databases([{**SOUND, "database": "main"}])
    assert askable["database"] == "main"
    assert {key: askable[key] for key in ("name", "url", "login", "password", "ca_file")} == {
        key: SOUND[key] for key in ("name", "url", "login", "password", "ca_file")
    }
    first, second = askable["domains"]
    assert first == {key: SOUND["domains"][0][key] for key in ("name", "catchall", "bounce", "aliases", "people")}
    assert second == {"name": "erp.example.com", "aliases": [], "people": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"url": None},
        {"url": "nowhere"},
        {"url": "https://acme.odoo.com"},
        {"login": ""},
        {"password": 7},
    ],
)
def test_what_cannot_be_asked_is_left_out(changes: dict[str, Any]) -> None:
    assert askable_databases([{**SOUND, **changes}, "text", SOUND]) == askable_databases([SOUND])


def test_parts_that_are_unsound_are_not_asked_about() -> None:
    domains = [{"name": 7}, "x", {"name": "a.example", "catchall": 7, "aliases": [{"name": "x"}, 7], "people": "anna"}]
    (askable,) = askable_databases([{**SOUND, "domains": domains}])
    assert askable["domains"] == [{"name": "a.example", "aliases": [], "people": []}]


def test_problems_are_listed_under_their_number() -> None:
    assert problem_count(["a"]) == "1 problem"
    assert problem_list(["a", "b"]) == "2 problems; nothing was changed:\na\nb"


KEYS = st.sampled_from(
    [
        "name url login password ca_file domains catchall bounce default_from former_names postmaster aliases people",
        "model record relay_to server port key_name key_algorithm key_file inventory_hostname mail_host_ipv4",
        "mail_host_ipv6 ansible_facts distribution distribution_major_version effective_user_id taken_ports",
    ]
).flatmap(lambda names: st.sampled_from(names.split()))
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text("ax-.@:/ []\n\0é漢", max_size=12),
    st.sampled_from(["example.com", "https://a.example", "https://a.odoo.com", "xn--a.example", "xn--.x", "192.0.2.1"]),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=3), st.integers()), inner, max_size=5),
    ),
    max_leaves=25,
)


@given(ANYTHING | st.lists(ANYTHING, max_size=3))
def test_nothing_in_an_inventory_makes_a_filter_fail(value: Any) -> None:
    postfix = [*smarthost_problems(value, value), *dnsbl_problems(value)]
    delegation = delegation_problems(value, value, value, value, value)
    delegation += delegation_problems("provider.example", OURS, value, value, value)
    mailboxes = mailbox_problems(value, value)
    resolver = resolver_problems(value, value, value)
    names = [
        *dns_name_problems(value, value, value),
        *unused_zone_problems(value, value, value, value, "", value, value),
        *octodns_problems(value, value, value, value),
    ]
    zones = [*zone_problems(value), *delegation, *names, *report_problems(value)]
    for lines in (inventory_problems(value), zones, host_problems(value), mailboxes, resolver, postfix):
        for line in lines:
            assert isinstance(line, str)
            assert len(line.splitlines()) == 1
            assert line.isprintable()
    assert isinstance(only_odoo_online(value), bool)
    assert isinstance(askable_databases(value), list)


@given(
    st.sampled_from(["name", "url", "login", "password", "ca_file", "domains"]) | st.text(max_size=5),
    ANYTHING,
)
def test_nothing_in_a_sound_database_makes_a_filter_fail(key: str, value: Any) -> None:
    assert all(line.isprintable() for line in inventory_problems([{**SOUND, key: value}]))


@given(st.sampled_from(sorted(SOUND["domains"][0])), ANYTHING)
def test_nothing_in_a_sound_domain_makes_a_filter_fail(key: str, value: Any) -> None:
    databases = [{**SOUND, "domains": [{**SOUND["domains"][0], key: value}]}]
    assert all(line.isprintable() for line in inventory_problems(databases))
    askable_databases(databases)


MAILBOX: dict[str, Any] = {
    "name": "info",
    "database": "prod",
    "protocol": "pop3",
    "host": "pop.provider.example",
    "port": 1110,
    "tls": "starttls",
    "ca_file": "/c/ca.pem",
    "login": "info@example.com",
    "password": "hunter2",
    "inbox": "INBOX",
    "routed": "Done",
    "quarantine": "Odd",
}
OAUTH = {
    "token_url": "https://login.provider.example/token?v=2",
    "client_id": "me",
    "client_secret": "hunter2",
    "refresh_token": "hunter3",
    "scope": "https://mail.provider.example/ offline_access",
    "ca_file": "/c/ca.pem",
}
BY_TOKEN = {"name": "t", "database": "prod", "host": "h.example.com", "login": "l", "auth": "oauth2", "oauth": OAUTH}
OWN = {"token_url": "http://127.0.0.1:8080/", "client_id": "c", "client_secret": "s", "grant": "client_credentials"}


def test_sound_mailboxes_have_no_problems() -> None:
    assert mailbox_problems(None, None) == []
    mailboxes = [MAILBOX, BY_TOKEN, {**BY_TOKEN, "name": "own", "oauth": OWN}]
    assert mailbox_problems(mailboxes, [SOUND]) == []


@pytest.mark.parametrize(
    ("mailbox", "problem"),
    [
        ({**MAILBOX, "name": None}, "fetch_and_route_mailboxes[0].name: is missing: give it one"),
        ({**MAILBOX, "name": "a/b"}, ".name: 'a/b' is no name: use letters"),
        ({**MAILBOX, "name": "Prod"}, ".name: Prod is a database's or another mailbox's: choose another name"),
        ({**MAILBOX, "database": "test"}, ".database: 'test' cannot be: use one of prod"),
        ({**MAILBOX, "database": None}, ".database: is missing"),
        ({**MAILBOX, "host": "mail"}, "is no host name"),
        ({**MAILBOX, "host": "pop.gmail.com"}, "[info].host: Gmail shows a message only once over POP3"),
        ({**MAILBOX, "protocol": "pop"}, "'pop' cannot be: use one of imap, pop3"),
        ({**MAILBOX, "port": "993"}, "'993' is no port"),
        ({**MAILBOX, "tls": "none"}, "'none' cannot be: use one of on_connect, starttls"),
        ({**MAILBOX, "ca_file": "ca.pem"}, "is a relative path"),
        ({**MAILBOX, "login": ""}, ".login: is missing"),
        ({**MAILBOX, "password": None}, ".password: is missing: give the login's password, from Ansible Vault"),
        ({**MAILBOX, "password": 1}, ".password: is a number, not text"),
        ({**MAILBOX, "quarantine": "Quarantäne"}, ".quarantine: 'Quarantäne' is no folder we can name"),
        ({**MAILBOX, "auth": "ntlm"}, "'ntlm' cannot be: use one of password, oauth2"),
        ({**MAILBOX, "oauth": OAUTH}, ".oauth: is not used: write auth: oauth2, or remove it"),
        ({**MAILBOX, "pasword": "x"}, "has no 'pasword': write password"),
        ({**BY_TOKEN, "password": "hunter2"}, ".password: is not used with auth: oauth2: remove it"),
        ({**BY_TOKEN, "oauth": None}, ".oauth: is nothing, not a dictionary: give token_url"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "tenant": "t"}}, "[t].oauth: has no 'tenant'"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "token_url": "http://login.example.com/"}}, "is no token endpoint"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "token_url": "https://[x"}}, "is no token endpoint"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "client_id": ""}}, ".oauth.client_id: is missing"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "refresh_token": ""}}, ".oauth.refresh_token: is missing"),
        ({**BY_TOKEN, "oauth": {**OWN, "client_secret": ""}}, ".oauth.client_secret: is missing"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "grant": "password"}}, "use one of refresh_token, client_credentials"),
        ({**BY_TOKEN, "oauth": {**OAUTH, "ca_file": "ca.pem"}}, ".oauth.ca_file: 'ca.pem' is a relative path"),
        ("info", "fetch_and_route_mailboxes[0]: is text, not a dictionary"),
    ],
)
def test_a_mailbox_with_a_problem(mailbox: Any, problem: str) -> None:
    (line,) = mailbox_problems([mailbox], [SOUND])
    assert problem in line
    assert line.startswith("fetch_and_route_mailboxes[")
    assert "hunter" not in line


def test_two_mailboxes_have_two_names() -> None:
    (line,) = mailbox_problems([MAILBOX, {**BY_TOKEN, "name": "INFO"}], [SOUND])
    assert line.startswith("fetch_and_route_mailboxes[INFO].name: INFO is a database's or another mailbox's")


@given(st.sampled_from([*sorted(MAILBOX), "auth", "oauth"]), ANYTHING)
def test_nothing_in_a_sound_mailbox_makes_a_filter_fail(key: str, value: Any) -> None:
    for mailbox in (MAILBOX, BY_TOKEN):
        assert all(line.isprintable() for line in mailbox_problems([{**mailbox, key: value}], [SOUND]))


@given(st.sampled_from([*sorted(OAUTH), "grant"]), ANYTHING)
def test_nothing_in_a_sound_oauth_makes_a_filter_fail(key: str, value: Any) -> None:
    lines = mailbox_problems([{**BY_TOKEN, "oauth": {**OAUTH, key: value}}], [SOUND])
    assert all(line.isprintable() for line in lines)


SMARTHOST: dict[str, Any] = {
    "host": "smtp.provider.example",
    "port": 2525,
    "tls": "starttls",
    "login": "info@example.com",
    "password": "hunter2 # with: all sorts",
    "domains": ["example.com"],
}


def test_sound_smarthosts_have_no_problems() -> None:
    assert smarthost_problems(None, None) == []
    by_address = {"host": "relay.provider.example", "port": 25, "tls": "starttls", "domains": ["erp.example.com"]}
    default = {"host": "smtp.provider.example", "login": "prod", "password": "hunter2"}
    assert smarthost_problems([SMARTHOST, by_address, default], [SOUND]) == []


@pytest.mark.parametrize(
    ("smarthost", "problem"),
    [
        ({**SMARTHOST, "host": None}, "postfix_smarthosts[0].host: is missing: name the provider's server"),
        ({**SMARTHOST, "host": "192.0.2.1"}, ".host: '192.0.2.1' is an address: write the server's name"),
        ({**SMARTHOST, "host": "[smtp.provider.example]"}, "is no host name"),
        ({**SMARTHOST, "tls": "may"}, "'may' cannot be: use one of on_connect, starttls"),
        ({**SMARTHOST, "tls": True}, ".tls: is true or false, not text"),
        ({**SMARTHOST, "port": 0}, ".port: 0 is no port"),
        ({**SMARTHOST, "port": "465"}, ".port: '465' is no port"),
        ({**SMARTHOST, "port": 465}, ".port: 465 begins with TLS: leave tls out"),
        ({**SMARTHOST, "port": 587, "tls": "on_connect"}, ".port: 587 begins without TLS: write tls: starttls"),
        ({**SMARTHOST, "login": None}, ".login: is missing: give the login at the server (only on port 25"),
        ({**SMARTHOST, "port": 25, "login": None}, ".login: is missing"),
        ({**SMARTHOST, "login": "a:b"}, ".login: 'a:b' cannot be kept: no colon"),
        ({**SMARTHOST, "password": None}, ".password: is missing: give the login's password, from Ansible Vault"),
        ({**SMARTHOST, "port": 25, "password": ""}, ".password: is missing"),
        ({**SMARTHOST, "password": 1234}, ".password: is a number, not text"),
        ({**SMARTHOST, "password": "hunter2\n"}, ".password: cannot be kept: it has a space at its ends or a control"),
        ({**SMARTHOST, "pasword": "x"}, "has no 'pasword': write password"),
        ({**SMARTHOST, "domains": "example.com"}, ".domains: is text, not a list"),
        ({**SMARTHOST, "domains": ["other.example"]}, "domains[0]: 'other.example' cannot be: use one of example.com"),
        ({**SMARTHOST, "domains": ["example.com"] * 2}, "domains[1]: example.com is given twice"),
        ("smtp.provider.example", "postfix_smarthosts[0]: is text, not a dictionary"),
    ],
)
def test_a_smarthost_with_a_problem(smarthost: Any, problem: str) -> None:
    (line,) = smarthost_problems([smarthost], [SOUND])
    assert problem in line
    assert line.startswith("postfix_smarthosts[")
    assert "hunter" not in line


def test_one_smarthost_takes_what_no_other_does() -> None:
    default = {"host": "smtp.provider.example", "login": "prod", "password": "hunter2"}
    (line,) = smarthost_problems([default, {**default, "host": "smtp.other.example"}], [SOUND])
    assert line.startswith("postfix_smarthosts[smtp.other.example]: is the second without domains")


@given(st.sampled_from(sorted(SMARTHOST)), ANYTHING)
def test_nothing_in_a_sound_smarthost_makes_a_filter_fail(key: str, value: Any) -> None:
    assert all(line.isprintable() for line in smarthost_problems([{**SMARTHOST, key: value}], [SOUND]))


def test_sound_lists_of_bad_addresses_have_no_problems() -> None:
    assert (
        dnsbl_problems(
            ["zen.spamhaus.org=127.0.0.[2..11]*3", "list.example.com=127.0.0.2", "ok.example.com=127.0.0.1*-2"]
        )
        == []
    )


@pytest.mark.parametrize(
    ("site", "problem"),
    [
        ("zen.spamhaus.org", "counts every answer, errors too, and would refuse all mail"),
        ("zen.spamhaus.org*3", "counts every answer"),
        ("zen.spamhaus.org=0.0.0.0", "counts answers that no list gives"),
        ("https://list.example", "is no list: write one such as zen.spamhaus.org=127.0.0.[2..11]*3"),
        ("list.example.com=127.0.0.2 other.example.com", "is no list"),
        ("", "is missing: remove the empty entry"),
        (3, "is a number, not text"),
    ],
)
def test_a_list_of_bad_addresses_with_a_problem(site: Any, problem: str) -> None:
    (line,) = dnsbl_problems([site])
    assert line.startswith("postfix_dnsbl_sites[0]: ")
    assert problem in line


def test_the_filters_have_names() -> None:
    assert sorted(FilterModule().filters()) == [
        "askable_databases",
        "delegation_problems",
        "dns_name_problems",
        "dnsbl_problems",
        "host_problems",
        "inventory_problems",
        "mailbox_problems",
        "octodns_problems",
        "only_odoo_online",
        "problem_count",
        "problem_list",
        "report_problems",
        "resolver_problems",
        "smarthost_problems",
        "unused_zone_problems",
        "zone_problems",
    ]


def test_a_relative_authority_is_told_before_somebody_looks_for_it_elsewhere() -> None:
    problems = inventory_problems([{"name": "prod", "ca_file": "ca.pem"}])

    assert [line for line in problems if "ca_file: 'ca.pem' is a relative path" in line]


def test_a_sound_resolver_has_no_problems() -> None:
    assert resolver_problems(None, None, None) == []
    zones = [{"name": "corp.example", "servers": ["192.0.2.53", "2001:db8::53@5353"]}]
    anchors = [
        ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
        "corp.example. 3600 IN DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+",
    ]
    assert resolver_problems(["192.0.2.53", "2001:db8::53@65535"], zones, anchors) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((["dns.example.com"], None, None), "unbound_forwarders[0]: 'dns.example.com' is no address of a resolver"),
        ((["192.0.2.53@0"], None, None), "has no port after its @"),
        (("192.0.2.53", None, None), "unbound_forwarders: is text, not a list"),
        ((None, [{"name": "corp.example"}], None), "unbound_forward_zones[corp.example].servers: is missing"),
        ((None, [{"name": "x", "servers": [""]}], None), "[x].servers[0]: is missing: remove the empty entry"),
        ((None, [{"name": 'a"b', "servers": ["192.0.2.53"]}], None), "is no zone"),
        (
            (None, None, ["corp.example IN DS 1 8 2 AB"]),
            "unbound_trust_anchors[0]: 'corp.example IN DS 1 8 2 AB' is no DS",
        ),
        ((None, None, ['. IN DS 1 8 2 AB"\n']), "is no DS or DNSKEY record"),
    ],
)
def test_a_resolver_with_a_problem(given: tuple[Any, Any, Any], problem: str) -> None:
    (line,) = resolver_problems(*given)
    assert problem in line
