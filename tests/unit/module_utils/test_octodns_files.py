from __future__ import annotations

import pytest

from module_utils.dns_plan import Key, RRset
from module_utils.octodns_files import configuration, unsafe, zone_file

ZONE = "example.com."


@pytest.mark.parametrize(
    ("name", "kind", "value", "relative", "written"),
    [
        (ZONE, "MX", "10 mail.example.com.", "", {"values": [{"preference": 10, "exchange": "mail.example.com."}]}),
        ("_dmarc.example.com.", "TXT", "v=DMARC1; p=none", "_dmarc", {"values": ["v=DMARC1; p=none"]}),
        ("m.example.com.", "CNAME", "mail.example.com.", "m", {"value": "mail.example.com."}),
        (
            "m.example.com.", "CAA", '0 issue "ca.example"', "m",
            {"values": [{"flags": 0, "tag": "issue", "value": "ca.example"}]},
        ),
        (
            "_25._tcp.m.example.com.", "TLSA", "3 1 1 0a0b", "_25._tcp.m",
            {"values": [{"certificate_usage": 3, "selector": 1, "matching_type": 1,
                         "certificate_association_data": "0a0b"}]},
        ),
    ],
)  # fmt: skip
def test_a_set_is_written_as_octodns_reads_it(
    name: str, kind: str, value: str, relative: str, written: dict[str, object]
) -> None:
    sets = {(name, kind): RRset(300, frozenset({value}))}
    assert zone_file(ZONE, sets) == {relative: [{"type": kind, "ttl": 300, **written}]}


def test_data_of_digits_alone_stay_text() -> None:
    sets = {("_25._tcp.m.example.com.", "TLSA"): RRset(300, frozenset({f"3 1 1 {'12' * 32}"}))}
    [value] = zone_file(ZONE, sets)["_25._tcp.m"][0]["values"]
    assert value["certificate_association_data"] == "12" * 32


def test_what_is_compared_is_in_the_configuration_and_no_other_set() -> None:
    observed: dict[Key, frozenset[str]] = {
        (ZONE, "TXT"): frozenset({"MS=ms1"}),
        (ZONE, "CNAME"): frozenset(),
        ("m.example.com.", "CAA"): frozenset({'0 issue "CA.example"'}),
    }
    made = configuration({"class": "a.Provider"}, [ZONE], observed)
    assert made["processors"]["mailroom"]["observed"] == {
        "example.com. TXT": ["MS=ms1"],
        "example.com. CNAME": [],
        "m.example.com. CAA": ["0 issue ca.example"],
    }
    assert made["zones"][ZONE]["processors"] == ["mailroom"]
    assert made["providers"]["target"] == {"class": "a.Provider"}


@pytest.mark.parametrize("text", ['a "quoted" one', "a\\b", "caf\xe9", "two\nlines"])
def test_a_text_that_octodns_might_change_is_told(text: str) -> None:
    assert len(unsafe({(ZONE, "TXT"): RRset(300, frozenset({text, "plain; text"}))})) == 1
    assert unsafe({(ZONE, "TXT"): RRset(300, frozenset({"plain; text", "a=b ~all"}))}) == []
