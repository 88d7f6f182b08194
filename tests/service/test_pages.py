"""The pages in a real browser: headless Chromium, told what to do through a pipe."""

import asyncio
import base64
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn
from sklearn.datasets import load_digits

from ntk_dist import NTKRegressor, cli, stax
from ntk_dist.database import open_database
from ntk_dist.service.app import create_app
from ntk_dist.service.service import ServiceConfig
from ntk_dist.settings import ServiceSettings

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-extensions --hide-scrollbars --remote-debugging-pipe"
).split()
PAGES = ["/", "/jobs/{done}", "/jobs/{running}", "/models", "/models/digits"]


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
        missing = "no Chromium is installed here (apt-get install chromium)"
        is_required = "chromium" in os.environ.get("NTK_DIST_REQUIRE", "").split(",")
        (pytest.fail if is_required else pytest.skip)(missing)
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
    x, y = digits.images[..., None], digits.target
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


def slow_job(folder):
    """55 blocks of images."""
    images = np.random.default_rng(5).normal(size=(150, 8, 8, 1))
    np.savez(folder / "images.npz", x=images, y=images.sum(axis=(1, 2, 3)))
    conv = stax.Conv(1, (3, 3), padding="SAME")
    net = stax.serial(conv, stax.Relu(), conv, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    place = folder / "images.npz"
    return {
        "name": "slow",
        "task": "regression",
        "data": {"x": f"{place}:x", "y": f"{place}:y"},
        "architecture": json.loads(net.to_json()),
        "gram": {"block_rows": 15},
    }


@pytest.fixture(scope="module")
def site(browser, start_lasting_server, tmp_path_factory):
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
        running = submitted(slow_job(data))

        def blocks():
            new = set(workspace.glob("grams/*")) - before
            return [block for gram in new for block in gram.glob("ntk/c/*/*")]

        with open_database(f"sqlite:///{workspace}/service/state.db") as opened:
            driver = wait_for(lambda: opened.jobs.get(running).handle.get("pid"))
        wait_for(lambda: len(blocks()) >= 3, every_s=0.005)
        os.kill(driver, signal.SIGSTOP)
    n_stored = len(blocks())
    assert n_stored < 55
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


# Without a browser.


@pytest.mark.parametrize(
    "address", ["/", "/jobs/1", "/models", "/models/m", "/models/m/versions/2"]
)
def test_a_page_is_a_shell_that_anybody_may_load(shared, address):
    found = shared.anyone().get(address)
    assert found.status_code == 200
    assert found.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = found.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", found.text)
    assets = set(re.findall(r'(?:src|href)="(/assets/[^"]+)"', found.text))
    assert len(assets) == 3
    for asset in assets:
        kept = shared.anyone().get(asset)
        assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert kept.text


def test_an_asset_of_another_version_is_not_kept_and_an_unknown_one_is_told(shared, error_of):
    old = shared.anyone().get("/assets/0123456789abcdef/api.js")
    assert (old.status_code, old.headers["Cache-Control"]) == (200, "no-cache")
    assert old.headers["Content-Type"].startswith("text/javascript")
    for name in ("..%2Froutes.py", "nothing.js"):
        found = shared.anyone().get(f"/assets/0/{name}")
        assert error_of(found)[:2] == (404, "not_found")
    assert shared.anyone().request("POST", "/").status_code == 405


def test_a_page_behind_a_prefix_refers_to_what_is_behind_it_too(shared):
    async def get():
        transport = httpx.ASGITransport(shared.app, root_path="/ntk")
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/ntk/models")

    found = asyncio.run(get())
    assert found.status_code == 200
    addresses = re.findall(r'(?:src|href)="(/[^"]*)"', found.text)
    assert addresses
    assert all(address.startswith("/ntk/") for address in addresses)
    assert 'data-root="/ntk"' in found.text


# In the browser.


def test_the_list_says_how_far_jobs_are(visit, site):
    page = visit("/")
    cards = page.run("[...document.querySelectorAll('.card')].map(c => c.innerText)")
    assert len(cards) == 2
    assert re.search(r"slow\s+running", cards[0])
    told = re.search(r"computing Gram blocks: (\d+) of 55", cards[0])
    share = page.run("document.querySelector('.card progress').value")
    assert share == pytest.approx(int(told[1]) / 55)
    assert re.search(r"digits\s+succeeded", cards[1])
    assert re.search(r"Model version 1, accuracy 8\d\.\d %", cards[1])
    assert re.search(r"residual \d\.\d\s×\s10⁻[⁶⁷] · 15 blocks · 400 rows", cards[1])
    page.run(
        "(s => { s.value = 'lost'; s.dispatchEvent(new Event('change')); })"
        "(document.querySelector('#state'))"
    )
    page.wait("location.search === '?state=lost' && !document.querySelector('#none')?.hidden")
    assert page.run("document.querySelectorAll('.card').length") == 0


def test_a_running_job_shows_which_blocks_are_done(visit, site):
    page = visit("/jobs/{running}")
    assert page.text("h1").split() == ["slow", "running"]
    assert re.match(r"computing Gram blocks \d+ of 55", page.text("#phase-line"))
    page.wait("!document.querySelector('#gram').hidden")
    assert page.text("#gram-words") == (
        f"{site.n_stored} of 55 blocks stored; 150 rows, 15 to a block."
    )
    painted = page.run(
        "(() => { const c = document.querySelector('#gram'), k = Math.ceil(c.width / 10);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const at = (i, j) => 4 * ((i * k + 3) * c.width + j * k + 3);"
        "return [...Array(100).keys()].map(n => { const p = at(Math.floor(n / 10), n % 10);"
        "return [...d.slice(p, p + 3)].join(); }); })()"
    )
    colours = np.array(painted).reshape(10, 10)
    stored = colours == "53,71,196"
    assert stored.sum() == site.n_stored
    assert np.array_equal(np.tril(stored, -1), np.zeros((10, 10), dtype=bool))
    off_diagonal = stored & ~np.eye(10, dtype=bool)
    assert np.array_equal(colours == "174,183,240", off_diagonal.T)


def test_a_finished_job_shows_its_way_and_its_report(visit):
    page = visit("/jobs/{done}")
    page.wait("document.querySelector('.curve')")
    corners = page.run("document.querySelector('.curve').getAttribute('points')").split()
    heights = [float(corner.split(",")[1]) for corner in corners]
    assert len(heights) > 5
    assert heights[-1] == max(heights)  # the residual ends lowest
    assert re.search(r"asked for 1\.0\s×\s10⁻⁶", page.text("#residual-words"))
    report = page.text("#report-body")
    assert re.search(r"model digits, version 1: accuracy 8\d\.\d % on held-out data", report)
    assert "The true residual of every target met the tolerance." in report
    assert "15 blocks of 80 rows" in report
    assert re.search(r"Condition of the matrix\s+at least", report)
    assert page.text("#gram-words").startswith("15 of 15 blocks stored")
    assert page.text("#troubles") == "None so far."
    page.click("#log-panel summary")
    page.wait("document.querySelector('#log').innerText.includes('done')")


ZERO = [
    (0.5 + 0.27 * np.sin(angle), 0.5 - 0.4 * np.cos(angle)) for angle in np.linspace(0, 6.3, 40)
]


def test_a_drawn_digit_is_read_and_so_is_a_file(visit, tmp_path):
    page = visit("/models/digits")
    assert "Tells 10 classes apart (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)" in page.text("#sentence")
    page.wait("document.querySelector('#sentence a')")
    assert re.search(r"accuracy 8\d\.\d %", page.text("#sentence"))
    assert page.text("#layers").split("\n") == [
        "Flatten",
        "Dense W_std 1.4, b_std 0.1",
        "Relu",
        "Dense",
    ]
    page.click("#ask")
    assert page.wait("document.querySelector('#try-refused').innerText").startswith(
        "Draw something"
    )
    page.draw("#board", ZERO)
    page.wait("document.querySelector('.said')")
    assert page.text(".said") == "It says 0"
    assert page.run("document.querySelectorAll('.scores tr').length") == 10
    assert page.text(".scores .chosen th") == "0"
    assert page.text("#try-refused") == ""

    from PIL import Image

    one = load_digits().images[1]
    Image.fromarray((255 * one / 16).astype(np.uint8)).resize((256, 256), 0).save(
        tmp_path / "1.png"
    )
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(tmp_path / "1.png")], nodeId=node)
    page.wait("document.querySelector('.said').innerText === 'It says 1'")
    seen = page.run(
        "[...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 8, 8).data]"
    )
    assert np.allclose(np.reshape(seen, (8, 8, 4))[..., 0], 255 * one / 16, atol=2)


def test_rows_may_be_typed_and_wrong_ones_are_told(visit):
    page = visit("/models/digits")
    page.click("#numbers summary")
    page.click("#rows")
    page.type("1, 2, 3")
    page.click("#ask")
    assert page.wait("document.querySelector('#try-refused').innerText") == (
        "Row 1: expected 64 numbers, got 3."
    )
    page.click("#zeros")
    page.run("document.querySelector('#rows').value += '\\n' + Array(64).fill(8).join(' ')")
    page.click("#ask")
    page.wait("document.querySelectorAll('#answer tbody tr').length === 2")
    page.run("document.querySelector('#rows').value = 'a' + ' 1'.repeat(63)")
    page.click("#ask")
    page.wait("document.querySelector('#try-refused').innerText.includes('got “a”')")


def test_a_model_of_tables_takes_rows_and_answers_numbers(visit, site):
    x = np.random.default_rng(2).normal(size=(20, 3))
    net = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1))
    model = NTKRegressor(net).fit(x, x[:, 0])
    model.save(str(site.workspace / "models" / "line" / "1"))
    page = visit("/models/line")
    assert page.run("document.querySelector('#picture').hidden")
    page.run(f"document.querySelector('#rows').value = '{' '.join(map(str, x[0]))}'")
    page.click("#ask")
    page.wait("document.querySelector('#answer td')")
    assert float(page.text("#answer td")) == pytest.approx(x[0, 0], abs=1e-4)


def test_what_is_not_there_is_told(visit, browser, site):
    for address, words in (
        ("/jobs/nothing", "expected the id of a job"),
        ("/models/nothing", "digits"),
    ):
        page = browser.open(site.url + address)
        assert words in page.wait("document.querySelector('#notice').innerText")
        assert page.run("document.querySelector('#main').innerText.trim()") == ""
        assert [m.get("source") for m in page.mistakes()] == ["network"]  # the 404 itself
        page.close()


CONTRAST = """
(() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue('--' + name).trim();
    const linear = [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const found = [ratio(light('on-accent'), light('accent'))];
  for (const text of ['ink', 'soft', 'accent', 'good', 'bad', 'wait'])
    for (const ground of ['ground', 'panel']) found.push(ratio(light(text), light(ground)));
  return [light('panel'), ...found];
})()
"""


def test_every_page_fits_a_phone_and_can_be_read_by_day_and_by_night(visit):
    grounds = []
    for dark in (False, True):
        for address in PAGES:
            page = visit(address, width=360, height=740, dark=dark)
            assert page.run("document.documentElement.scrollWidth") <= 360, address
            unnamed = page.run(
                "[...document.querySelectorAll('input, select, textarea')]"
                ".filter(e => e.labels.length === 0).length"
            )
            assert unnamed == 0, address
        ground, *contrasts = page.run(CONTRAST)
        grounds.append(ground)
        assert min(contrasts) >= 4.5
    assert grounds[0] > 0.9
    assert grounds[1] < 0.05


def test_a_job_is_reached_by_the_keyboard_alone(visit, site):
    page = visit("/")
    for _ in range(12):
        page.key("Tab")
        if page.run("document.activeElement.innerText") == "digits":
            break
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.key("Enter")
    page.wait(f"location.pathname === '/jobs/{site.done}'")


@contextmanager
def served(workspace):
    """The address of a service with tokens, in a thread: a process of its own takes seconds."""
    app = create_app(ServiceConfig(workspace=str(workspace), settings=ServiceSettings()))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        app.state.service.is_stopping = server.should_exit = True
        thread.join(60)
        listener.close()


def test_a_token_is_asked_for_once_and_is_in_no_address(browser, site, capsys):
    tokens = {}
    for scope in ("read", "predict"):
        command = ["token", "create", "--scope", scope, "--workspace", str(site.workspace)]
        assert cli.run(command) == 0
        tokens[scope] = capsys.readouterr().out.strip()
    with served(site.workspace) as url:
        page = browser.open(f"{url}/")
        sign_in(page, tokens)
        page.goto(f"{url}/jobs/{site.running}")
        page.wait("!document.querySelector('[aria-busy]')")
        page.click("#cancel")
        assert "submit" in page.wait("document.querySelector('#refused').innerText")
        asked = page.asked()
        assert any(tokens["read"] in str(request["headers"]) for request in asked)
        assert not any(secret in r["url"] for r in asked for secret in tokens.values())
        assert {m["source"] for m in page.mistakes()} == {"network"}  # what was refused
    page.wait("document.querySelector('#notice').innerText.includes('nothing answers')")
    page.close()


def sign_in(page, tokens):
    page.wait("!document.querySelector('#sign-in').hidden")
    assert page.run("document.activeElement.id") == "token"
    for wrong in ("nonsense", tokens["predict"]):
        page.type(wrong)
        page.key("Enter")
        page.wait(
            "document.querySelector('#token-refused').innerText && !document.querySelector('#sign-in').hidden"
        )
        page.run("document.querySelector('#token-refused').textContent = ''")
    page.type(tokens["read"])
    page.key("Enter")
    page.wait("document.querySelectorAll('.card').length === 2")


def test_a_job_is_cancelled_and_the_page_hears_of_it(visit, site):
    page = visit("/jobs/{running}")
    page.click("#cancel")
    page.wait("document.querySelector('#state').innerText === 'cancelling'")
    assert page.run("document.querySelector('#cancel').hidden")
    os.kill(site.driver, signal.SIGCONT)
    page.wait("document.querySelector('#state').innerText === 'cancelled'")
    page.wait("!document.querySelector('#resume').hidden")
    page.click("#resume")
    page.wait("document.querySelector('#state').innerText === 'succeeded'", 120)
    page.wait("document.querySelector('.curve')")
    assert page.text("#gram-words").startswith("55 of 55 blocks stored")
    assert "attempt 2" in page.text("#facts")
