# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How an outgoing server of Odoo sends by OAuth: what its modules Gmail and Outlook want, for every version of Odoo.

Microsoft gives a new refresh token with each access token, and Odoo keeps that one, so which of the inventory's was
given last is remembered by its digest: GRANTED.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from module_utils.odoo_records import Item, Record
else:
    from ansible.module_utils.odoo_records import Item, Record

GRANTED = "mailroom.oauth_granted"  # system parameter


@dataclasses.dataclass(frozen=True)
class Service:
    """One of the modules: `prefix` is that of its fields and system parameters, `endpoint` a parameter if it has one.

    Up to Odoo 15 its `switch` is a field of the server, later it is a value of smtp_authentication.
    """

    module: str
    prefix: str
    authentication: str
    switch: str
    endpoint: str = ""

    @property
    def refresh_token(self) -> str:
        """The field with the refresh token."""
        return f"{self.prefix}_refresh_token"

    @property
    def expiration(self) -> str:
        """The field with the end of the access token; 0 has Odoo ask for another one."""
        return f"{self.prefix}_access_token_expiration"

    def parameters(self, oauth: Mapping[str, str]) -> dict[str, str]:
        """The system parameters by which the module asks for access tokens."""
        wanted = {f"{self.prefix}_{key}": oauth[key] for key in ("client_id", "client_secret")}
        # Odoo puts the last word after it (microsoft_outlook_mixin.py, _fetch_outlook_token).
        return wanted | ({self.endpoint: oauth["token_url"].removesuffix("token")} if self.endpoint else {})


# By the provider's preset.
SERVICES = {
    "gmail": Service("Gmail", "google_gmail", "gmail", "use_google_gmail_service"),
    "microsoft365": Service(
        "Outlook", "microsoft_outlook", "outlook", "use_microsoft_outlook_service", "microsoft_outlook.endpoint"
    ),
}
TOKENS = [service.refresh_token for service in SERVICES.values()]
FIELDS = [*TOKENS, *(service.switch for service in SERVICES.values())]
PARAMETER_KEYS = [
    GRANTED,
    *(f"{service.prefix}_{key}" for service in SERVICES.values() for key in ("client_id", "client_secret")),
    *(service.endpoint for service in SERVICES.values() if service.endpoint),
]


def authentication(oauth: Mapping[str, str], known: frozenset[str]) -> dict[str, Any]:
    """The fields of a server by which it sends by OAuth, or, without, those that keep it from that.

    `known` are the fields that servers have here; `oauth` has service (see SERVICES) and refresh_token, among others.
    """
    values: dict[str, Any] = {"smtp_authentication": "login"} if "smtp_authentication" in known else {}
    for name, service in SERVICES.items():
        if service.refresh_token not in known:
            continue  # the module is not installed
        chosen = oauth.get("service") == name
        values[service.refresh_token] = oauth["refresh_token"] if chosen else False
        if service.switch in known:
            values[service.switch] = chosen
        elif chosen:
            values["smtp_authentication"] = service.authentication
        if chosen:
            # What the modules insist on (ir_mail_server.py, _check_use_..._service). It verifies no certificate.
            values |= {service.expiration: 0, "smtp_encryption": "starttls", "smtp_pass": False}
    return values


def digest(login: str, oauth: Mapping[str, str]) -> str:
    """What tells one authorisation from another, and nothing else."""
    told = json.dumps([login, *(oauth[key] for key in ("service", "client_id", "refresh_token"))])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def as_granted(item: Item, service: Service, record: Record | None) -> Item:
    """A server whose refresh token came from the one it is to have: whatever Odoo has made of it by now is right."""
    if not record or not record[service.refresh_token] or not item.wanted[service.refresh_token]:
        return item
    kept = (service.refresh_token, service.expiration)
    wanted = {field: value for field, value in item.wanted.items() if field not in kept}
    return dataclasses.replace(item, wanted=wanted)
