"""The demo: make the hosts, run site.yml, tell the story, and say what to look at next (started by ./demo)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import smtplib
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from imapclient.exceptions import IMAPClientError  # type: ignore[import-untyped]

from tests.story import ROOT, Hosts, Story, StoryError

LOGS = ROOT / ".cache" / "demo"
ODOO = os.environ.get("MAILROOM_ODOO") or "19"
CONTAINERS_CONF = ROOT / ".cache" / "containers.conf"
TERMINAL = sys.stdout.isatty()
BOLD, DIM, GREEN, RED, RESET = ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if TERMINAL else ("",) * 5
WIDTH = min(shutil.get_terminal_size((100, 24)).columns, 120)


class Failed(Exception):
    """A command of the demo failed; the message is the line to show."""


class Progress:
    """One line a step: what is being done now, and in the end what came out and how long it took."""

    def __init__(self) -> None:
        self.title = ""
        self.start = 0.0

    def now(self, text: str) -> None:
        """What the step is doing: one changing line on a terminal, a line of its own elsewhere."""
        if TERMINAL:
            line = f"  … {self.title} · {text}"
            print(f"\r\033[K{DIM}{line[: WIDTH - 1]}{RESET}", end="", flush=True)
        else:
            print(f"      {text}", flush=True)

    @contextmanager
    def step(self, title: str, *, already: float = 0.0) -> Iterator[list[str]]:
        """Time a step; lines appended to the given list are shown under it when it is done."""
        self.title, self.start = title, time.monotonic() - already
        found: list[str] = []
        if TERMINAL:
            self.now("")
        else:
            print(f"  … {title}", flush=True)
        try:
            yield found
        except BaseException:
            self._end(f"{RED}✗{RESET}")
            raise
        self._end(f"{GREEN}✓{RESET}")
        for line in found:
            print(f"      {DIM}{line}{RESET}", flush=True)

    def _end(self, mark: str) -> None:
        clear = "\r\033[K" if TERMINAL else ""
        seconds = f"{time.monotonic() - self.start:.1f} s"
        dots = "." * max(2, WIDTH - len(self.title) - len(seconds) - 8)
        print(f"{clear}  {mark} {self.title} {DIM}{dots}{RESET} {seconds}", flush=True)


def run(name: str, command: list[str], line_seen: Callable[[str], None]) -> str:
    """Run a command with its output in a log of that name, each line also given to `line_seen`; returns the output.

    Raises `Failed` with the command's own last words when it does not exit with 0.
    """
    log = LOGS / f"{name}.log"
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if CONTAINERS_CONF.exists():
        environment["CONTAINERS_CONF"] = str(CONTAINERS_CONF)
    lines: list[str] = []
    with (
        log.open("w") as kept,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        for line in process.stdout or ():
            kept.write(line)
            lines.append(line.rstrip("\n"))
            line_seen(lines[-1])
    if process.returncode:
        shown = "\n".join(f"      {line}" for line in lines[-25:])
        raise Failed(f"'{' '.join(command)}' ended with {process.returncode}; all it said is in {log}:\n{shown}")
    return "\n".join(lines)


def ansible_tasks(progress: Progress) -> Callable[[str], None]:
    """Shows the tasks of an Ansible run as they begin."""
    started = 0

    def seen(line: str) -> None:
        nonlocal started
        match = re.search(r"(?:TASK|RUNNING HANDLER) \[(.*?)\]", line)
        if match and "Validating arguments" not in line:
            started += 1
            progress.now(f"{started:2}. {match[1]}")

    return seen


def recap(output: str) -> str:
    """`changed` and `failed` of all hosts together, from Ansible's recap."""
    counts = [
        (int(match[1]), int(match[2]), int(match[3]))
        for match in re.finditer(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=\d+\s+failed=(\d+)", output)
    ]
    ok, changed, failed = (sum(column) for column in zip(*counts, strict=True))
    return f"ok={ok} changed={changed} failed={failed}"


def build_images(progress: Progress) -> list[str]:
    """Build what is not cached: the large image beside the small ones, since the machine has two cores."""
    mail = f"mail-{os.environ.get('MAILROOM_DEBIAN') or '13'}"

    def build(name: str) -> list[str]:
        def seen(line: str) -> None:
            if "cached" not in line:
                progress.now(line)

        return [
            line
            for line in run(f"image-{name}", ["molecule/images/build", *name.split()], seen).splitlines()
            if "built" in line or "cached" in line
        ]

    with ThreadPoolExecutor() as pool:
        return [line for lines in pool.map(build, (f"odoo-{ODOO}", f"{mail} services")) for line in lines]


def up(progress: Progress) -> Hosts:
    """Images, hosts, site.yml."""
    before = max(0.0, time.time() - float(os.environ.get("MAILROOM_DEMO_START", time.time())))
    with progress.step("Install this machine's packages and the Python environment", already=before):
        pass
    with progress.step("Build the hosts' images") as found:
        found += build_images(progress)
    with progress.step("Make the hosts: mail (bare Debian), dns, odoo, outside"):
        for action in ("destroy", "create"):
            run(f"hosts-{action}", ["molecule", action], ansible_tasks(progress))
    with progress.step("Run: ansible-playbook -i inventory/demo site.yml") as found:
        found.append(recap(run("site", site(), ansible_tasks(progress))))
    return Hosts()


def site() -> list[str]:
    """The one command of the product."""
    return ["ansible-playbook", "-i", "inventory/demo", "site.yml"]


def tell(progress: Progress, hosts: Hosts) -> Story:
    """The story, step by step."""
    story = Story(hosts)
    with hosts.names(), contextlib.closing(story):
        for number, (title, step) in enumerate(story.steps(), 1):
            with progress.step(f"{number}. {title}") as found:
                found.append(step())
    with progress.step(f"{number + 1}. site.yml again: nothing changes") as found:
        found.append(recap(run("site-again", site(), ansible_tasks(progress))))
        if "changed=0 " not in found[0]:
            raise Failed(f"the second run of site.yml changed something: {found[0]}; see {LOGS / 'site-again.log'}")
    return story


def next_steps(hosts: Hosts, story: Story) -> str:
    """What a person wants to do now."""
    name = hosts.database["name"]
    secrets = hosts.secrets.relative_to(ROOT)
    ssh = f"ssh -F {secrets}/ssh/config"
    lead = f"odoo/crm.lead/{story.lead}" if int(ODOO) >= 18 else f"web#model=crm.lead&id={story.lead}&view_type=form"
    return f"""
{BOLD}Look around{RESET}
  Odoo           {hosts.database["url"]}   login admin, password admin (salesperson/salesperson)
                 its certificate is from the demo's authority: {secrets}/ca/ca.pem
                 from another machine: ssh -L 8443:{hosts.odoo.address}:443 <this machine>, https://localhost:8443
  The lead       {hosts.database["url"]}/{lead}
  The mailbox    {ssh} mail doveadm fetch -u {name} "'mailbox hdr.subject'" ALL
  The log        {ssh} mail "journalctl -n 50 -u fetch-and-route -u 'postfix*'"
  Route now      {ssh} mail systemctl start fetch-and-route
  Another name for catchall:  set `catchall: reception` in inventory/demo/group_vars/all.yml, then
                 . {Path(sys.prefix).name}/bin/activate && ansible-playbook -i inventory/demo site.yml
  Remove it all  ./demo --down
"""


def main(arguments: list[str]) -> int:
    """Exit code 0 when the whole story came true."""
    LOGS.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    start = float(os.environ.get("MAILROOM_DEMO_START", time.time()))
    try:
        if arguments == ["--down"]:
            with progress.step("Remove the hosts (images stay cached)"):
                run("hosts-destroy", ["molecule", "destroy"], ansible_tasks(progress))
            return 0
        print(
            f"{BOLD}Mailroom's demo{RESET}: an Odoo {ODOO} and its own mail server, on this machine alone.", flush=True
        )
        hosts = up(progress)
        story = tell(progress, hosts)
    except (Failed, StoryError) as error:
        print(f"\n{RED}The demo stopped:{RESET} {error}\n  The hosts are left as they are; './demo' begins again.")
        return 1
    except (OSError, IMAPClientError, smtplib.SMTPException, xmlrpc.client.Error, KeyError, TypeError) as error:
        what = " ".join(str(error).split()) or "no message"
        print(f"\n{RED}The demo stopped:{RESET} {progress.title}: {type(error).__name__}: {what}")
        print(
            f"  Look at the hosts' logs: ssh -F inventory/demo/secrets/ssh/config mail journalctl -n 50; runs: {LOGS}"
        )
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. './demo' begins again, './demo --down' removes the hosts.")
        return 130
    print(
        f"\n{BOLD}{GREEN}The whole story came true{RESET} in {time.time() - start:.0f} s.\n{next_steps(hosts, story)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
