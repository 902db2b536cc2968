# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records of an Odoo as desired state: what is there is compared with what is wanted, and only what differs is written.

What was there before is noted in the database itself before anything is written, so that it can be given back: which
records were made, and which values the others had.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from module_utils.odoo_rpc import Odoo, OdooError
else:
    from ansible.module_utils.odoo_rpc import Odoo, OdooError

BEFORE = "mailroom.before"  # system parameter with the notes
MASK = "********"
SECRET_FIELDS = ("smtp_pass", "password", "google_gmail_refresh_token", "microsoft_outlook_refresh_token")
SECRET_PARAMETERS = ("parameter google_gmail_client_secret", "parameter microsoft_outlook_client_secret")
RUNS = "ir.cron"  # a scheduled action cannot be changed while it runs (odoo/addons/base/models/ir_cron.py, write)
TRIES, PAUSE = 20, 1.0  # so that is tried again, after so many seconds
# What a record is found by; by its name where nothing is said.
IDENTIFYING = {"ir.config_parameter": "key", "res.users": "login", "mail.gateway.allowed": "email"}

Record = Mapping[str, Any]


class Refused(Exception):
    """What speaks against a change, on one line, at `what` it was to be made, and what to do."""

    def __init__(self, what: str, reason: str | OdooError) -> None:
        super().__init__(str(reason))
        self.what = what
        # Where the way to Odoo or the login is to blame, nothing else will be done either.
        self.final = isinstance(reason, OdooError) and bool(reason.at)
        self.cure = "correct it in Odoo or in the inventory, then run again"
        if isinstance(reason, OdooError) and reason.at:
            self.cure = reason.cure


@dataclasses.dataclass(frozen=True)
class Ref:
    """A link to a record by what it is found by; `text` where Odoo keeps the number of the record as a text."""

    model: str
    name: str
    text: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """A record as it is wanted: what people call it, what it is found by, and the fields that count.

    A field may be wanted to be a Ref, or a list of Refs and ids. What is `ours` by its name was made by us, also where
    the notes say nothing of it.
    """

    what: str
    model: str
    name: str
    wanted: Record
    ours: bool = False

    def show(self, field: str, value: Any, boolean: bool = False) -> str:
        """A value of one of its fields for people."""
        return show("password" if self.what in SECRET_PARAMETERS else field, value, boolean)


@dataclasses.dataclass(frozen=True)
class Change:
    """A field that was, or would be, changed; both values as shown to people."""

    path: str
    before: str
    after: str

    def line(self) -> str:
        """The change on one line."""
        return f"{self.path}: {self.before} -> {self.after}"


def identifying(model: str) -> str:
    """The field that records of the model are found by."""
    return IDENTIFYING.get(model, "name")


def by_id(record: Record) -> str:
    """What a record is found by whose name says nothing about it."""
    return f"#{record['id']}"


def is_link(value: Any) -> bool:
    """Whether a value is a link as Odoo reads it: [id, name]."""
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def signed(code: str) -> str:
    """A program under a line with its digest, so that another version of it can be told from one that was changed."""
    return f"# {_digest(code)}\n{code.strip()}"


def _version(text: str) -> str:
    """What is to be said of a long text: its size, or its version and whether it is still that."""
    first, _, rest = text.strip().partition("\n")
    if not re.fullmatch("# [0-9a-f]{16}", first):
        return f"{len(text.splitlines())} lines"
    return f"version {first[2:10]}" + ("" if first[2:] == _digest(rest) else ", changed in Odoo")


def show(field: str, value: Any, boolean: bool = False) -> str:
    """A field's value for people: links by name, long texts by their size, secrets not at all.

    Odoo says False for every empty value; only that of a `boolean` field is shown as it is.
    """
    if field in SECRET_FIELDS:
        return MASK if value else "none"
    if isinstance(value, Ref):
        return value.name
    if is_link(value):
        return str(value[1])
    if isinstance(value, list):
        return ", ".join(show("", entry) for entry in value) or "none"
    if isinstance(value, str) and "\n" in value:
        return _version(value)
    return "none" if value == "" or (value is False and not boolean) else str(value)


def plain(value: Any) -> Any:
    """A wanted or read value in the form in which both can be compared."""
    if is_link(value):
        return value[0]
    if isinstance(value, list | tuple):
        return sorted(value)
    return value.strip() if isinstance(value, str) else value


def writable(value: Any) -> Any:
    """A wanted value, its Refs resolved, as Odoo takes it: links as ids, sets of links as a command."""
    if is_link(value):
        return value[0]
    return [[6, 0, value]] if isinstance(value, list) else value


@dataclasses.dataclass
class Notes:
    """What was there before: records that were made, in that order, and the first values of those that were not.

    `made` has (model, what it is found by, what people call it), `values` for (model, id) the latter and the fields.
    """

    made: list[tuple[str, str, str]]
    values: dict[tuple[str, int], tuple[str, dict[str, Any]]]

    @classmethod
    def parse(cls, text: str) -> Notes:
        """Read notes as they are kept, "" being none. Raises ValueError when they are not notes."""
        try:
            content = json.loads(text or "{}")
            made = [(str(model), str(name), str(what)) for model, name, what in content.get("made", [])]
            values = {
                (str(model), int(number)): (str(what), dict(fields))
                for model, number, what, fields in content.get("values", [])
            }
        except (TypeError, AttributeError) as error:
            raise ValueError("no notes") from error
        return cls(made, values)

    def text(self) -> str:
        """The notes as they are kept."""
        values = [[model, number, what, fields] for (model, number), (what, fields) in self.values.items()]
        return json.dumps({"made": self.made, "values": values})

    def add(self, item: Item, record: Record | None, differing: Iterable[str]) -> None:
        """Note what an item is before the differing fields are written; what was noted earlier stays."""
        if (item.model, item.name) in {(model, name) for model, name, _ in self.made}:
            return
        if record is None or item.ours:
            self.made.append((item.model, item.name, item.what))
            return
        fields = {field: record[field] for field in differing}
        if fields:
            what, first = self.values.get((item.model, record["id"]), (item.what, {}))
            self.values[item.model, record["id"]] = (what, fields | first)


class Records:
    """The records of one database that count, as they were read, and the changes made to them."""

    def __init__(self, odoo: Odoo, where: str, check_mode: bool) -> None:
        """`where` is what changes are told below."""
        self.odoo = odoo
        self.where = where
        self.check_mode = check_mode
        self.changes: list[Change] = []
        self.found: dict[tuple[str, str], Record] = {}
        self.unkept: list[tuple[str, str]] = []  # fields that Odoo tidied up, and to what

    def keep(self, model: str, rows: Iterable[Record], key: str = "") -> None:
        """Remember records by what they are found by; of several with one name, the first."""
        for row in rows:
            self.found.setdefault((model, str(row[key or identifying(model)])), row)

    def read(self, model: str, names: Sequence[str], fields: Sequence[str]) -> None:
        """Read the records with these names and remember them. Raises OdooError."""
        key = identifying(model)
        self.keep(model, self.odoo.search_read(model, [[key, "in", list(names)]], [key, *fields]))

    def parameter(self, key: str) -> str:
        """The value of a system parameter that was read, "" when there is none."""
        return str(self.found.get(("ir.config_parameter", key), {}).get("value") or "")

    def identity(self, model: str, name: str) -> int:
        """The id of a record, 0 when it is not there."""
        return int(self.found.get((model, name), {}).get("id", 0))

    def resolve(self, value: Any) -> Any:
        """A wanted value with ids in place of its Refs; 0 is the id of what is not there yet."""
        if isinstance(value, Ref):
            identity = self.identity(value.model, value.name)
            return str(identity) if value.text else identity
        return [self.resolve(entry) for entry in value] if isinstance(value, list) and not is_link(value) else value

    def waits(self, item: Item) -> bool:
        """Whether an item refers to a record that is not there."""
        values = [entry for value in item.wanted.values() for entry in (value if isinstance(value, list) else [value])]
        return any(isinstance(value, Ref) and not self.identity(value.model, value.name) for value in values)

    def differing(self, item: Item) -> dict[str, Any]:
        """The fields that have to be written, as they are wanted."""
        record = self.found.get((item.model, item.name))
        return {
            field: value
            for field, value in item.wanted.items()
            if record is None
            or plain(record[field]) != plain(self.resolve(value))
            or (isinstance(value, Ref) and not self.identity(value.model, value.name))
        }

    def note(self, items: Iterable[Item]) -> None:
        """Keep in the database what is there before the items are written. Raises ValueError, Refused."""
        notes = Notes.parse(self.parameter(BEFORE))
        known = copy.deepcopy(notes)
        for item in items:
            notes.add(item, self.found.get((item.model, item.name)), self.differing(item))
        if notes != known:
            parameter = f"parameter {BEFORE}"
            self.ensure(Item(parameter, "ir.config_parameter", BEFORE, {"value": notes.text()}))

    def ensure(self, item: Item) -> None:
        """Give a record the wanted values, and make it if it is not there.

        In check mode a record that would be made stays one that is not there. Raises Refused when Odoo does.
        """
        record = self.found.get((item.model, item.name))
        differing = self.differing(item)
        key = identifying(item.model)
        self._tell(item, record, {field: value for field, value in differing.items() if record or field != key})
        if not differing or self.check_mode:
            return
        values = {field: writable(self.resolve(value)) for field, value in differing.items()}
        try:
            if record:
                identity = int(record["id"])
                self._write(item.model, identity, values)
            else:
                # Inviting the gateway's user by mail would be of no use.
                values = {key: item.name, **values}
                identity = self.odoo.create(item.model, values, context={"no_reset_password": True})
            # Odoo tidies some values up: one that it does not keep as it is would be written again by every run.
            kept = self.odoo.search_read(item.model, [["id", "=", identity]], list(differing))[0]
        except OdooError as error:
            raise Refused(item.what, error) from error
        self.found[item.model, item.name] = {**(record or {}), **kept}
        for field, value in differing.items():
            # Groups bring the groups they imply.
            if not isinstance(value, list) and plain(kept[field]) != plain(self.resolve(value)):
                self.unkept.append((f"{item.what}.{field}", item.show(field, kept[field])))

    def _write(self, model: str, identity: int, values: Record) -> None:
        for left in reversed(range(TRIES if model == RUNS else 1)):
            try:
                self.odoo.call(model, "write", [identity], values)
            except OdooError as error:
                if not left or error.at:
                    raise
            else:
                return
            time.sleep(PAUSE)

    def _tell(self, item: Item, record: Record | None, differing: Record) -> None:
        if record is None:
            self.changes.append(Change(f"{self.where}.{item.what}", "none", "new"))
        if item.name == BEFORE:
            return  # what it holds are the changes told after it
        for field, value in differing.items():
            if record is None and not value:
                continue
            boolean = isinstance(value, bool) and (record is None or isinstance(record[field], bool))
            before = "none" if record is None else item.show(field, record[field], boolean)
            self.changes.append(Change(f"{self.where}.{item.what}.{field}", before, item.show(field, value, boolean)))

    def remove(self, what: str, model: str, identity: int) -> None:
        """Remove a record. Raises Refused when Odoo refuses that."""
        self.changes.append(Change(f"{self.where}.{what}", "there", "none"))
        if self.check_mode:
            return
        try:
            self.odoo.call(model, "unlink", [identity])
        except OdooError as error:
            raise Refused(what, error) from error

    def former(self, notes: Notes) -> list[Item]:
        """Read the records whose values were changed; as items with the values they had, the last change first.

        In that order no name is given back while another record still has it. What is gone is left out.
        """
        fields: dict[str, set[str]] = {}
        for (model, _), (_, values) in notes.values.items():
            fields.setdefault(model, set()).update(values)
        there = self.odoo.search_read("ir.model", [["model", "in", sorted(fields)]], ["model"]) if fields else []
        for model in sorted(row["model"] for row in there):
            wanted = [["id", "in", [number for name, number in notes.values if name == model]]]
            rows = self.odoo.search_read(model, wanted, sorted(fields[model]))
            self.found.update({(model, by_id(row)): row for row in rows})
        return [
            Item(what, model, by_id({"id": number}), values)
            for (model, number), (what, values) in reversed(notes.values.items())
            if (model, by_id({"id": number})) in self.found
        ]

    def made(self, notes: Notes) -> list[tuple[str, str, Record]]:
        """Read the records that were made and are still there: what each is, its model and itself, the newest first."""
        there = []
        for model, name, what in reversed(notes.made):
            key = identifying(model)
            fields = [key, *(["partner_id"] if model == "res.users" else [])]
            rows = self.odoo.search_read(model, [[key, "=", name]], fields)
            there += [(what, model, row) for row in rows[:1]]
        return there
