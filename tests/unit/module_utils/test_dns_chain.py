"""Where and why the chain of trust breaks, from what a resolver answers with and without validation."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from module_utils.dns_chain import Link, chain
from module_utils.dns_world import Answer, Key

KEY = "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA=="
DS = "55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17"
"""Key and DS of example.net. in RFC 6605, section 6.1."""
OTHER = f"1 13 2 {'0' * 64}"
BOGUS = "EDE 6 (DNSSEC Bogus)"
SOA = ("ns.example.com. hostmaster.example.com. 1 2 3 4 5",)


def link(changes: Mapping[tuple[str, str], Answer], zone: str = "example.net.") -> Link:
    """The chain to a zone, when all is well but what a test says."""
    good: dict[Key, Answer] = {
        (".", "SOA"): Answer(values=SOA, secure=True, left=10**6),
        ("net.", "SOA"): Answer(values=SOA, secure=True, left=10**6),
        (zone, "SOA"): Answer(values=SOA, secure=True, left=10**6),
        (zone, "DNSKEY"): Answer(values=(KEY.replace("257", "256", 1), KEY), secure=True, left=10**6),
        (zone, "DS"): Answer(values=(DS,), secure=True),
    }
    known = good | dict(changes)
    return chain(zone, lambda name, kind: known.get((name, kind), Answer("NXDOMAIN")))


def broken(zone: str, **answers: Answer) -> dict[Key, Answer]:
    return {(zone, kind): answer for kind, answer in answers.items()}


def test_of_a_whole_chain_nothing_is_said() -> None:
    assert link({}) == Link("example.net.", "secure")


@pytest.mark.parametrize(
    ("changes", "zone", "state", "text"),
    [
        (
            broken("example.net.", SOA=Answer(values=SOA, secure=True, left=3 * 3600)),
            "example.net.", "secure", "the signatures end in 3 hours: see that the zone is signed anew in time",
        ),
        (broken("example.net.", SOA=Answer("SERVFAIL")), "example.net.", "unknown", ""),
        (
            broken(".", SOA=Answer(values=SOA, bogus=BOGUS)),
            ".", "broken", f"the resolver trusts no key of the root ({BOGUS}): correct its trust anchor and its clock",
        ),
        (
            broken("net.", SOA=Answer(values=SOA, bogus=BOGUS, left=99))
            | broken("example.net.", SOA=Answer(values=SOA, bogus=BOGUS)),
            "net.", "broken", f"its signatures are wrong ({BOGUS}): sign the zone anew",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA, bogus=BOGUS, left=-7200 * 24)),
            "example.net.", "broken", f"its signatures expired 2 days ago ({BOGUS}): sign the zone anew",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA, bogus=BOGUS), DNSKEY=Answer()),
            "example.net.", "broken", "the zone above has a DS, but the zone is not signed",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA, bogus=BOGUS), DS=Answer(values=(OTHER,))),
            "example.net.", "broken", f"the DS in the zone above names none of its keys ({BOGUS}): have your registrar "
            "replace it by DS ",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA), DS=Answer(secure=True)),
            "example.net.", "insecure", "its DS is missing: give your registrar DS ",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA), DS=Answer()),
            "example.net.", "insecure", "signed, but the zone above is not",
        ),
        (
            broken("example.net.", SOA=Answer(values=SOA), DNSKEY=Answer(), DS=Answer(secure=True)),
            "example.net.", "insecure", "not signed: others can forge it",
        ),
    ],
)  # fmt: skip
def test_each_fault_has_its_line(changes: Mapping[Key, Answer], zone: str, state: str, text: str) -> None:
    found = link(changes)
    assert (found.zone, found.state, text in found.text) == (zone, state, True), found


def test_the_ds_to_set_is_that_of_the_key_that_is_meant_for_it() -> None:
    text = link(broken("example.net.", SOA=Answer(values=SOA), DS=Answer(secure=True))).text
    assert text.endswith(f"its DS is missing: give your registrar DS {DS}")


@pytest.mark.parametrize("digest", ["1", "2", "4", "99"])
def test_a_ds_of_any_digest_is_compared(digest: str) -> None:
    other = Answer(values=(f"55648 13 {digest} {'0' * 64}",), secure=True)
    found = link(broken("example.net.", SOA=Answer(values=SOA, bogus=BOGUS), DS=other))
    assert "names none of its keys" in found.text
