"""What planned changes mean with what others have in DNS: asked, by a resolver, before the first of them is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from module_utils import dmarc, dns_plan, dns_zone, spf, spf_check
    from module_utils.dns_world import Answer
else:
    from ansible.module_utils import dmarc, dns_plan, dns_zone, spf, spf_check
    from ansible.module_utils.dns_world import Answer


class Resolver(Protocol):
    """Where questions are asked; see module_utils.dns_world."""

    def ask(self, name: str, kind: str) -> Answer:
        """Answer what there is of a name and type."""


def objections(
    drafts: Iterable[dns_zone.Draft], resolver: Resolver, aliases: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[str], list[str]]:
    """Answer what stands against planned changes, and what cannot be told, one line each.

    Looked at are SPF records of others that we would write with our terms in them, evaluated as receivers do, and
    addresses for DMARC reports in domains that have to agree. Where nothing of that changes, nobody is asked.
    aliases: where names in zones of others have to lead, see dns_zone.delegated_names.
    """
    drafts = list(drafts)
    afterwards: dict[dns_plan.Key, frozenset[str]] = {}
    for draft in drafts:
        observed = {key: dns_zone.to_rrset(rdataset) for key, rdataset in draft.observed.items()}
        for key, rrset in dns_plan.apply(observed, draft.plan.changes).items():
            afterwards[key] = rrset.values

    def ask(name: str, kind: str) -> Sequence[str]:
        canonical = f"{name.lower().rstrip('.')}."
        planned = afterwards.get((aliases.get(canonical, canonical), kind))
        if planned is not None:
            return sorted(planned)
        answer = resolver.ask(name, kind)
        if not answer.known or answer.bogus:
            raise spf_check.AskError(f"{name} {kind}: {answer.bogus or answer.status}")
        return answer.values

    problems: list[str] = []
    unknown: list[str] = []
    stands_for = {target: name for name, target in aliases.items()}
    for draft in drafts:
        ours = {one.key: one.rrset.values for one in draft.wanted}
        for place, value in _new_texts(draft.plan.changes):
            name = stands_for.get(place, place)
            wanted = ours.get((place, "TXT"), frozenset())
            if spf.is_spf(value) and value not in wanted:
                _spf(name.rstrip("."), value, _addresses(wanted), ask, problems, unknown)
            elif name.startswith("_dmarc.") and dmarc.is_dmarc(value):
                _reports(name.removeprefix("_dmarc.").rstrip("."), value, ask, problems, unknown)
    return problems, unknown


def _new_texts(changes: Iterable[dns_plan.Change]) -> list[tuple[str, str]]:
    """Answer the texts that changes bring, with their names."""
    return [
        (change.key[0], value)
        for change in changes
        if change.key[1] == "TXT" and change.after
        for value in sorted(change.after.values - (change.before.values if change.before else frozenset()))
    ]


def _addresses(wanted: Iterable[str]) -> list[str]:
    """Answer the addresses that our own SPF record names one by one."""
    terms = [spf.same(term).partition(":") for value in wanted if spf.is_spf(value) for term in spf.terms(value)]
    return [address for kind, _, address in terms if kind in ("ip4", "ip6") and "/" not in address]


def _spf(
    name: str, record: str, own: Iterable[str], ask: spf_check.Ask, problems: list[str], unknown: list[str]
) -> None:
    """Follow a record for our own addresses, and for a stranger, so to its end."""
    for address in own:
        verdict = spf_check.check_host(address, name, f"postmaster@{name}", ask)
        if verdict.result not in ("pass", "temperror"):
            text = f"{name} TXT: receivers would say {verdict.result} to mail from our {address} ({verdict.why})"
            problems.append(f"{text}: correct {dns_plan.shown('TXT', record)}")
            return
    verdicts = [spf_check.check_host(address, name, f"postmaster@{name}", ask) for address in spf_check.STRANGERS]
    for verdict in verdicts:
        if verdict.lookups > spf.MAX_LOOKUPS or verdict.void > spf_check.MAX_VOID:
            text = (
                f"{name} TXT: receivers would give up on SPF ({verdict.why}): shorten {dns_plan.shown('TXT', record)}"
            )
            problems.append(text)
            return
    for verdict in verdicts:
        if verdict.result == "temperror":
            unknown.append(f"{name} TXT: whether receivers follow SPF to its end cannot be told ({verdict.why})")
            return


def _reports(domain: str, record: str, ask: spf_check.Ask, problems: list[str], unknown: list[str]) -> None:
    """See whether others want our reports: without that nobody sends them."""
    for target, name in dmarc.permissions(domain, record).items():
        try:
            if not dmarc.agreed(ask(name, "TXT")):
                problems.append(
                    f"{domain}: {target} has not agreed to get its DMARC reports, so nobody would send them: have it "
                    f'publish {name} TXT "v=DMARC1;", or take its address out of dns_records_dmarc_reports'
                )
        except spf_check.AskError as error:
            unknown.append(f"{domain}: whether {target} has agreed to get its DMARC reports cannot be told ({error})")
