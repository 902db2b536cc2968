"""Whether signatures in DNS are right, looked at by ourselves (RFC 4035 section 5). Pure, but for questions.

A resolver says `SERVFAIL` to what is forged or out of date, and also to what it could not ask in time.
"""

from __future__ import annotations

from collections.abc import Callable

import dns.dnssec
import dns.exception
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Ask = Callable[[dns.name.Name, str], dns.message.Message | None]
"""Answers what there is of a name and type, signatures with it and unverified; None when nobody answers."""


def is_right(response: dns.message.Message, ask: Ask) -> bool | None:
    """Say whether all of an answer is signed as it has to be; None when that cannot be told.

    Of an answer that there is nothing, the proofs are looked at, not what they prove. The root's keys are believed.
    """
    found = [_is_signed(rrset, response, ask) for rrset in _sets(response)]
    return False if False in found else None if None in found else True


def _sets(response: dns.message.Message) -> list[dns.rrset.RRset]:
    """Answer what an answer is about: its values, or what says that there are none."""
    sets = [rrset for rrset in response.answer or response.authority if rrset.rdtype != dns.rdatatype.RRSIG]
    return [rrset for rrset in sets if rrset.rdtype != dns.rdatatype.NS or response.answer]


def _is_signed(rrset: dns.rrset.RRset, response: dns.message.Message, ask: Ask) -> bool | None:
    section = response.answer or response.authority
    signatures = response.get_rrset(section, rrset.name, rrset.rdclass, dns.rdatatype.RRSIG, rrset.rdtype)
    if not signatures:
        return _may_be_unsigned(rrset.name, ask)
    signer = signatures[0].signer
    keys = _values(signer, "DNSKEY", ask)
    if not keys:
        return None if keys is None else False
    try:
        dns.dnssec.validate(rrset, signatures, {signer: keys})
    except dns.exception.UnsupportedAlgorithm:
        return None
    except dns.exception.DNSException:
        return False
    return _are_trusted(keys, signer, ask) if rrset.rdtype != dns.rdatatype.DNSKEY else True


def _are_trusted(keys: dns.rrset.RRset, zone: dns.name.Name, ask: Ask) -> bool | None:
    """Say whether the zone above names one of a zone's keys, and so on up to the root."""
    answer = ask(zone, "DNSKEY")
    own = _is_signed(keys, answer, ask) if answer else None
    if zone == dns.name.root or not own:
        return own
    answer, above = ask(zone, "DS"), _values(zone, "DS", ask)
    if answer is None or above is None:
        return None
    if not above:
        return True  # nobody says that it is signed
    try:
        named = {dns.dnssec.make_ds(zone, key, ds.digest_type, validating=True) for key in keys for ds in above}
    except (dns.exception.DNSException, ValueError):  # a digest that we do not know
        return None
    return _is_signed(above, answer, ask) if named & set(above) else False


def _may_be_unsigned(name: dns.name.Name, ask: Ask) -> bool | None:
    """Say whether the zone above has no DS of the zone that a name is in."""
    while name != dns.name.root and not _values(name, "SOA", ask):
        name = name.parent()
    above = _values(name, "DS", ask) if name != dns.name.root else None
    return None if above is None else not above


def _values(name: dns.name.Name, kind: str, ask: Ask) -> dns.rrset.RRset | None:
    """Answer the set of a name and type, an empty one when there is none, None when nobody answers."""
    answer = ask(name, kind)
    if answer is None:
        return None
    rdtype = dns.rdatatype.from_text(kind)
    found = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, rdtype)
    return found if found is not None else dns.rrset.RRset(name, dns.rdataclass.IN, rdtype)
