# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is never banned, whatever passwords come from there."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LOOPBACK = ("127.0.0.0/8", "::1")


def never_banned(
    odoo_databases: Iterable[Mapping[str, Any]],
    mail_hosts: Iterable[Mapping[str, Any]],
    odoo_hosts: Iterable[Mapping[str, Any]],
    others: Iterable[str],
) -> list[str]:
    """Addresses, networks and host names as fail2ban's `ignoreip` takes them, each once, sorted.

    odoo_databases: as in the inventory. mail_hosts, odoo_hosts: the hosts' variables. others: more of the same; empty
    texts are left out. Host names stay names: fail2ban looks them up when it is about to ban.
    """
    urls = (urllib.parse.urlsplit(database["url"]).hostname for database in odoo_databases)
    own = (host.get(family) for host in mail_hosts for family in ("mail_host_ipv4", "mail_host_ipv6"))
    managed = (host.get("ansible_host") for host in odoo_hosts)
    return sorted({str(one).lower() for one in (*LOOPBACK, *urls, *own, *managed, *others) if one} - {"localhost"})


class FilterModule:
    """Ansible's door to the function above."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filter by its name."""
        return {"never_banned": never_banned}
