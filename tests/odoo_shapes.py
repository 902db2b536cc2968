"""What each version of Odoo has of that which our modules use: its fields, their types and choices, its protocols.

One base, and what each version adds, changes and drops. 14 is the early state of that series that Debian 11 packages,
14-late its last. 15 to 18, of which no package is to be had, are known from reading their source; what is said of 14
and 19 is compared with the real ones by tests/hosts/test_odoo_shapes.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

Fields = Mapping[str, Mapping[str, str]]  # model: {field: type}

BASE: Fields = {
    "ir.config_parameter": {"key": "char", "value": "text"},
    "ir.mail_server": {
        "name": "char",
        "active": "boolean",
        "sequence": "integer",
        "smtp_host": "char",
        "smtp_port": "integer",
        "smtp_encryption": "selection",
        "smtp_user": "char",
        "smtp_pass": "char",
        "smtp_debug": "boolean",
    },
    "fetchmail.server": {
        "name": "char",
        "active": "boolean",
        "state": "selection",
        "server_type": "selection",
        "server": "char",
        "port": "integer",
        "is_ssl": "boolean",
        "user": "char",
        "password": "char",
        "object_id": "many2one",
    },
    "mail.alias": {"alias_name": "char", "alias_contact": "selection", "display_name": "char"},
    "res.company": {"name": "char", "email": "char"},
    "res.groups": {"name": "char"},
    "res.users": {
        "name": "char",
        "login": "char",
        "email": "char",
        "active": "boolean",
        "share": "boolean",
        "groups_id": "many2many",
        "partner_id": "many2one",
    },
    "res.partner": {"name": "char"},
    "res.users.apikeys": {"name": "char", "user_id": "many2one"},
    "ir.actions.server": {
        "name": "char",
        "state": "selection",
        "code": "text",
        "model_id": "many2one",
        "groups_id": "many2many",
    },
    "ir.cron": {"active": "boolean", "interval_number": "integer", "interval_type": "selection"},
    "ir.model": {"model": "char"},
    "ir.model.data": {"module": "char", "name": "char", "model": "char", "res_id": "many2one_reference"},
    "ir.model.fields": {"model": "char", "name": "char"},
    # Two apps whose records own aliases.
    "crm.team": {
        "name": "char",
        "company_id": "many2one",
        "alias_id": "many2one",
        "alias_name": "char",
        "alias_contact": "selection",
    },
    "project.project": {
        "name": "char",
        "company_id": "many2one",
        "alias_id": "many2one",
        "alias_name": "char",
        "alias_contact": "selection",
    },
}

# An app that not every Odoo has, and not the test hosts'.
MASS_MAILING: Fields = {"mailing.mailing": {"mail_server_id": "many2one"}}

# Odoo's modules Gmail and Outlook, which 19 installs by itself, and early builds of 14 lack. Up to 15 they are switched
# on by a field of their own, and fetching is up to two more modules.
TOKENS = {
    f"{service}_{name}": kind
    for service in ("google_gmail", "microsoft_outlook")
    for name, kind in (("refresh_token", "char"), ("access_token", "char"), ("access_token_expiration", "integer"))
}
SWITCHES = {"use_google_gmail_service": "boolean", "use_microsoft_outlook_service": "boolean"}
BY_TOKEN = {("ir.mail_server", "smtp_authentication"): frozenset({"gmail", "outlook"})}

# Values of selections that are written or compared; there may be more.
CHOICES: Mapping[tuple[str, str], frozenset[str]] = {
    ("ir.mail_server", "smtp_encryption"): frozenset({"none", "starttls", "ssl"}),
    ("fetchmail.server", "state"): frozenset({"draft", "done"}),
    ("fetchmail.server", "server_type"): frozenset({"pop", "imap", "local"}),
    ("mail.alias", "alias_contact"): frozenset({"everyone", "partners", "followers"}),
    ("crm.team", "alias_contact"): frozenset({"everyone", "partners", "followers"}),
    ("project.project", "alias_contact"): frozenset({"everyone", "partners", "followers"}),
    ("ir.actions.server", "state"): frozenset({"code"}),
    ("ir.cron", "interval_type"): frozenset({"minutes", "hours", "days"}),
}

ALIAS_DOMAIN = {"alias_domain_id": "many2one"}


@dataclass(frozen=True)
class Step:
    """What a version is beyond the one before it."""

    adds: Fields = field(default_factory=dict)
    drops: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    choices: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # more of them
    json2: bool = False


STEPS: Mapping[str, Step] = {
    "14": Step(),
    "14-late": Step(),  # differs in system parameters that are not ours, such as mail.bounce.alias.static
    "15": Step(
        adds={"ir.mail_server": {"from_filter": "char", "smtp_authentication": "selection"}},
        choices={("ir.mail_server", "smtp_authentication"): frozenset({"login", "certificate"})},
    ),
    "16": Step(adds={"mail.gateway.allowed": {"email": "char"}}),  # and fetchmail has become a part of mail
    "17": Step(
        adds={
            "mail.alias.domain": {
                "name": "char",
                "sequence": "integer",
                "catchall_alias": "char",
                "bounce_alias": "char",
                "default_from": "char",
            },
            "res.company": ALIAS_DOMAIN,
            "mail.alias": {**ALIAS_DOMAIN, "alias_incoming_local": "boolean", "alias_full_name": "char"},
            "crm.team": ALIAS_DOMAIN,
            "project.project": ALIAS_DOMAIN,
        },
        choices={("ir.mail_server", "smtp_authentication"): frozenset({"cli"})},
    ),
    "18": Step(
        adds={
            "ir.mail_server": {"max_email_size": "float"},
            "res.users.apikeys": {"expiration_date": "datetime"},
        }
    ),
    "19": Step(
        adds={
            "ir.mail_server": {"owner_user_id": "many2one", **TOKENS},
            "fetchmail.server": {"error_date": "datetime", "error_message": "text", **TOKENS},
            "ir.actions.server": {"group_ids": "many2many"},
            "res.users": {"group_ids": "many2many"},
        },
        drops={"ir.actions.server": ("groups_id",), "res.users": ("groups_id",)},
        choices={("ir.mail_server", "smtp_encryption"): frozenset({"starttls_strict", "ssl_strict"}), **BY_TOKEN},
        json2=True,
    ),
}
VERSIONS = tuple(STEPS)


@dataclass(frozen=True)
class Shape:
    """One version, as a whole."""

    major: int
    fields: Fields
    choices: Mapping[tuple[str, str], frozenset[str]]
    json2: bool

    def without(self, model: str) -> Shape:
        """This version where the model's app is not installed."""
        return replace(self, fields={name: fields for name, fields in self.fields.items() if name != model})

    def including(self, app: Fields) -> Shape:
        """This version where one more app is installed."""
        added = {model: {**self.fields.get(model, {}), **fields} for model, fields in app.items()}
        return replace(self, fields={**self.fields, **added})

    def including_oauth(self) -> Shape:
        """This version where Odoo's modules Gmail and Outlook are installed."""
        if self.major < 16:
            return self.including({"ir.mail_server": {**TOKENS, **SWITCHES}})
        ((place, more),) = BY_TOKEN.items()
        installed = self.including({"ir.mail_server": TOKENS, "fetchmail.server": TOKENS})
        return replace(installed, choices={**self.choices, place: self.choices[place] | more})


@functools.cache
def shape(version: str) -> Shape:
    """The shape of one of VERSIONS."""
    fields = {model: dict(found) for model, found in BASE.items()}
    choices = dict(CHOICES)
    for name in VERSIONS[: VERSIONS.index(version) + 1]:
        step = STEPS[name]
        for model, added in step.adds.items():
            fields.setdefault(model, {}).update(added)
        for model, dropped in step.drops.items():
            fields[model] = {name: kind for name, kind in fields[model].items() if name not in dropped}
        for where, more in step.choices.items():
            choices[where] = choices.get(where, frozenset()) | more
    return Shape(int(version[:2]), fields, choices, step.json2)


def ever() -> Iterator[tuple[str, str]]:
    """Every model and field that some version has."""
    yield from sorted(
        {(model, name) for version in VERSIONS for model, fields in shape(version).fields.items() for name in fields}
    )
