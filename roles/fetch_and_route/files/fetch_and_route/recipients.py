"""The addresses that Odoo has a use for, as a table of Postfix: an alias made in Odoo has mail within one cycle.

Postfix takes mail for what the inventory names and for what this table has besides. Whoever answers for Odoo can name
no address but those of the database's own domains, in letters that every program takes as they are.

All databases have one table, each a part of it. A part names the database's domains, too: as long as a domain is in no
part, Odoo has not been asked about it, and Postfix puts off what it does not know instead of refusing it (main.cf).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from . import durable
from .config import Database
from .odoo import Broken
from .trouble import Misconfigured

LOCAL_PART = re.compile(r"(?=.{1,64}$)[a-z0-9_+-]+(\.[a-z0-9_+-]+)*")
"""Less than RFC 5322 allows and all that Odoo makes of an alias (mail.alias, _clean_and_check_unique), ASCII only."""
MOST = 20_000
"""So many addresses of a database are read by Postfix in milliseconds. More are a mistake, and change nothing."""
SHOWN = 5
"""So many addresses are named in the journal."""
HEADING = re.compile(r"# (?P<database>[^:]+): what Odoo has a use for, by fetch-and-route")


def path_of(directory: Path) -> Path:
    """Where the table is."""
    return directory / "recipients"


def refresh(
    directory: Path, database: Database, addresses: Iterable[tuple[str, str]], databases: Collection[str]
) -> str:
    """Let a database's part of the table be what Odoo said; whole and on the disk when it returns.

    Returns what is new, in words. Parts of others than `databases` are dropped. A table that would be the same is left
    alone. Raises Broken when Odoo said too much, Misconfigured.
    """
    wanted = allowed(addresses, database.domains)
    if len(wanted) > MOST:
        raise Broken(f"database {database.name}: has {len(wanted)} addresses, more than {MOST}: nothing is changed")
    path = path_of(directory)
    with durable.alone(directory / ".recipients.lock"):
        before = _read(path)
        parts = {name: keys for name, keys in before.items() if name in databases}
        parts[database.name] = {*database.domains, *wanted}
        if parts == before:
            return ""
        durable.replace(path, _text(parts).encode())
    known = {key for key in before.get(database.name, ()) if "@" in key}
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


def _text(parts: dict[str, set[str]]) -> str:
    lines: list[str] = []
    for name, keys in sorted(parts.items()):
        lines += [f"# {name}: what Odoo has a use for, by fetch-and-route", *(f"{key} OK" for key in sorted(keys))]
    return "".join(f"{line}\n" for line in lines)


def _read(path: Path) -> dict[str, set[str]]:
    """The keys of the table by database. Raises Misconfigured."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: run this as root") from error
    parts: dict[str, set[str]] = {}
    keys: set[str] = set()
    for line in text.splitlines():
        if heading := HEADING.fullmatch(line):
            keys = parts.setdefault(heading["database"], set())
        else:
            keys.add(line.partition(" ")[0])
    return parts


def _few(what: str, addresses: set[str]) -> str:
    if not addresses:
        return ""
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return f", {what}: {' '.join(sorted(addresses)[:SHOWN])}{more}"
