"""Shared by all tests: our module_utils answer to the name they have on a managed host, and examples are repeatable."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Modules say `from ansible.module_utils.x import y`, also for the repository's own module_utils/x.py.
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

# The same tree gives the same result; `--hypothesis-profile=default` looks for new examples.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
