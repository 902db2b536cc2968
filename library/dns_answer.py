#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask a resolver for a name until it can tell whether that exists."""

from __future__ import annotations

import secrets
import socket
import struct
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dns_answer
short_description: Ask a resolver for a name until it can tell whether that exists
description:
  - Asks for the addresses of a name, again and again until the resolver says what it has found or that the name does
    not exist. Both show that it reaches the name servers. Changes nothing.
options:
  name:
    description: The name, in ASCII.
    type: str
    required: true
  server:
    description: IPv4 address of the resolver.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    default: 53
  timeout:
    description: Seconds to ask for.
    type: int
    default: 30
  remedy:
    description: What to do when there is no answer; the end of the error.
    type: str
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Ask the resolver
  dns_answer:
    name: mail.example.com
    server: 127.0.0.1
    remedy: look at the resolver's journal
"""

RETURN = r"""
code:
  description: The answer's code, NOERROR or NXDOMAIN.
  returned: success
  type: str
  sample: NOERROR
"""

CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}  # RFC 6895, 2.3
PATIENCE = 5.0  # seconds for one question, as in resolv.conf(5)
PAUSE = 0.5  # seconds after an answer that is none


def question(number: int, name: str) -> bytes:
    """A question for the A records of a name, recursion desired (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label for label in name.rstrip(".").encode("ascii").split(b"."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def ask(name: str, server: str, port: int, patience: float) -> str:
    """The code of the resolver's answer, or why there is none."""
    number = secrets.randbelow(65536)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as session:
            session.settimeout(patience)
            session.connect((server, port))
            session.send(question(number, name))
            answer = session.recv(4096)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if len(answer) < 4 or answer[:2] != number.to_bytes(2):
        return "an answer to something else"
    return CODES.get(answer[3] & 15, f"code {answer[3] & 15}")


def ask_until(name: str, server: str, port: int, timeout: float) -> str:
    """The code of the first answer that is one, else the last one before `timeout` seconds are over."""
    end = time.monotonic() + timeout
    while True:
        code = ask(name, server, port, PATIENCE)
        if code in ("NOERROR", "NXDOMAIN") or time.monotonic() + PAUSE > end:
            return code
        time.sleep(PAUSE)


def main() -> None:
    """Run as an Ansible module."""
    options = {
        "name": {"type": "str", "required": True},
        "server": {"type": "str", "required": True},
        "port": {"type": "int", "default": 53},
        "timeout": {"type": "int", "default": 30},
        "remedy": {"type": "str", "required": True},
    }
    module = AnsibleModule(options, supports_check_mode=True)
    asked = {key: module.params[key] for key in ("name", "server", "port", "timeout")}
    code = ask_until(**asked)
    if code not in ("NOERROR", "NXDOMAIN"):
        module.fail_json(msg=f"{asked['server']} does not find {asked['name']} ({code}): {module.params['remedy']}")
    module.exit_json(changed=False, code=code)


if __name__ == "__main__":
    main()
