# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lines of Dovecot's passwd-file for the accounts of the mail host."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The mailbox of whoever runs the host; the others are the databases'.
POSTMASTER = "postmaster"
# The mailbox of what other servers report; nobody logs in to it.
REPORTS = "reports"
# What a passwd-file and a directory's name can hold alike.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def mailboxes(databases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the mailboxes on the mail host, which are also logins: one for each database, and `postmaster`.

    `databases` is the inventory's odoo_databases. Raises ValueError for a name that cannot be one, or not twice.
    """
    names: list[str] = []
    taken = {POSTMASTER, REPORTS}
    for database in databases:
        name = str(database["name"])
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"odoo_databases: {name!r} cannot be the name of a mailbox: use letters, digits, _ - and . (not first)"
            )
        if name.lower() in taken:  # Dovecot compares logins in lower case
            raise ValueError(f"odoo_databases: there is already a mailbox {name.lower()}: {name} needs another name")
        taken.add(name.lower())
        names.append(name)
    return [*names, POSTMASTER]


def password_hash(password: str, name: str) -> str:
    """Hash a password for Dovecot: {SSHA512}, which 2.3 and 2.4 both verify and Python makes without help.

    The salt comes from the name and the password, so a second run writes the same line. It still differs from account
    to account, and a slow hash would gain nothing: the passwords are 40 random letters and digits, while every fetch
    and every mail of Odoo logs in once.
    """
    salt = hashlib.sha512(f"mailroom\0{name}\0{password}".encode()).digest()[:16]
    digest = hashlib.sha512(password.encode() + salt).digest()
    return "{SSHA512}" + base64.b64encode(digest + salt).decode("ascii")


def passwd_line(password: str, name: str, directory: str) -> str:
    """One account as Dovecot's passwd-file has it (user:password:uid:gid:gecos:home:shell:extra fields).

    `directory` holds the mailboxes. Raises ValueError for an empty password.
    """
    if not password:
        raise ValueError(f"mailbox {name}: its password is empty: remove the password's file to have a new one made")
    return f"{name.lower()}:{password_hash(password, name)}::::{directory}/{name}::"


def mailbox_directories(names: Sequence[str], directory: str) -> list[dict[str, str]]:
    """Where each mailbox is, as entries for host_files: Dovecot itself makes one only when the first mail comes.

    `names` are the accounts', `directory` holds the mailboxes; that of the reports is there, too.
    """
    paths = [directory, *(f"{directory}/{name}" for name in [*names, REPORTS])]
    own = {"state": "directory", "owner": "vmail", "group": "vmail"}
    return [{"path": path, "mode": "0750" if path == directory else "0700", **own} for path in paths]


class FilterModule:
    """Ansible's door to the functions above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"mailbox_directories": mailbox_directories, "mailboxes": mailboxes, "passwd_line": passwd_line}
