#!/usr/bin/python
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A person's authorisation at a provider, by a browser that comes back to this computer (RFC 8252, RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import secrets
import time
import urllib.error
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

if TYPE_CHECKING:
    from module_utils import durable
else:
    from ansible.module_utils import durable

DOCUMENTATION = r"""
module: oauth_authorize
short_description: Get a refresh token by a person's browser
description:
  - Runs on the control node, in two steps. V(begin) answers the addresses that a person has to open. V(finish) waits
    for the browser, which the provider sends back to C(http://localhost:8765/authorized), asks for the token, and keeps
    it in a file.
options:
  authorizations:
    description: What is to be authorised, as the filter C(authorizations) answers it.
    type: list
    elements: dict
    required: true
  step:
    description: Which of the two steps.
    type: str
    choices: [begin, finish]
    required: true
  begun:
    description: What V(begin) answered, for V(finish).
    type: list
    elements: dict
    default: []
  directory:
    description: Where the tokens are kept, C(oauth-<database>), readable by nobody else.
    type: path
    required: true
  port:
    description: Where this computer waits for the browser.
    type: int
    default: 8765
  timeout:
    description: Seconds that it waits.
    type: int
    default: 900
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
author: Mailroom contributors
"""

EXAMPLES = r"""
- name: Begin
  oauth_authorize:
    authorizations: "{{ odoo_databases | authorizations }}"
    directory: "{{ secrets_directory }}"
    step: begin
  delegate_to: localhost
  run_once: true
  no_log: "{{ example_no_log }}"
  register: __example_begun
"""

RETURN = r"""
begun:
  description: What belongs to each authorisation, for V(finish).
  returned: always
  type: list
  elements: dict
lines:
  description: What a person is to do, or what was done, one line each.
  returned: always
  type: list
  elements: str
problems:
  description: What is wrong, one line each - where, what, what to do.
  returned: always
  type: list
  elements: str
"""

PATH = "/authorized"
TOKEN_SECONDS = 30


def begin(authorization: Mapping[str, Any], redirect: str) -> dict[str, str]:
    """What belongs to one authorisation: the address to open, and what makes the answer to it ours alone."""
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    form = {
        "response_type": "code",
        "client_id": authorization["client_id"],
        "redirect_uri": redirect,
        "scope": authorization["scope"],
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "login_hint": authorization["login"],
        **authorization["more"],
    }
    return {"url": f"{authorization['url']}?{urllib.parse.urlencode(form)}", "state": state, "verifier": verifier}


class Listener(http.server.HTTPServer):
    """Waits for browsers, of which each brings the answer to one `state`."""

    def __init__(self, port: int, states: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.states = states
        self.answers: dict[str, dict[str, str]] = {}

    def wait(self, seconds: float) -> None:
        """Wait until all answers are there, or the time is over."""
        deadline = time.monotonic() + seconds
        while len(self.answers) < len(self.states) and (left := deadline - time.monotonic()) > 0:
            self.timeout = left
            self.handle_request()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener
    timeout = 10  # a browser may open a connection more than it uses

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        answer = dict(urllib.parse.parse_qsl(parts.query))
        known = parts.path == PATH and answer.get("state") in self.server.states
        if known:
            self.server.answers.setdefault(answer["state"], answer)
        text = "Go on in the terminal; this page may be closed." if known else "This is no answer that is waited for."
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing: the address has the code in it."""


def refresh_token(authorization: Mapping[str, Any], redirect: str, code: str, verifier: str) -> str:
    """Exchange the code (RFC 6749, section 4.1.3). Raises ValueError with what the endpoint says, and what to do."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect,
        "client_id": authorization["client_id"],
        "client_secret": authorization["client_secret"],
        "code_verifier": verifier,
    }
    url = authorization["token_url"]
    body = urllib.parse.urlencode(form).encode()
    try:
        with open_url(url, data=body, method="POST", timeout=TOKEN_SECONDS, follow_redirects="none") as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            said = _said(error.read())
        raise ValueError(
            f"{url} says {said or error.reason}: correct client_id and client_secret, or run again"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{url} gives no token ({error}): run again when it does") from error
    token = answer.get("refresh_token") if isinstance(answer, dict) else None
    if not token:
        raise ValueError(f"{url} gives no refresh token: take the application's access back there, then run again")
    return str(token)


def _said(body: bytes) -> str:
    try:
        answer = json.loads(body)
        return " ".join(str(answer.get("error_description") or answer.get("error") or "").split())
    except (ValueError, AttributeError):
        return ""


def finish(
    listener: Listener, authorizations: Sequence[Mapping[str, Any]], begun: Sequence[Mapping[str, str]], params: Any
) -> tuple[list[str], list[str]]:
    """Wait for the browsers and keep the tokens; returns what was done, and what is wrong."""
    listener.wait(params["timeout"])
    redirect = f"http://localhost:{params['port']}{PATH}"
    lines, problems = [], []
    for authorization, start in zip(authorizations, begun, strict=True):
        name = authorization["name"]
        where = f"odoo_databases[{name}].provider.oauth"
        answer = listener.answers.get(start["state"])
        if answer is None:
            problems.append(f"{where}: nobody came back within {params['timeout']} s: run again")
            continue
        if "code" not in answer:
            said = " ".join(str(answer.get("error_description") or answer.get("error") or "nothing").split())
            problems.append(f"{where}: the provider says {said}: run again, and agree to all that is asked")
            continue
        try:
            token = refresh_token(authorization, redirect, answer["code"], start["verifier"])
            durable.replace(Path(params["directory"]) / f"oauth-{name}", f"{token}\n")
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        wanted = f"\"{{{{ lookup('ansible.builtin.file', secrets_directory ~ '/oauth-{name}') }}}}\""
        lines.append(f"{where}: write refresh_token: {wanted} and run site.yml")
    return lines, problems


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            # no_log keeps the secrets out of the control node's syslog ...
            "authorizations": {"type": "list", "elements": "dict", "required": True, "no_log": True},
            "step": {"type": "str", "choices": ["begin", "finish"], "required": True},
            "begun": {"type": "list", "elements": "dict", "default": [], "no_log": True},
            "directory": {"type": "path", "required": True},
            "port": {"type": "int", "default": 8765},
            "timeout": {"type": "int", "default": 900},
        }
    )
    # ... but it would also blank every name in the answer, which leaves the arguments out.
    module.no_log_values.clear()
    params = module.params
    authorizations, begun = params["authorizations"], params["begun"]
    problems: list[str] = []
    if params["step"] == "begin":
        begun = [begin(entry, f"http://localhost:{params['port']}{PATH}") for entry in authorizations]
        lines = [
            f"odoo_databases[{entry['name']}]: open this, signed in as {entry['login']}: {start['url']}"
            for entry, start in zip(authorizations, begun, strict=True)
        ]
    else:
        try:
            with Listener(params["port"], [start["state"] for start in begun]) as listener:
                lines, problems = finish(listener, authorizations, begun, params)
        except OSError as error:
            reason = f"{error.strerror or error}".lower()
            lines, problems = [], [f"port {params['port']} of this computer: {reason}: free it, then run again"]
    module.exit_json(
        changed=params["step"] == "finish" and bool(lines),
        begun=begun,
        lines=lines,
        problems=problems,
        invocation={"module_args": {}},
    )


if __name__ == "__main__":
    main()
