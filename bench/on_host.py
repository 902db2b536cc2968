"""What bench/routing and bench/mailserver need on the test hosts; copied there, and run by Debian's own Python.

    on_host.py measure COMMAND...              run it; prints its seconds, CPU seconds and peak memory
    on_host.py routed-by-stub NUMBER CONFIG    measure a run against an Odoo that takes everything at once; it is told
                                               to end when NUMBER messages are taken
    on_host.py fill FOLDER NUMBER              put new mail into a Maildir folder
    on_host.py mailgate SCRIPT ARGUMENTS...    run it once for each message of standard input, one after the other
    on_host.py send HOST RECIPIENT             send each message of standard input to HOST, saying when it was taken
    on_host.py submit                          log in and send mail over several connections, as standard input says
    on_host.py drained SECONDS                 wait until nothing is in Postfix's queue; prints how much still is
    on_host.py arrived FOLDER TAG              messages with TAG in their subject that a folder of files has

Messages on standard input are base64, one a line, unless said otherwise; what is printed is JSON, one object a line.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEXT = (
    "We would like to order the chairs from your catalogue for our new office. Please send an offer with delivery time "
    "and price per piece. The tables should be of oak or beech. Last year you gave us a discount of three percent."
)


def make_mail(
    tag: str, number: int, recipient: str, *, delivered: bool = True, answers: str = "", extra: int = 0
) -> tuple[str, bytes]:
    """One mail from somebody new each time (Odoo takes one sender too often for a loop); its Message-ID and its bytes.

    2 to 5 kB of text and HTML and, if `delivered`, the header lines that servers add until it lies in the mailbox.
    `answers`: the Message-ID that it is a reply to. `extra`: so many bytes more, as an attachment.
    """
    chance = random.Random(f"{tag} {number}")  # noqa: S311 - the same mails again for the same tag
    name = f"{tag}-{number}"
    message_id = f"<{name}@customer.example>"
    paragraphs = [" ".join(chance.choices(TEXT.split(), k=chance.randint(20, 60))) for _ in range(chance.randint(2, 4))]
    signature = base64.b64encode(chance.randbytes(256)).decode()
    trace = [
        f"Return-Path: <c-{name}@customer.example>",
        f"Delivered-To: {recipient}",
        "Received: from mail.example.com by mail.example.com with LMTP",
        f"\tid {chance.getrandbits(64):x} (envelope-from <c-{name}@customer.example>)",
        f"\tfor <{recipient}>; Wed, 25 Nov 2026 08:00:01 +0000",
        "Received: from mx.customer.example (mx.customer.example [192.0.2.80])",
        "\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))",
        f"\tby mail.example.com (Postfix) with ESMTPS id {chance.getrandbits(64):x}",
        f"\tfor <{recipient}>; Wed, 25 Nov 2026 08:00:01 +0000 (UTC)",
        f"Authentication-Results: mail.example.com; dkim=pass header.d=customer.example; spf=pass smtp.mailfrom={name}",
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=customer.example; s=mail;",
        "\th=From:To:Subject:Message-ID:Date; b=" + "\r\n\t ".join(signature[at : at + 70] for at in range(0, 344, 70)),
    ]
    lines = [
        *(trace if delivered else []),
        f"From: Customer {number} <c-{name}@customer.example>",
        f"To: {recipient}",
        f"Subject: {tag} {number}",
        f"Message-ID: {message_id}",
        *([f"References: {answers}", f"In-Reply-To: {answers}"] if answers else []),
        "Date: Wed, 25 Nov 2026 08:00:00 +0000",
        "MIME-Version: 1.0",
        *(['Content-Type: multipart/mixed; boundary="outer"', "", "--outer"] if extra else []),
        'Content-Type: multipart/alternative; boundary="inner"',
        "",
        "--inner",
        "Content-Type: text/plain; charset=utf-8",
        "",
        *(line for text in paragraphs for line in (text, "")),
        "--inner",
        "Content-Type: text/html; charset=utf-8",
        "",
        '<html><body style="font-family: sans-serif">',
        *(f"<p>{text}</p>" for text in paragraphs),
        f"</body></html>\r\n\r\n--inner--{attachment(chance, extra) if extra else ''}",
        "",
    ]
    return message_id, "\r\n".join(lines).encode()


def attachment(chance: random.Random, size: int) -> str:
    """The rest of a message that has an attachment, which makes it larger by about so many bytes."""
    data = base64.encodebytes(chance.randbytes(size // 78 * 57)).decode().replace("\n", "\r\n")
    return (
        "\r\n\r\n--outer\r\nContent-Type: application/octet-stream; name=plan.bin\r\nContent-Transfer-Encoding: base64"
        f"\r\nContent-Disposition: attachment; filename=plan.bin\r\n\r\n{data}\r\n--outer--"
    )


def spawn(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Start a command whose output goes to the journal, as that of a unit does; returns it and its log."""
    log = subprocess.Popen(["systemd-cat", "--identifier=bench"], stdin=subprocess.PIPE)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log.stdin, stderr=log.stdin)
    return process, log


def usage(process: subprocess.Popen[bytes], log: subprocess.Popen[bytes], began: float) -> dict[str, Any]:
    """Wait for a command's end; what it took."""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    log.communicate()
    return {
        "exit_code": process.returncode,
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
    }


def measure(*command: str) -> dict[str, Any]:
    """Run a command and say what it took."""
    began = time.monotonic()
    return usage(*spawn(command), began)


def routed_by_stub(number: str, config: str) -> dict[str, Any]:
    """Measure a run against a stub that is a process of its own, so that its memory is not counted."""
    command = [sys.executable, __file__, "stub", number]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdin is not None  # noqa: S101 - both are pipes
        assert stub.stdout is not None  # noqa: S101
        stub.stdout.readline()
        began = time.monotonic()
        process, log = spawn(["fetch-and-route", "--config", config, "run"])
        stub.stdin.write(f"{process.pid}\n")
        stub.stdin.flush()
        used = usage(process, log, began)
        answered, _ = stub.communicate()
        return {**used, **json.loads(answered)}


def stub(number: str) -> dict[str, Any]:
    """Be an Odoo that says `routed` to all, until standard input ends; ends its caller when so many were routed."""
    import http.server
    import threading

    routed = 0
    told = threading.Event()
    caller: list[int] = []
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal routed
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = asked["context"]["mailroom"]["messages"]
            routed_one = {"verdict": "routed", "model": "crm.lead", "res_id": 1, "mail_message_id": 1, "reason": ""}
            verdicts = [{"id": message["id"], **routed_one} for message in messages]
            answer = json.dumps({"mailroom": {"version": 1, "verdicts": verdicts, "found": []}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            with lock:
                routed += len(messages)
                if routed >= int(number) and not told.is_set():
                    told.set()
                    os.kill(caller[0], 15)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8069), Handler)
    print("ready", flush=True)
    caller.append(int(sys.stdin.readline()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    return {"routed": routed}


def fill(folder: str, number: str) -> dict[str, Any]:
    """Put mail into a Maildir folder as delivery leaves it: with line ends as Dovecot keeps them, sizes in the name.

    Every third is a reply, each in another thread.
    """
    new, tag = Path(folder) / "new", f"fill-{time.time_ns()}"
    owner = new.stat()
    for place in range(int(number)):
        _, raw = make_mail(tag, place, "sales@example.com", answers="" if place % 3 else f"<{tag}-{place}@example.com>")
        kept = raw.replace(b"\r\n", b"\n")
        file = new / f"{int(time.time())}.{tag}N{place:06}.bench,S={len(kept)},W={len(raw)}"
        file.write_bytes(kept)
        os.chown(file, owner.st_uid, owner.st_gid)
    return {"filled": int(number)}


def mailgate(*command: str) -> dict[str, Any]:
    """Run a command for each message, as a mail server runs it for each delivery."""
    mails = [base64.b64decode(line) for line in sys.stdin]
    began = time.monotonic()
    for raw in mails:
        subprocess.run(command, input=raw, check=True)
    return {"seconds": time.monotonic() - began}


def send(host: str, recipient: str) -> dict[str, Any]:
    """Send mail in a session of its own each, and say at what time it was accepted."""
    import smtplib

    for line in sys.stdin:
        raw = base64.b64decode(line)
        with smtplib.SMTP(host, 25, timeout=60) as session:
            session.sendmail("customer@customer.example", [recipient], raw)
            print(json.dumps({"accepted": time.time()}), flush=True)
    return {}


def submit() -> dict[str, Any]:
    """Send mail as somebody who logs in; standard input has the arguments of `submitted` as JSON."""
    return submitted(**json.load(sys.stdin))


def submitted(
    *,
    address: str,
    name: str,
    authority: str,
    login: str,
    password: str,
    sender: str,
    recipient: str,
    tag: str,
    number: int,
    connections: int,
    size: int,
) -> dict[str, Any]:
    """Send so many messages to port 465 over so many connections at once, which begin when all of them have logged in.

    Returns when that was, and each message that was not taken with the reason. The server's certificate has to be for
    `name`, by `authority`, in PEM form.
    """
    import concurrent.futures
    import smtplib
    import ssl
    import threading

    began: list[float] = []
    ready = threading.Barrier(connections, lambda: began.append(time.time()), timeout=120)
    context = ssl.create_default_context(cadata=authority)
    text = f"{TEXT}\r\n" * (size // len(TEXT))

    def client(own: range) -> list[str]:
        session = smtplib.SMTP_SSL(local_hostname="client.example.com", timeout=120, context=context)
        session._host = name  # type: ignore[attr-defined] # whose certificate it is; smtplib knows no other way
        session.connect(address, 465)
        refused = []
        with session:
            session.login(login, password)
            ready.wait()
            for place in own:
                head = f"From: {sender}\r\nTo: {recipient}\r\nSubject: {tag}\r\nMessage-ID: <{tag}.{place}@example.com>"
                try:
                    session.sendmail(sender, [recipient], f"{head}\r\n\r\n{text}")
                except smtplib.SMTPException as error:
                    refused.append(f"{place}: {error}")
        return refused

    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        clients = [pool.submit(client, range(first, number, connections)) for first in range(connections)]
        refused = [line for each in clients for line in each.result()]
    return {"began": began[0], "refused": refused}


QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")


def drained(seconds: str, spool: str = "/var/spool/postfix") -> dict[str, Any]:
    """Wait until nothing is in Postfix's queue; its files are looked at, since postqueue would read each of them."""
    deadline = time.monotonic() + float(seconds)
    while True:
        left = sum(len(files) for queue in QUEUES for _, _, files in os.walk(f"{spool}/{queue}"))
        if not left or time.monotonic() > deadline:
            return {"left": left}
        time.sleep(0.2)


def arrived(folder: str, tag: str) -> dict[str, Any]:
    """How many messages a folder of files has with that subject, how many different ones, and when the last came."""
    ids, last = [], 0.0
    for file in Path(folder).iterdir():
        with file.open("rb") as message:
            lines = itertools.takewhile(bytes.strip, message)
            head = dict(line.rstrip().split(b": ", 1) for line in lines if b": " in line)
        if head.get(b"Subject") == tag.encode():
            ids.append(head.get(b"Message-ID") or head.get(b"Message-Id"))
            last = max(last, file.stat().st_ctime)
    return {"found": len(ids), "distinct": len({*ids}), "last": last}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": measure,
    "routed-by-stub": routed_by_stub,
    "stub": stub,
    "fill": fill,
    "mailgate": mailgate,
    "send": send,
    "submit": submit,
    "drained": drained,
    "arrived": arrived,
}

if __name__ == "__main__":
    print(json.dumps(ACTIONS[sys.argv[1]](*sys.argv[2:])), flush=True)
