"""The addresses that Odoo has a use for, as a table of Postfix: an alias made in Odoo has mail within one cycle.

Postfix takes mail for what the inventory names and for what this table has besides. Whoever answers for Odoo can name
no address but those of the database's own domains, in letters that every program takes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from . import durable
from .config import Database
from .odoo import Broken
from .trouble import Misconfigured

LOCAL_PART = re.compile(r"(?=.{1,64}$)[a-z0-9_+-]+(\.[a-z0-9_+-]+)*")
"""Less than RFC 5322 allows and all that Odoo makes of an alias (mail.alias, _clean_and_check_unique), ASCII only."""
MOST = 20_000
"""So many addresses are read by Postfix in milliseconds. More are a mistake, and change nothing."""
SHOWN = 5
"""So many addresses are named in the journal."""


def path_of(directory: Path, database: str) -> Path:
    """Where a database's table is."""
    return directory / f"{database}.recipients"


def refresh(directory: Path, database: Database, addresses: Iterable[tuple[str, str]]) -> str:
    """Let the table have what Odoo said; whole and on the disk when it returns. Returns what is new, in words.

    A table that would be the same is left alone. Raises Broken when Odoo said too much, Misconfigured.
    """
    wanted = allowed(addresses, database.domains)
    if len(wanted) > MOST:
        raise Broken(f"database {database.name}: has {len(wanted)} addresses, more than {MOST}: nothing is changed")
    path = path_of(directory, database.name)
    lines = [f"# What Odoo has a use for in {database.name}; fetch-and-route writes it."]
    content = "".join(f"{line}\n" for line in [*lines, *(f"{address} accepted" for address in sorted(wanted))])
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = b""
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
    if before == content.encode():
        return ""
    durable.replace(path, content.encode())
    known = {line.split(" ")[0] for line in before.decode(errors="replace").splitlines()[1:]}
    changes = [_few("new", wanted - known), _few("gone", known - wanted)]
    return f"database {database.name}: Odoo has {len(wanted)} addresses" + "".join(changes)


def allowed(addresses: Iterable[tuple[str, str]], domains: Iterable[str]) -> set[str]:
    """The addresses of these domains, in lower case; those without a domain are in each of them."""
    ours = set(domains)
    return {
        f"{name.lower()}@{domain}"
        for name, named in addresses
        if LOCAL_PART.fullmatch(name.lower())
        for domain in (ours if not named else ours & {named.lower()})
    }


def _few(what: str, addresses: set[str]) -> str:
    if not addresses:
        return ""
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return f", {what}: {' '.join(sorted(addresses)[:SHOWN])}{more}"
