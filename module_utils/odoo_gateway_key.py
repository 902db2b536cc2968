# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The API key of the gateway's user: made inside Odoo, tried, kept on the control node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from module_utils import durable
    from module_utils.odoo_records import Refused
    from module_utils.odoo_rpc import Odoo, OdooError
    from module_utils.odoo_wanted import LOGIN, Features
else:
    from ansible.module_utils import durable
    from ansible.module_utils.odoo_records import Refused
    from ansible.module_utils.odoo_rpc import Odoo, OdooError
    from ansible.module_utils.odoo_wanted import LOGIN, Features

KEY_NAME = "Mailroom"
KEY_MAKER = "Mailroom: make the gateway's key"  # a server action that lives for one call


class GatewayKey:
    """The key, as it is kept in a file and as Odoo knows it."""

    def __init__(self, odoo: Odoo, log_in: Callable[[str, str], Odoo], features: Features, path: Path) -> None:
        """`odoo` is an administrator's connection; `log_in` opens one for another login and may raise OdooError."""
        self.odoo = odoo
        self.log_in = log_in
        self.features = features
        self.path = path
        self.text = ""

    def read(self) -> None:
        """Read the key that is kept. Raises Refused."""
        try:
            self.text = self.path.read_text(encoding="utf-8").strip() if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("gateway key", f"{self.path} cannot be read ({error})") from error

    def answers(self, action: int) -> bool:
        """Whether the gateway action answers to this key. Raises Refused when that cannot be told."""
        context = {"mailroom": {"version": 1, "messages": []}}
        try:
            if self.features.json2:
                answer = self.odoo.json2(self.text, "ir.actions.server", "run", {"ids": [action], "context": context})
            else:
                with contextlib.closing(self.log_in(LOGIN, self.text)) as bot:
                    answer = bot.call("ir.actions.server", "run", [action], context=context)
        except OdooError as error:
            if error.refused:
                return False
            raise Refused("gateway action", error) from error
        return bool(isinstance(answer, dict) and answer.get("mailroom", {}).get("verdicts") == [])

    def make(self, user: int, system: int, thread: int, beside: bool) -> None:
        """Have Odoo make a key, `beside` the former ones or in their place, and keep it. Raises OdooError, Refused.

        `system` is the group of Settings administrators, `thread` the id of the model mail.thread.
        """
        expiry = ", False" if self.features.has("res.users.apikeys", "expiration_date") else ""
        answer = self._from_inside(
            (user, system, thread),
            ("" if beside else "former.unlink()\n")
            + f"key = keys.with_user(bot).sudo()._generate('rpc', {KEY_NAME!r}{expiry})\n"
            "action = {'type': 'ir.actions.act_window_close', 'mailroom_key': key}\n",
        )
        self.text = str(answer["mailroom_key"])
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(self.path, self.text + "\n")
        except OSError as error:
            raise Refused("gateway key", f"{self.path} cannot be written ({error.strerror})") from error

    def retire(self, user: int, system: int, thread: int) -> int:
        """Have Odoo forget all keys of the user but the newest; returns how many. Raises OdooError."""
        code = (
            "older = former.sorted('id')[:-1]\n"
            "action = {'type': 'ir.actions.act_window_close', 'mailroom_retired': len(older)}\n"
            "older.unlink()\n"
        )
        return int(self._from_inside((user, system, thread), code)["mailroom_retired"])

    def forget(self, user: int, system: int, thread: int) -> None:
        """Have Odoo forget all keys of the user. Raises OdooError."""
        code = "former.unlink()\naction = {'type': 'ir.actions.act_window_close'}\n"
        self._from_inside((user, system, thread), code)

    def _from_inside(self, ids: tuple[int, int, int], code: str) -> dict[str, Any]:
        """Run code about the keys of a user inside Odoo; it has `bot`, `keys` and the bot's `former` ones of our name.

        Odoo has no public method for keys: a server action, which only Settings administrators may run and which is
        removed right away, does it (odoo/addons/base/models/res_users.py, res.users.apikeys._generate).
        """
        user, system, thread = ids
        values = {
            "name": KEY_MAKER,
            "model_id": thread,
            "state": "code",
            "code": f"bot = env['res.users'].browse({user})\n"
            "keys = env['res.users.apikeys'].sudo()\n"
            f"former = keys.search([('user_id', '=', bot.id), ('name', '=', {KEY_NAME!r})])\n" + code,
            self.features.groups("ir.actions.server"): [[6, 0, [system]]],
        }
        maker = self.odoo.create("ir.actions.server", values)
        try:
            return dict(self.odoo.call("ir.actions.server", "run", [maker]))
        finally:
            self.odoo.call("ir.actions.server", "unlink", [maker])
