#!/usr/bin/env python3
"""Write the table of variables into every role's README, from its argument specs.

`tests/tools/role_readme.py` rewrites what stands between the markers `<!-- variables -->` and `<!-- /variables -->`;
everything else in a README is written by hand. The contract test fails while a table is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
BEGIN, END = "<!-- variables -->", "<!-- /variables -->"


class ReadmeError(Exception):
    """A README that cannot be brought up to date; the text says which and what to do."""


def _text(value: Any) -> str:
    """One table cell of a description: paragraphs joined, and nothing that would end the cell."""
    paragraphs = value if isinstance(value, list) else [value or ""]
    return " ".join(" ".join(str(paragraph).split()) for paragraph in paragraphs).replace("|", "\\|")


def _default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "**required**"
    if option.get("default") is None:
        return ""
    default = option["default"]
    shown = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
    return "`" + " ".join(shown.split()).replace("|", "\\|") + "`"


def _rows(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = option.get("type", "str")
        if "elements" in option:
            kind += f" of {option['elements']}"
        choices = ", ".join(f"`{choice}`" for choice in option.get("choices", []))
        about = _text(option.get("description")) + (f" One of {choices}." if choices else "")
        yield f"| `{prefix}{name}` | {kind} | {_default(option)} | {about} |"
        inner = f"{prefix}{name}[]." if option.get("elements") == "dict" else f"{prefix}{name}."
        yield from _rows(option.get("options", {}), inner)


def table(options: Mapping[str, Any]) -> str:
    """Return the Markdown table of an argument spec's options; suboptions follow as `name.sub` and `name[].sub`."""
    if not options:
        return "None."
    return "\n".join(["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *_rows(options)])


def fresh(readme: str, options: Mapping[str, Any]) -> str:
    """Return a README's text with an up-to-date table; raises ReadmeError when it lacks the markers."""
    block = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(block.findall(readme)) != 1:
        raise ReadmeError(f"put the lines {BEGIN} and {END} once where the table of variables belongs")
    return block.sub(lambda _: f"{BEGIN}\n{table(options)}\n{END}", readme)


def options_of(role: Path) -> dict[str, Any]:
    """Return the options of a role's main entry point."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    return dict(specs["argument_specs"]["main"].get("options") or {})


def main() -> int:
    """Bring every role's README up to date; returns the number of those that could not be."""
    problems = 0
    for role in sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml")):
        readme = role / "README.md"
        try:
            before = readme.read_text(encoding="utf-8")
            after = fresh(before, options_of(role))
        except (OSError, ReadmeError) as error:
            print(f"{readme}: {error}", file=sys.stderr)
            problems += 1
        else:
            if after != before:
                readme.write_text(after, encoding="utf-8")
                print(f"{readme}: written")
    return problems


if __name__ == "__main__":
    sys.exit(main())
