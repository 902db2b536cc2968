"""The command `fetch-and-route`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from . import config as configuration
from .config import Config, Database, Mailbox
from .odoo import OdooGateway
from .report import Report
from .run import run
from .sources import queue_for
from .state import State, lock
from .trouble import Denied, Trouble

EXIT_CODES = """\
exit codes:
  0   done, or nothing to do, or another run is at it
  2   wrong use of this command
  75  a server is away or busy: mail waits, the next run tries again
  77  a server refuses us: mail waits until a person acts on the line printed
  78  the configuration or a secret is wrong or missing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="fetch-and-route",
        description="Hand the mail that waits in a mailbox to Odoo: each message once, none lost.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=configuration.DEFAULT_PATH, help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="route what waits now, then end")
    commands.add_parser("status", help="show what waits, what is routed, what is in quarantine and why")
    check = commands.add_parser("check", help="try the configuration, every mailbox and every gateway action")
    check.add_argument("--offline", action="store_true", help="the configuration only; ask no server, read no secret")
    options = parser.parse_args(arguments)
    try:
        config = configuration.load(options.config)
        if options.command == "run":
            return _run(config, options.config)
        if options.command == "status":
            return _status(config, options.config)
        return 0 if options.offline else _check(config, options.config)
    except Trouble as trouble:
        print(f"fetch-and-route: {trouble}", file=sys.stderr)
        return trouble.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _run(config: Config, config_path: Path) -> int:
    report = Report(sys.stdout)
    stop = threading.Event()

    def end_after_this_batch(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the run at once, which is safe, too

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_after_this_batch)
    with lock(Path(config.state_directory)) as ours:
        if not ours:
            report.say("another fetch-and-route is running: nothing to do here")
            return 0
        code = run(config, config_path, report, stop)
        report.finish()
        return code


def _status(config: Config, config_path: Path) -> int:
    def show(mailbox: Mailbox) -> str:
        state = State(Path(config.state_directory), mailbox.name)
        with queue_for(mailbox, config, config_path) as session:
            routed, quarantine = session.size_of(mailbox.routed), session.message_ids(mailbox.quarantine)
            lines = [
                f"mailbox {mailbox.name} at {mailbox.host}, for database {mailbox.database}",
                f"  waiting    {session.count:>7}",
                f"  routed     {routed:>7}",
                f"  quarantine {len(quarantine):>7}",
            ]
        for message_id in quarantine:
            note = state[message_id]
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.at)) if note else "?"
            recipients = ", ".join(note.recipients) if note else ""
            lines.append(f"    {at}  {message_id}  {recipients}".rstrip())
            lines.append(f"      {note.reason if note else 'no reason is noted here: search the journal for this id'}")
        return "\n".join(lines)

    return _each([partial(show, mailbox) for mailbox in config.mailboxes])


def _check(config: Config, config_path: Path) -> int:
    def mailbox_answers(mailbox: Mailbox) -> str:
        with queue_for(mailbox, config, config_path) as session:
            if not session.can_move:
                raise Denied(
                    f"mailbox {mailbox.name} at {mailbox.host}: has neither MOVE nor UIDPLUS: use another server"
                )
            return f"ok: mailbox {mailbox.name} at {mailbox.host}:{mailbox.port}: {session.count} waiting"

    def database_answers(database: Database) -> str:
        gateway = OdooGateway(database, configuration.secret(database.key, config_path))
        try:
            gateway.ping()
        finally:
            gateway.close()
        return f"ok: database {database.name} at {database.url}: the gateway action answers"

    return _each(
        [
            *(partial(mailbox_answers, mailbox) for mailbox in config.mailboxes),
            *(partial(database_answers, database) for database in config.databases),
        ]
    )


def _each(questions: Sequence[Callable[[], str]]) -> int:
    """Print each answer, or what went wrong, and go on; returns the highest exit code."""
    code = 0
    for question in questions:
        try:
            print(question())
        except Trouble as trouble:
            print(f"FAILED: {trouble}")
            code = max(code, trouble.exit_code)
    return code


if __name__ == "__main__":
    sys.exit(main())
