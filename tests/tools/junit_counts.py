"""Print how many tests of a JUnit XML report passed and failed: `junit_counts.py REPORT` says for instance "41 2".

A test whose teardown fails after the test failed is one failure, and a skipped test is neither.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def counts(report: str) -> tuple[int, int]:
    """Return the numbers of passed and failed test cases in a report; raises ParseError for what is no XML."""
    cases: dict[tuple[str, str], set[str]] = {}
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 -- pytest has just written it
        cases.setdefault((case.get("classname", ""), case.get("name", "")), set()).update(part.tag for part in case)
    failed = sum(1 for tags in cases.values() if tags & {"failure", "error"})
    skipped = sum(1 for tags in cases.values() if "skipped" in tags and not tags & {"failure", "error"})
    return len(cases) - failed - skipped, failed


if __name__ == "__main__":
    print(*counts(Path(sys.argv[1]).read_text(encoding="utf-8")))
