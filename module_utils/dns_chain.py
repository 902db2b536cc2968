"""How DNSSEC's chain of trust reaches a zone, and where and why it breaks (RFC 4033 to 4035). Pure, but for questions.

A validating resolver says `SERVFAIL` to everything below a broken link. What is asked without validation (see
module_utils.dns_world) shows which link it is, and why, also where the resolver gives no reason itself (RFC 8914).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import dns.dnssec
import dns.dnssectypes
import dns.exception
import dns.name
import dns.rdata
import dns.rdtypes.ANY.DNSKEY
import dns.rdtypes.ANY.DS

if TYPE_CHECKING:
    from module_utils.dns_world import Answer
else:
    from ansible.module_utils.dns_world import Answer

State = Literal["secure", "insecure", "broken", "unknown"]

SEP = 1  # flag of a key that a DS is to name (RFC 4034 section 2.1.1)
ZONE_KEY = 256
SHORT = 12 * 3600  # seconds; who signs at the moment of asking signs for a day or so, others for weeks


@dataclass(frozen=True)
class Link:
    """What DNSSEC makes of a zone.

    zone: the one that it depends on, absolute: where the chain breaks, the highest that is at fault. text: what is so,
    and unless all is well what to do; empty when nothing is known.
    """

    zone: str
    state: State
    text: str = ""


def chain(zone: str, ask: Callable[[str, str], Answer]) -> Link:
    """Answer what DNSSEC makes of a zone, given as an absolute name."""
    soa = ask(zone, "SOA")
    root = ask(".", "SOA")
    if root.bogus:
        text = f"the resolver trusts no key of the root ({root.bogus}): correct its trust anchor and its clock"
        return Link(".", "broken", text)
    if soa.bogus:
        labels = zone.rstrip(".").split(".")
        places = [".".join(labels[place:]) + "." for place in range(len(labels) - 1, 0, -1)]
        place = next((place for place in places if ask(place, "SOA").bogus), zone)
        return Link(place, "broken", _fault(place, ask))
    if not soa.known:
        return Link(zone, "unknown")
    if soa.secure:
        if soa.left is not None and soa.left < SHORT:
            text = f"signed, but the signatures end in {_lasting(soa.left)}: see that the zone is signed anew in time"
            return Link(zone, "secure", text)
        return Link(zone, "secure")
    keys, above = ask(zone, "DNSKEY"), ask(zone, "DS")
    if not keys.values:
        return Link(zone, "insecure", "not signed: others can forge it, and DANE cannot protect mail")
    if above.known and not above.values and above.secure:
        text = f"signed, but nobody sees it, for its DS is missing: give your registrar {_ds(zone, keys.values)}"
    else:
        text = "signed, but the zone above is not, so nobody can follow: others can forge it"
    return Link(zone, "insecure", text)


def _fault(zone: str, ask: Callable[[str, str], Answer]) -> str:
    """Answer why the chain breaks at a zone, and what to do."""
    soa, keys, above = ask(zone, "SOA"), ask(zone, "DNSKEY"), ask(zone, "DS")
    said = f"({soa.bogus})"
    if above.values and not keys.values:
        return (
            f"the zone above has a DS, but the zone is not signed {said}: sign it, or have your registrar remove the DS"
        )
    if above.values and keys.values and not set(above.values) & set(_all_ds(zone, keys.values, above.values)):
        right = _ds(zone, keys.values)
        return f"the DS in the zone above names none of its keys {said}: have your registrar replace it by {right}"
    ends = [answer.left for answer in (soa, keys) if answer.left is not None]
    if ends and min(ends) <= 0:
        since = _lasting(-min(ends))
        return f"its signatures expired {since} ago {said}: sign the zone anew, and see why its signer stopped"
    return f"its signatures are wrong {said}: sign the zone anew"


def _all_ds(zone: str, keys: Iterable[str], above: Iterable[str]) -> list[str]:
    """Answer the DS records that would name keys, with the digests that are in use above."""
    digests = {int(value.split()[2]) for value in above}
    return [ds for key in keys for digest in digests for ds in _named(zone, key, digest)]


def _ds(zone: str, keys: Iterable[str]) -> str:
    """Answer the DS records to set, as registrars want them: of the keys that are meant for it, else of all."""
    keys = list(keys)
    entry = [key for key in keys if int(key.split()[0]) & SEP] or keys
    return " and ".join(f"DS {ds}" for key in entry for ds in _named(zone, key, dns.dnssectypes.DSDigest.SHA256))


def _named(zone: str, key: str, digest: int) -> list[str]:
    """Answer the DS record of a key; none of what is no zone's key, or of a digest that nobody knows."""
    rdata = cast("dns.rdtypes.ANY.DNSKEY.DNSKEY", dns.rdata.from_text("IN", "DNSKEY", key))
    if not rdata.flags & ZONE_KEY:
        return []
    try:
        kind = dns.dnssectypes.DSDigest(digest)
        return [dns.dnssec.make_ds(dns.name.from_text(zone), rdata, kind, validating=True).to_text()]
    except (dns.exception.DNSException, ValueError):
        return []


def _lasting(seconds: int) -> str:
    """Answer a time as people say it."""
    days, hours = seconds // 86400, seconds // 3600
    return f"{days} days" if days > 1 else f"{hours} hours" if hours > 1 else f"{seconds // 60} minutes"
