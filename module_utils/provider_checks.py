# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is right and wrong with the mail records of a domain whose mail is at a provider. Pure, but for the questions.

Nobody tells us what the records have to be to the letter, so that what is looked at is what the provider documents.
That DMARC is sound, and that MX names have addresses, is looked at in mail_checks as for any domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from module_utils import spf
    from module_utils.dns_world import Answer
    from module_utils.mail_checks import Finding
else:
    from ansible.module_utils import spf
    from ansible.module_utils.dns_world import Answer
    from ansible.module_utils.mail_checks import Finding


class World(Protocol):
    """Where questions are asked; see module_utils.dns_world."""

    def ask(self, name: str, kind: str) -> Answer:
        """Answer what there is of a name and type."""


Wished = Mapping[str, Any]
"""domain, mx (names, or suffixes that begin with a dot), spf (a domain), dkim (selectors); empty: unknown."""


def checks(wished: Wished, world: World) -> list[Callable[[], list[Finding]]]:
    """Answer the checks of a domain, none of which waits for another; each answers its findings."""
    found = [partial(_servers, wished), partial(_spf, wished), partial(_dmarc, wished)]
    found += [partial(_key, wished, selector) for selector in wished["dkim"]]
    return [partial(_all, check, world) for check in found]


def _all(check: Callable[[World], Iterator[Finding]], world: World) -> list[Finding]:
    return list(check(world))


def _unknown(name: str, check: str, answer: Answer) -> Iterator[Finding]:
    """Say that there was no answer to judge by."""
    text = f"the resolver answers {answer.bogus or answer.status}: is it, and are the zone's name servers, reachable?"
    yield Finding(name, check, "fails" if answer.bogus else "unknown", "external", text)


def _servers(wished: Wished, world: World) -> Iterator[Finding]:
    """Whether mail arrives at the provider."""
    domain, allowed = wished["domain"], wished["mx"]
    answer = world.ask(domain, "MX")
    if answer.bogus or not answer.known:
        yield from _unknown(domain, "MX", answer)
        return
    servers = [value.split()[1].lower().rstrip(".") for value in answer.values]
    foreign = [name for name in servers if allowed and not any(_covers(one, name) for one in allowed)]
    if not servers:
        text = "is not there: set the one that the provider tells you"
        yield Finding(domain, "MX", "fails", "external", text)
    elif foreign:
        text = (
            f"names {', '.join(foreign)}, which is none of the provider's servers: mail for Odoo would not arrive there"
        )
        yield Finding(domain, "MX", "fails", "external", text)
    else:
        yield Finding(domain, "MX", "ok", "external", ", ".join(servers))


def _covers(allowed: str, name: str) -> bool:
    return name.endswith(allowed) if allowed.startswith(".") else name == allowed


def _spf(wished: Wished, world: World) -> Iterator[Finding]:
    """Whether there is one SPF record, and the provider's is in it."""
    domain, included = wished["domain"], wished["spf"]
    answer = world.ask(domain, "TXT")
    if answer.bogus or not answer.known:
        yield from _unknown(domain, "SPF", answer)
        return
    records = [value for value in answer.values if spf.is_spf(value)]
    names = [spf.same(term).lstrip("?~-").rstrip(".") for record in records for term in spf.terms(record)]
    there = f"include:{included}" in names or f"redirect={included}" in names
    if not records:
        text = f"is not there: set TXT v=spf1 include:{included} ~all" if included else "is not there: see the provider"
    elif len(records) > 1:
        text = f"{len(records)} records count as none: make one of them"
    elif included and not there:
        text = f"leaves the provider out: add include:{included} to {records[0]}"
    else:
        yield Finding(domain, "SPF", "ok", "external", records[0])
        return
    yield Finding(domain, "SPF", "fails", "external", text)


def _key(wished: Wished, selector: str, world: World) -> Iterator[Finding]:
    """Whether a key is where the provider usually has one; whether it signs, only a mail tells."""
    name = f"{selector}._domainkey.{wished['domain']}"
    answer = world.ask(name, "TXT")
    if answer.bogus or not answer.known:
        yield from _unknown(name, "DKIM", answer)
    elif any(re.search(r"(^|;)\s*p\s*=\s*[^\s;]", value) for value in answer.values):
        yield Finding(name, "DKIM", "ok", "external", "holds a key")
    else:
        text = "holds no key: switch DKIM on at the provider; if the key is elsewhere, say where in provider.dns.dkim"
        yield Finding(name, "DKIM", "advice", "external", text)


def _dmarc(wished: Wished, world: World) -> Iterator[Finding]:
    """Whether there is a DMARC record."""
    name = f"_dmarc.{wished['domain']}"
    answer = world.ask(name, "TXT")
    if answer.bogus or not answer.known:
        yield from _unknown(name, "DMARC record", answer)
    elif not any(value.startswith("v=DMARC1") for value in answer.values):
        text = "is not there, so that large receivers trust the domain less: set TXT v=DMARC1; p=none, later quarantine"
        yield Finding(name, "DMARC record", "fails", "external", text)
