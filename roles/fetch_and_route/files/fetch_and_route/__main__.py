"""The command `fetch-and-route`."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import commands, metrics, summary, watch
from . import config as configuration
from .config import Config
from .report import Report
from .run import run
from .state import telling
from .trouble import Trouble
from .watch import Stop

EXIT_CODES = """\
exit codes:
  0   done, or nothing to do, or another fetch-and-route is at it
  1   no such message in quarantine
  2   wrong use of this command
  75  a server is away or busy: mail waits, the next run tries again
  77  a server refuses us: mail waits until a person acts on the line printed
  78  the configuration or a secret is wrong or missing
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        config = configuration.load(options.config)
        if getattr(options, "mailbox", None):
            chosen = tuple(mailbox for mailbox in config.mailboxes if mailbox.name == options.mailbox)
            if not chosen:
                names = ", ".join(mailbox.name for mailbox in config.mailboxes)
                parser.error(f"there is no mailbox {options.mailbox!r} (known: {names})")
            databases = tuple(entry for entry in config.databases if entry.name == chosen[0].database)
            config = dataclasses.replace(config, mailboxes=chosen, databases=databases)
        return _dispatch(options, config)
    except Trouble as trouble:
        print(f"fetch-and-route: {trouble}", file=sys.stderr)
        return trouble.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130  # as a shell says of a command that SIGINT ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fetch-and-route",
        description="Hand the mail that waits in a mailbox to Odoo: each message once, none lost.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=configuration.DEFAULT_PATH, help="default: %(default)s")
    json_option, mailbox_option, one = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    json_option.add_argument("--json", action="store_true", help="for machines: JSON instead of text")
    mailbox_option.add_argument("--mailbox", metavar="NAME", help="this mailbox only; default: all")
    one.add_argument("message_id", metavar="MESSAGE-ID", help="with or without <>")

    actions = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_now = actions.add_parser("run", parents=[json_option], help="route what waits now, then end")
    run_now.add_argument("--scheduled", action="store_true", help="leave databases alone that were away just now")
    actions.add_parser("watch", help="route new mail as soon as it comes, until told to end")
    actions.add_parser(
        "status",
        parents=[json_option, mailbox_option],
        help="show what waits, what is routed, what is in quarantine and why",
    )
    actions.add_parser(
        "explain",
        parents=[json_option, mailbox_option, one],
        help="say where a message is, and why; Odoo is asked, too",
    )
    check = actions.add_parser(
        "check", parents=[json_option], help="try the configuration, every mailbox and folder, every gateway action"
    )
    check.add_argument("--offline", action="store_true", help="the configuration only; ask no server, read no secret")

    quarantine = actions.add_parser("quarantine", help="look at what Odoo refused, try it again or remove it")
    acts = quarantine.add_subparsers(dest="act", required=True, metavar="ACTION")
    acts.add_parser("list", parents=[json_option, mailbox_option], help="what is there, and why")
    show = acts.add_parser("show", parents=[mailbox_option, one], help="the reason and the header of a message")
    show.add_argument("--raw", action="store_true", help="the whole message as it is, and nothing else")
    retry = acts.add_parser("retry", parents=[mailbox_option], help="let messages wait again, attempts forgotten")
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("message_ids", metavar="MESSAGE-ID", nargs="*", default=[], help="with or without <>")
    which.add_argument("--all", action="store_true", help="all that is in quarantine")
    drop = acts.add_parser("drop", parents=[mailbox_option, one], help="remove a message for good")
    drop.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can be asked")
    return parser


def _dispatch(options: argparse.Namespace, config: Config) -> int:
    asker = commands.Asker(config, options.config, getattr(options, "json", False))
    match options.command, getattr(options, "act", ""):
        case "run", _:
            return _run(config, options.config, as_json=options.json, scheduled=options.scheduled)
        case "watch", _:
            return _watch(config, options.config)
        case "status", _:
            return commands.status(asker)
        case "explain", _:
            return commands.explain(asker, options.message_id)
        case "check", _:
            return 0 if options.offline else commands.check(asker)
        case _, "list":
            return commands.quarantine_list(asker)
        case _, "show":
            return commands.quarantine_show(asker, options.message_id, raw=options.raw)
        case _, "retry":
            return commands.quarantine_retry(asker, None if options.all else options.message_ids)
        case _:
            return commands.quarantine_drop(asker, options.message_id, yes=options.yes)


def _run(config: Config, config_path: Path, *, as_json: bool, scheduled: bool) -> int:
    report = Report(sys.stdout, as_json=as_json)
    stop = threading.Event()
    _end_by_signal(stop.set)
    code = run(config, config_path, report, stop, scheduled=scheduled)
    _afterwards(config, config_path, report)
    report.finish()
    return code


def _watch(config: Config, config_path: Path) -> int:
    report = Report(sys.stdout)
    stop = Stop()
    _end_by_signal(stop.set)
    return watch.watch(config, config_path, report, stop, lambda: _afterwards(config, config_path, report))


def _end_by_signal(stop: Callable[[], None]) -> None:
    """Let SIGINT and SIGTERM end the command after the batch under way."""

    def end_after_this_batch(number: int, _: object) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the run at once, which is safe, too

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_after_this_batch)


def _afterwards(config: Config, config_path: Path, report: Report) -> None:
    """Tell of what is done since last time. A failure to tell is said, and is no failure of the run."""
    now = int(time.time())
    tallies = report.take()
    served = [name for name, tally in tallies.items() if tally.success]

    def figures() -> None:
        if config.metrics_directory:
            metrics.write(config, tallies, now)

    def tell() -> None:
        session = commands.Asker(config, config_path).session
        if config.summary_to and summary.tell(config, session, served, now):
            report.say(f"summary of the quarantine sent to {config.summary_to}")

    for task in (figures, tell):
        try:
            with telling(Path(config.state_directory)):
                task()
        except Trouble as trouble:
            report.trouble(trouble)


if __name__ == "__main__":
    sys.exit(main())
