"""What every role promises, whoever wrote it (see CONTRIBUTING.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools.role_readme import fresh, options_of

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())

# Facts about the company, shared by all roles: they come from the inventory or from playbooks/group_vars, never from
# one role's defaults. `dns_records_zones` is named after the role that writes the zones; preflight asks about it too.
SHARED = {
    "odoo_databases",
    "secrets_directory",
    "dkim_selector",
    "mail_host_ipv4",
    "mail_host_ipv6",
    "dns_records_zones",
    "odoo_mail_gateways",
}
# The role acme carries on what the role certificate begins, and has its variables' defaults, too.
CARRIED_ON = {"acme": {"certificate_mode", "certificate_names"}}
NOT_ALLOWED = {
    "lineinfile": "write the whole file from a template",
    "blockinfile": "write the whole file from a template",
    "replace": "write the whole file from a template",
    "shell": "use command, or a module",
    "raw": "use command, or a module",
    "ignore_errors": "use failed_when with the condition that is meant",
}
# What these install has no service, or one that only waits for the host's shutdown.
NO_DAEMON = {"certificate", "fetch_and_route", "unattended_upgrades"}
TASK_WORDS = {"block", "rescue", "always"}
TEMPLATE_CALL = re.compile(r"lookup\('(?:ansible\.builtin\.)?template', *'([^']+)'\)")
SECRET_NAME = re.compile(r"(^|_)(password|passphrase|secret|api_key|token|private|private_key)(_|$)")
SECRET_VALUE = re.compile(
    r"lookup\(.(?:ansible\.builtin\.password|dkim_key|private_certificate)\b"  # made on the control node
    r"|\.(?:password|api_key)\b|\{\{ *odoo_databases *\}\}"  # given in the inventory
)

pytestmark = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags (!vault, !unsafe) as plain text."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def read(path: Path, empty: Any) -> Any:
    if not path.exists():
        return empty
    return yaml.load(path.read_text(encoding="utf-8"), Loader) or empty  # noqa: S506 -- a SafeLoader, with two tags more


def defaults_of(role: Path) -> dict[str, Any]:
    return dict(read(role / "defaults/main.yml", {}))


def task_files(role: Path) -> list[Path]:
    return sorted([*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")])


def shared_in(role: Path) -> set[str]:
    return SHARED | CARRIED_ON.get(role.name, set())


def tasks_of(role: Path) -> Iterator[dict[str, Any]]:
    """Yields every task and handler, those in blocks too, which inherit the block's no_log."""

    def walk(tasks: list[dict[str, Any]], inherited: Any) -> Iterator[dict[str, Any]]:
        for task in tasks:
            task.setdefault("no_log", inherited)
            yield task
            for word in TASK_WORDS & task.keys():
                yield from walk(task[word], task["no_log"])

    for path in task_files(role):
        yield from walk(read(path, []), None)


def strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yields each text in a nested value with the key it stands under."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield from strings(inner)
            else:
                yield str(key), str(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner) if isinstance(inner, dict | list) else [("", str(inner))]


def files_written(role: Path) -> Iterator[tuple[str, str]]:
    """Yields (path on the host, template) of every item that names both literally, in tasks and in variables."""

    def walk(value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            path = value.get("path") or value.get("dest")
            template = value.get("src")
            if isinstance(value.get("content"), str) and (call := TEMPLATE_CALL.search(value["content"])):
                template = call[1]
            if isinstance(path, str) and isinstance(template, str) and template.endswith(".j2"):
                yield path, template
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    for path in [*task_files(role), *role.glob("vars/*.yml"), *role.glob("defaults/*.yml")]:
        yield from walk(read(path, []))


def test_defaults_and_argument_specs_list_the_same_variables(role: Path) -> None:
    options = {name: option for name, option in options_of(role).items() if name not in shared_in(role)}
    with_default = {name for name, option in options.items() if not option.get("required")}
    assert set(defaults_of(role)) - shared_in(role) == with_default


def test_defaults_and_argument_specs_give_the_same_values(role: Path) -> None:
    documented = {name: option["default"] for name, option in options_of(role).items() if "default" in option}
    own = {name: value for name, value in defaults_of(role).items() if name not in shared_in(role)}
    assert {name: value for name, value in own.items() if value is not None} == documented


def test_shared_facts_have_one_default_in_all_roles(role: Path) -> None:
    known = defaults_of(ROLES[0].parent / "certificate") | {
        "dkim_selector": "mailroom1",
        "secrets_directory": "{{ inventory_dir }}/secrets",
    }
    shared = {name: value for name, value in defaults_of(role).items() if name in shared_in(role)}
    assert shared == {name: known[name] for name in shared}


def test_required_variables_have_no_default(role: Path) -> None:
    required = {name for name, option in options_of(role).items() if option.get("required")}
    assert not required & set(defaults_of(role))
    assert not [name for name in required if "default" in options_of(role)[name]]


def test_no_package_starts_its_service_with_the_vendors_configuration(role: Path) -> None:
    installing = [task["ansible.builtin.apt"] for task in tasks_of(role) if "ansible.builtin.apt" in task]
    if role.name not in NO_DAEMON:
        assert [apt.get("policy_rc_d") for apt in installing] == [101] * len(installing)


def test_every_variable_is_explained(role: Path) -> None:
    assert not [name for name, option in options_of(role).items() if not option.get("description")]


def test_names_tell_public_variables_from_internal_ones(role: Path) -> None:
    public = {*defaults_of(role), *options_of(role)} - shared_in(role)
    assert not [name for name in public if not name.startswith(f"{role.name}_")]
    internal = {name for path in role.glob("vars/*.yml") for name in read(path, {})}
    assert not [name for name in internal if not name.startswith(f"__{role.name}_")]


def test_readme_shows_the_variables_as_they_are(role: Path) -> None:
    readme = (role / "README.md").read_text(encoding="utf-8")
    assert readme == fresh(readme, options_of(role)), "run tests/tools/role_readme.py"


def test_readme_says_what_is_replaced(role: Path) -> None:
    assert re.search(r"\breplaces?\b", (role / "README.md").read_text(encoding="utf-8"))


def test_handlers_check_before_they_reload_or_restart(role: Path) -> None:
    names = [handler["name"] for handler in read(role / "handlers/main.yml", [])]
    checked = {name.removeprefix("Check "): place for place, name in enumerate(names) if name.startswith("Check ")}
    for place, name in enumerate(names):
        verb, _, what = name.partition(" ")
        if verb in {"Reload", "Restart"}:
            assert checked.get(what, -1) < place, f"{name!r} comes before its check"


def test_every_notified_handler_exists(role: Path) -> None:
    handlers = {
        str(name)
        for handler in read(role / "handlers/main.yml", [])
        for name in (handler["name"], *([handler["listen"]] if "listen" in handler else []))
    }
    notified: set[str] = set()
    for task in tasks_of(role):
        wanted = task.get("notify", [])
        notified.update([wanted] if isinstance(wanted, str) else wanted)
    assert notified <= handlers


def test_templates_say_that_ansible_manages_the_file(role: Path) -> None:
    for template in sorted(role.glob("templates/**/*.j2")):
        lines = template.read_text(encoding="utf-8").splitlines()
        first = next((line for line in lines if not line.startswith(("#!", "#jinja2:"))), "")
        assert re.match(r"\{\{ ansible_managed \| comment", first), template.relative_to(ROOT)


def test_templates_lie_under_the_path_they_are_written_to(role: Path) -> None:
    for path, template in files_written(role):
        if "{{" not in path:
            assert template == f"{path.lstrip('/')}.j2"
        assert (role / "templates" / template).is_file()


def test_every_template_is_used(role: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in role.rglob("*.yml")]
    texts += [path.read_text(encoding="utf-8") for path in role.glob("templates/**/*.j2")]
    for template in sorted(role.glob("templates/**/*.j2")):
        name = template.relative_to(role / "templates")
        # A name that is put together from parts still has its directory in the text.
        assert any(str(name) in text or f"{name.parent}/" in text for text in texts), template.relative_to(ROOT)


def test_task_files_are_short(role: Path) -> None:
    for path in task_files(role):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 100, path.relative_to(ROOT)


def test_tasks_do_without_makeshifts(role: Path) -> None:
    for task in tasks_of(role):
        used = {key.removeprefix("ansible.builtin.") for key in task} & NOT_ALLOWED.keys()
        assert not used, f"{task.get('name')}: {', '.join(f'{word}: {NOT_ALLOWED[word]}' for word in used)}"


def test_tasks_that_touch_a_secret_are_not_logged(role: Path) -> None:
    hidden = (True, f"{{{{ {role.name}_no_log }}}}")
    for task in tasks_of(role):
        arguments = {key: value for key, value in task.items() if key not in TASK_WORDS | {"name", "no_log", "when"}}
        secret = [
            key or value
            for key, value in strings(arguments)
            if SECRET_NAME.search(key) or (key, value) == ("sensitive", "True") or SECRET_VALUE.search(value)
        ]
        assert not secret or task["no_log"] in hidden, f"{task.get('name')}: no_log is missing, it shows {secret}"


def test_secrets_are_hidden_unless_somebody_asks(role: Path) -> None:
    assert defaults_of(role).get(f"{role.name}_no_log", True) is True
