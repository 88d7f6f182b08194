"""A headless Chromium, told what to do through a pipe, and a service with jobs to look at."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from required import leave_out
from sklearn.datasets import load_digits

from ntk_dist import stax
from ntk_dist.database import open_database

FLAGS = [
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
]


class Browser:
    """Chromium, and the DevTools protocol through file descriptors 3 and 4 of its process."""

    def __init__(self, program: str, folder: Path) -> None:
        # High numbers, so that putting them to 3 and 4 cannot overwrite one with the other.
        pipes = [[fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in os.pipe()] for _ in range(2)]
        (theirs_in, self._out), (self._in, theirs_out) = pipes
        command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
                pass_fds=(theirs_in, theirs_out),
                stdout=log,
                stderr=log,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest = b""
        self._count = 0
        self.heard: list[dict] = []

    def call(self, method: str, session: str | None = None, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._read()).get("id") != self._count:
            self.heard.append(found)
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], 60)[0], "Chromium says nothing"
            more = os.read(self._in, 2**20)
            assert more, "Chromium is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, *, width: int = 1100, height: int = 900, dark: bool = False):
        made = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=made, flatten=True)["sessionId"]
        return Page(self, made, session, url, width, height, dark)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)


class Page:
    """One tab."""

    def __init__(self, browser, target, session, url, width, height, dark):
        self._browser, self._target, self._session = browser, target, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.goto(url)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def goto(self, url):
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, code):
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, (code, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, code, seconds=60.0):
        deadline = time.monotonic() + seconds
        code = f"(v => v instanceof Node || v)({code})"  # a node has no value here
        while not (found := self.run(code)):
            assert time.monotonic() < deadline, (code, self.text("body"))
            time.sleep(0.05)
        return found

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def at(self, selector, across=0.5, down=0.5):
        """Where a point of an element is in the window, which is moved there."""
        return self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            f"return [b.x + b.width * {across}, b.y + b.height * {down}]; }})()"
        )

    def mouse(self, kind, x, y):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, selector):
        place = self.at(selector)
        self.mouse("mousePressed", *place)
        self.mouse("mouseReleased", *place)

    def draw(self, selector, points):
        corners = [self.at(selector, *point) for point in points]
        self.mouse("mousePressed", *corners[0])
        for corner in corners:
            self.mouse("mouseMoved", *corner)
        self.mouse("mouseReleased", *corners[-1])

    def key(self, key):
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def type(self, text):
        self.call("Input.insertText", text=text)

    def heard(self, method):
        self.run("0")  # what was said until now
        return [
            m["params"]
            for m in self._browser.heard
            if m.get("method") == method and m.get("sessionId") == self._session
        ]

    def mistakes(self):
        """What the browser complains of: exceptions, what the policy forbids, failed requests."""
        thrown = [m["exceptionDetails"] for m in self.heard("Runtime.exceptionThrown")]
        said = [m for m in self.heard("Runtime.consoleAPICalled") if m["type"] == "error"]
        logged = [m["entry"] for m in self.heard("Log.entryAdded")]
        return thrown + said + [entry for entry in logged if entry["level"] == "error"]

    def asked(self):
        return [m["request"] for m in self.heard("Network.requestWillBeSent")]

    def picture(self, path, *, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self._browser.call("Target.closeTarget", targetId=self._target)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        leave_out("chromium", "no Chromium is installed here (apt-get install chromium)")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.end()


def wait_for(condition, seconds=120.0, every_s=0.05):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(every_s)
    return found


def digits_job(folder):
    digits = load_digits()
    x, y = 2 * digits.images[..., None], digits.target  # white is 32, which nobody would guess
    np.savez(folder / "digits.npz", x=x[:400], y=y[:400], xt=x[400:600], yt=y[400:600])
    net = stax.serial(stax.Flatten(), stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
    place = folder / "digits.npz"
    return {
        "name": "digits",
        "task": "classification",
        "data": {"x": f"{place}:x", "y": f"{place}:y"},
        "test": {"x": f"{place}:xt", "y": f"{place}:yt"},
        "architecture": json.loads(net.to_json()),
        "gram": {"block_rows": 80},
    }


@pytest.fixture(scope="module")
def site(browser, start_lasting_server, make_slow_job, tmp_path_factory):
    """A service without tokens, a job that is done, and one whose driver is held in its middle."""
    data = tmp_path_factory.mktemp("data")
    roots = json.dumps([str(data)])
    server = start_lasting_server("--insecure", NTK_DIST_SERVICE__DATA_ROOTS=roots)
    workspace = server.log.parent / "ws"
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def submitted(job):
            made = client.post("/v1/jobs", json=job)
            assert made.status_code == 202, made.text
            return made.json()["id"]

        def state(job_id):
            return client.get(f"/v1/jobs/{job_id}").json()["state"]

        done = submitted(digits_job(data))
        wait_for(lambda: state(done) not in {"queued", "running"})
        assert state(done) == "succeeded", server.log.read_text()
        before = set(workspace.glob("grams/*"))
        running = submitted(make_slow_job(data, 10))  # 120 blocks

        def blocks():
            new = set(workspace.glob("grams/*")) - before
            return [block for gram in new for block in gram.glob("ntk/c/*/*")]

        with open_database(f"sqlite:///{workspace}/service/state.db") as opened:
            driver = wait_for(lambda: opened.jobs.get(running).handle.get("pid"))
        journals = workspace / "jobs" / "slow"

        def is_known():
            told = "".join(part.read_text() for part in journals.glob("*/events.*.jsonl"))
            return len(blocks()) >= 3 and re.search(r'"phase": ?"gram"', told)

        wait_for(is_known, every_s=0.005)
        os.kill(driver, signal.SIGSTOP)
    n_stored = len(blocks())
    assert 0 < n_stored < 120
    yield SimpleNamespace(
        url=server.url,
        workspace=workspace,
        done=done,
        running=running,
        driver=driver,
        n_stored=n_stored,
    )
    with suppress(ProcessLookupError):
        os.kill(driver, signal.SIGKILL)


@pytest.fixture
def visit(browser, site):
    """A function that opens a page; at the end none of them may have complained of anything."""
    pages = []

    def visit(address, **options):
        pages.append(browser.open(site.url + address.format(**vars(site)), **options))
        pages[-1].wait("!document.querySelector('[aria-busy]')")
        return pages[-1]

    yield visit
    for page in pages:
        assert page.mistakes() == []
        assert {re.match(r"(https?://[^/]+)/", r["url"])[1] for r in page.asked()} == {site.url}
        page.close()
