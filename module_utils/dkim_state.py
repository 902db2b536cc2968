"""Which DKIM keys of each domain sign, and which are only published: `selectors.json` beside the keys.

`{"version": 1, "domains": {"example.com": [{"selector": ..., "phase": ..., "since": ...}]}}`, see dkim_rotation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from module_utils import durable
    from module_utils.dkim_rotation import PHASES, Key
else:
    from ansible.module_utils import durable
    from ansible.module_utils.dkim_rotation import PHASES, Key

FILE = "selectors.json"
VERSION = 1


def load(path: Path) -> dict[str, tuple[Key, ...]]:
    """Answer the keys by domain, nothing when there is no file. Raises ValueError when it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError("another version")
        domains = {}
        for domain, entries in content["domains"].items():
            keys = tuple(Key(str(one["selector"]), one["phase"], int(one["since"])) for one in entries)
            if {key.phase for key in keys} - set(PHASES) or [key.phase for key in keys].count("signs") != 1:
                raise ValueError("no state of keys")
            domains[domain] = keys
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not say which DKIM keys sign: restore it from a backup") from None
    return domains


def save(path: Path, domains: Mapping[str, Sequence[Key]]) -> None:
    """Replace the file as a whole, durably, mode 0600."""
    entries = {domain: [asdict(key) for key in keys] for domain, keys in sorted(domains.items())}
    content = json.dumps({"version": VERSION, "domains": entries}, indent=2) + "\n"
    durable.replace(path, content)
