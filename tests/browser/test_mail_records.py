"""The page with the records to enter by hand, in a real browser: what is copied is what has to be entered."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filter_plugins.mail_rrsets import mail_rrsets
from filter_plugins.record_forms import Form, record_forms

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ["example.com", "erp.example.org"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # how the protocol calls an element (W3C WebDriver, 11)
PASTE = "\ue009v\ue000"  # control and v, then no key any more (W3C WebDriver, 17.4.2)

# Kept until the button says so, at most for the protocol's 30 seconds.
COPIED = """const [button] = arguments;
return new Promise((done) => {
  const look = () => button.textContent === "Copied" ? done() : requestAnimationFrame(look);
  look();
});"""


def wanted() -> list[Form]:
    """Every kind of record and of state, a value with markup in it, and a key of more than one string."""
    rrsets = mail_rrsets(
        [{"name": "prod", "domains": [{"name": name} for name in DOMAINS]}],
        [{"name": "mail.example.com", "ipv4": "192.0.2.25", "ipv6": "2001:db8::25"}],
        [
            {"domain": name, "selector": selector, "type": kind, "public": base64.b64encode(b"x" * size).decode()}
            for name in DOMAINS
            for selector, kind, size in (("mailroom1", "rsa", 550), ("mailroom1-ed25519", "ed25519", 32))
        ],
        mta_sts={"host": "mail.example.com", "policy": "version: STSv1\n"},
    )
    states = ["ok", "fails", "advice", "unknown"]
    findings = [
        {"record": f"{rrset['name']} {rrset['type']}", "verdict": states[place % 4], "text": "<b>is & was</b>"}
        for place, rrset in enumerate(rrsets)
    ]
    return record_forms(rrsets, DOMAINS, [], findings)


class Browser:
    """A window of Chromium, steered by way of chromedriver (W3C WebDriver)."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless", "--no-sandbox", "--disable-gpu"]}  # root has no sandbox
        wish = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.base += f"/session/{self('POST', '/session', wish)['sessionId']}"

    def __call__(self, method: str, path: str, what: object = None) -> Any:
        data = json.dumps(what or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - a fixed address
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["value"]

    def run(self, script: str, *arguments: object) -> Any:
        return self("POST", "/execute/sync", {"script": script, "args": arguments})

    def all(self, selector: str) -> list[str]:
        found = self("POST", "/elements", {"using": "css selector", "value": selector})
        return [one[ELEMENT] for one in found]

    def click(self, element: str) -> None:
        self("POST", f"/element/{element}/click")

    def text(self, element: str) -> str:
        return str(self("GET", f"/element/{element}/text"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the playbook writes it."""
    where = tmp_path_factory.mktemp("page")
    facts = where / "facts.json"
    facts.write_text(json.dumps({"__dns_records_forms": wanted(), "__dns_records_when": "2026-11-28 at 12:00"}))
    template = ROOT / "roles" / "dns_records" / "templates" / "mail-records.html.j2"
    ansible = str(Path(sys.executable).parent / "ansible")
    written = where / "records.html"
    subprocess.run(
        [
            ansible,
            "localhost",
            "--connection=local",
            f"--extra-vars=@{facts}",
            "--module-name=ansible.builtin.template",
            f"--args=src={template} dest={written} mode=0600",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return written


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    """It shows the page."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        window = Browser(int(port))
        window("POST", "/url", {"url": page.as_uri()})
        yield window
        window("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()  # type: ignore[union-attr]


def fields(form: Form) -> list[str]:
    """The values of a record that can be copied, in the order of the page."""
    names = (
        [form["short"], *([form["name"]] if form["short"] != form["name"] else [])] if form["place"] else [form["name"]]
    )
    values = [form["priority"], form["value"], form["pieces"], str(form["ttl"])]
    return [*names, *(value for value in values if value)]


def test_a_click_copies_the_value(browser: Browser) -> None:
    browser.run('document.body.append(document.createElement("textarea"))')
    (textarea,) = browser.all("textarea")
    pasted = []
    for button in browser.all("button"):
        browser.click(button)
        browser.run(COPIED, {ELEMENT: button})
        browser("POST", f"/element/{textarea}/clear")
        browser("POST", f"/element/{textarea}/value", {"text": PASTE})
        pasted.append(browser.run("return arguments[0].value", {ELEMENT: textarea}))
    browser.run('document.querySelector("textarea").remove()')
    assert sorted(pasted) == sorted(field for form in wanted() for field in fields(form))


def test_each_record_says_what_was_seen_of_it(browser: Browser) -> None:
    shown = [browser.text(article) for article in browser.all("article")]
    assert len(shown) == len(wanted())
    seen = {"fails": "not as it has to be", "advice": "could be better", "unknown": "not known", "ok": "found"}
    for state, words in seen.items():
        assert sum(words in text.splitlines()[:3] for text in shown) == sum(form["state"] == state for form in wanted())
    told = [text for text in shown if "<b>is & was</b>" in text]
    assert len(told) == sum(form["state"] != "ok" for form in wanted())
    assert not [text for text in shown if html.unescape(text) != text]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_of_the_window(browser: Browser, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width
