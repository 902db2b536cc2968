"""The tests' own tools."""

from __future__ import annotations

import pytest

from tests.tools.junit_counts import counts
from tests.tools.role_readme import ReadmeError, fresh, table

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="passes"/>
<testcase classname="a" name="fails"><failure/></testcase>
<testcase classname="a" name="fails"><error/></testcase>
<testcase classname="a" name="breaks"><error/></testcase>
<testcase classname="a" name="is_skipped"><skipped/></testcase>
<testcase classname="b" name="passes"><system-out>text</system-out></testcase>
</testsuite></testsuites>"""


def test_counts_of_a_report() -> None:
    assert counts(REPORT) == (2, 2)


def test_table_of_variables() -> None:
    options = {
        "postfix_size": {"type": "int", "default": 10, "description": ["In bytes.", "At most\n2 | 3."]},
        "postfix_level": {"type": "str", "required": True, "choices": ["may", "encrypt"], "description": "How strict."},
        "postfix_names": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "description": "Names.",
            "options": {"name": {"type": "str", "default": "", "description": "One."}},
        },
        "postfix_tls": {"type": "dict", "description": "TLS.", "options": {"on": {"type": "bool", "default": True}}},
    }
    assert table(options).splitlines()[2:] == [
        "| `postfix_size` | int | `10` | In bytes. At most 2 \\| 3. |",
        "| `postfix_level` | str | **required** | How strict. One of `may`, `encrypt`. |",
        "| `postfix_names` | list of dict | `[]` | Names. |",
        '| `postfix_names[].name` | str | `""` | One. |',
        "| `postfix_tls` | dict |  | TLS. |",
        "| `postfix_tls.on` | bool | `true` |  |",
    ]


def test_readme_keeps_what_is_written_by_hand() -> None:
    before = "# Role\n\n<!-- variables -->\nold \\1\n<!-- /variables -->\n\nAfter.\n"
    after = fresh(before, {})
    assert after == "# Role\n\n<!-- variables -->\nNone.\n<!-- /variables -->\n\nAfter.\n"
    assert fresh(after, {}) == after


@pytest.mark.parametrize("readme", ["# Role\n", "<!-- variables -->\n", "<!-- variables --><!-- /variables -->\n" * 2])
def test_readme_without_a_place_for_the_table(readme: str) -> None:
    with pytest.raises(ReadmeError, match="put the lines"):
        fresh(readme, {})
