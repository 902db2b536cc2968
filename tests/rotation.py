"""Mail that leaves for a stranger all the while, and connections that come, while somebody changes keys.

`tests/hosts/test_rotate_keys.py` watches one change of each kind of key.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import re
import smtplib
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from tests.story import WAIT, Hosts, StoryError

CUSTOMER = "customer@customer.example"


@dataclass
class Sent:
    """A message on its way. raw: as it arrived."""

    raw: bytes = b""

    @property
    def selectors(self) -> list[str]:
        """The selectors of its signatures."""
        signatures = self.message.get_all("DKIM-Signature", [])
        return sorted(re.findall(r"\bs=([^;\s]+)", " ".join(str(value) for value in signatures)))

    @property
    def message(self) -> EmailMessage:
        """The message as it arrived."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)


@dataclass
class Traffic:
    """Messages of the database's login to the customer, one every `pause` seconds, until told to stop.

    sent: by Message-ID. faults: what is wrong with any of them, in one line each.
    """

    hosts: Hosts
    pause: float = 0.5
    sent: dict[str, Sent] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        """Send all the while; what cannot be sent is a fault."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(self.pause):
                try:
                    self.send()
                except (OSError, smtplib.SMTPException) as error:
                    self.faults.append(f"a message was not taken: {error}")

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join()

    def send(self) -> str:
        """Send one, as Odoo does; answer its Message-ID."""
        name, message = self.hosts.database["name"], EmailMessage()
        message["From"] = f"notifications@{self.hosts.domain['name']}"
        message["To"] = CUSTOMER
        message["Subject"] = "While keys change"
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = email.utils.make_msgid(domain=self.hosts.domain["name"])
        message.set_content("Good day\n")
        with smtplib.SMTP_SSL(self.hosts.mail.name, 465, timeout=WAIT, context=self.hosts.tls) as session:
            session.login(name, self.hosts.secret(f"mailbox-{name}"))
            self.sent[message["Message-ID"]] = Sent()
            session.send_message(message)
        return str(message["Message-ID"])

    def collect(self) -> list[Sent]:
        """Take what has arrived out of the customer's mailbox; the verdicts that their server wrote are judged."""
        waiting = {one for one, sent in list(self.sent.items()) if not sent.raw}
        found = []
        session: Any
        with self.hosts.customer_mailbox() as session:
            session.select_folder("INBOX")
            numbers = session.search(["SUBJECT", "While keys change"])
            fetched = session.fetch(numbers, ["BODY.PEEK[]"]) if numbers else {}
            for number, data in fetched.items():
                message = email.message_from_bytes(data[b"BODY[]"], policy=email.policy.default)
                if message["Message-ID"] in waiting:
                    sent = self.sent[message["Message-ID"]]
                    sent.raw = data[b"BODY[]"]
                    found.append(sent)
                session.add_flags([number], [rb"\Deleted"], silent=True)
            session.expunge()
        for sent in found:
            results = " ".join(str(value) for value in sent.message.get_all("Authentication-Results", []))
            missing = [check for check in ("spf=pass", "dkim=pass", "dmarc=pass") if check not in results]
            if missing:
                self.faults.append(f"no {', '.join(missing)} with {' '.join(sent.selectors)}: {results}")
            if len(sent.selectors) != 2:
                self.faults.append(f"signed with {sent.selectors}")
        return found

    def wait(self) -> None:
        """Collect until all has arrived. Raises StoryError when something has not after a minute."""
        deadline = time.monotonic() + WAIT
        while any(not sent.raw for sent in self.sent.values()):
            if not self.collect() and time.monotonic() > deadline:
                raise StoryError(f"{sum(not sent.raw for sent in self.sent.values())} messages have not arrived")


@dataclass
class Strangers:
    """Connections from outside to the domain's mail server, verified by DANE alone, one every `pause` seconds.

    verified: how many were. faults: what Postfix outside said of the others.
    """

    hosts: Hosts
    pause: float = 0.5
    verified: int = 0
    faults: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Connect all the while."""
        over = threading.Event()
        finger = f"posttls-finger -t 30 -T 30 -L summary -l dane-only {self.hosts.domain['name']} 2>&1"
        config = str(self.hosts.secrets / "ssh" / "config")
        ssh = ["ssh", "-F", config, self.hosts.outside.name, f"while read -r _; do {finger} | tr '\\n' ' '; echo; done"]
        # ssh would make the stderr that others have, too, a non-blocking one, which Ansible refuses.
        with subprocess.Popen(
            ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as outside:

            def connect() -> None:
                assert outside.stdin and outside.stdout  # noqa: PT018 - both are pipes
                while not over.wait(self.pause):
                    outside.stdin.write("\n")
                    outside.stdin.flush()
                    said = outside.stdout.readline()
                    if "Verified TLS connection established" in said:
                        self.verified += 1
                    else:
                        self.faults.append(f"{time.strftime('%H:%M:%S')} not verified: {said.strip()}")
                outside.stdin.close()

            thread = threading.Thread(target=connect)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
