"""What dns_rrsets refuses before it asks anybody: bad input, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from library import dns_rrsets


def record(**parts: Any) -> dict[str, Any]:
    return {
        "name": "mail.example.com.",
        "type": "A",
        "ttl": 3600,
        "values": ["192.0.2.25"],
        "why": "tests",
        "rfc": "RFC 1035",
        "level": "required",
        "ownership": "exclusive",
    } | parts


def zone(directory: Path, **parts: Any) -> dict[str, Any]:
    return {
        "name": "example.com",
        "server": "192.0.2.53",
        "port": 53,
        "key_name": "mailroom",
        "key_algorithm": "hmac-sha256",
        "key_file": str(directory / "tsig"),
    } | parts


def run(directory: Path, *records: dict[str, Any], check_mode: bool = True, **options: Any) -> dict[str, Any]:
    parameters = {
        "records": list(records),
        "zones": [],
        "elsewhere": [],
        "ledger": str(directory / "ledger"),
        "adopt": [],
        "remove": [],
        "mx_takeover": False,
        "spf_consolidate": False,
        "prune": False,
        "resolver": "192.0.2.53",
        "resolver_port": 53,
        "timeout": 0.1,
        "readback_timeout": 0.1,
    }
    return dns_rrsets.run(parameters | options, check_mode)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    zones = [zone(tmp_path), zone(tmp_path, name="Example.com."), zone(tmp_path, name="a..b", key_name="x" * 64)]
    records = [record(values=["300.0.2.25"]), record(name="x" * 64), record(type="mx", values=["mail"])]
    with pytest.raises(dns_rrsets.Refused) as refused:
        run(tmp_path, *records, zones=zones, adopt=["_dmarc..example.com"])
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "zones",
        "key_name",
        "zones",
        "records",
        "records",
        "records",
        "adopt",
    ]


def test_keys_are_judged_before_any_server_is_asked(tmp_path: Path) -> None:
    zones = [zone(tmp_path), zone(tmp_path, name="example.org", key_algorithm="hmac-md5")]
    with pytest.raises(dns_rrsets.Refused) as refused:
        run(tmp_path, record(), record(name="mail.example.org."), zones=zones)
    first, second = str(refused.value).splitlines()
    assert "cannot be read" in first
    assert "hmac-md5 is not accepted" in second


def test_a_zone_without_records_of_ours_is_left_alone(tmp_path: Path) -> None:
    answer = run(tmp_path, record(name="mail.example.org.", level="recommended"), zones=[zone(tmp_path)])
    assert answer["changed"] is False
    assert answer["warnings"] == []
    assert [entry["record"] for entry in answer["unmanaged"]] == ["mail.example.org. 3600 IN A 192.0.2.25"]


def test_what_lies_in_a_zone_that_is_written_in_another_way_is_left_to_that(tmp_path: Path) -> None:
    """Also what was once written there, and though a zone of ours is around it."""
    (tmp_path / "ledger").write_text('{"version": 1, "records": {"old.erp.example.com. A": ["192.0.2.25"]}}')
    found = run(tmp_path, record(name="x.erp.example.com."), zones=[zone(tmp_path)], elsewhere=["Erp.example.com"])
    assert found == {"changed": False, "diff": [], "unmanaged": [], "leftovers": [], "warnings": []}
    with pytest.raises(dns_rrsets.Refused, match=r"elsewhere: 'a\.\.b' is no name in DNS"):
        run(tmp_path, elsewhere=["a..b"])


def test_without_zones_everything_is_to_be_set_by_hand(tmp_path: Path) -> None:
    answer = run(tmp_path, record(), record(type="PTR", values=["mail.example.com"], level="recommended"))
    assert len(answer["unmanaged"]) == 2
    [warning] = answer["warnings"]
    assert "mail.example.com. 3600 IN A 192.0.2.25" in warning
    assert "PTR" not in warning


def test_a_resolver_that_is_no_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dns_rrsets.Refused, match=r"^the resolver 'dns\.example\.com' is no address: give one such as"):
        run(tmp_path, record(), resolver="dns.example.com")


def test_a_broken_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("{", encoding="utf-8")
    with pytest.raises(dns_rrsets.Refused, match="is no ledger of this version"):
        run(tmp_path, record())


def test_a_ledger_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(dns_rrsets.Refused, match=r"file: .*: let the user who runs Ansible read and write it"):
        run(tmp_path, record(), check_mode=False, ledger=str(tmp_path / "file" / "ledger"))
