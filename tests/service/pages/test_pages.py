"""The pages: what is served, and what a person sees of it in a real browser."""

import asyncio
import os
import re
import signal
from dataclasses import fields, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ntk_dist import NTKRegressor, cli, stax
from ntk_dist.model import FitReport, GramReport
from ntk_dist.service import pages
from ntk_dist.service.app import create_app
from ntk_dist.service.service import ServiceConfig
from ntk_dist.settings import ServiceSettings
from ntk_dist.solver.result import SolveReport

SHELLS = ["/", "/jobs/1", "/models", "/models/m", "/models/m/versions/2"]
PAGES = ["/", "/jobs/{done}", "/jobs/{running}", "/models", "/models/digits"]


# Without a browser.


@pytest.mark.parametrize("address", SHELLS)
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


def test_a_report_is_asked_only_for_what_it_has():
    script = (Path(pages.__file__).parent / "assets" / "report.js").read_text()
    for name, kind in {"report": FitReport, "gram": GramReport, "solve": SolveReport}.items():
        asked = set(re.findall(rf"\b{name}\.(\w+)", script))
        assert asked
        # The text of a status is a property, which goes with the fields of a solve.
        assert asked <= {f.name for f in fields(kind)} | {"text"}


# In the browser.


def test_the_list_says_how_far_jobs_are(visit, site):
    page = visit("/")
    cards = page.run("[...document.querySelectorAll('.card')].map(c => c.innerText)")
    assert len(cards) == 2
    assert re.search(r"slow\s+running", cards[0])
    told = re.search(r"computing Gram blocks: (\d+) of 120", cards[0])
    share = page.run("document.querySelector('.card progress').value")
    assert share == pytest.approx(int(told[1]) / 120)
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
    assert re.match(r"computing Gram blocks \d+ of 120", page.text("#phase-line"))
    page.wait("!document.querySelector('#gram').hidden")
    assert page.text("#gram-words") == (
        f"{site.n_stored} of 120 blocks stored; 150 rows, 10 to a block."
    )
    painted = page.run(
        "(() => { const c = document.querySelector('#gram'), k = Math.ceil(c.width / 15);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const at = (i, j) => 4 * ((i * k + 3) * c.width + j * k + 3);"
        "return [...Array(225).keys()].map(n => { const p = at(Math.floor(n / 15), n % 15);"
        "return [...d.slice(p, p + 3)].join(); }); })()"
    )
    colours = np.array(painted).reshape(15, 15)
    stored = colours == "53,71,196"
    assert stored.sum() == site.n_stored
    assert np.array_equal(np.tril(stored, -1), np.zeros((15, 15), dtype=bool))
    off_diagonal = stored & ~np.eye(15, dtype=bool)
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
    assert "Damaged blocks" not in report
    assert page.run("document.querySelector('#report-body details').open") is False
    assert page.run("document.querySelector('#warnings').hidden")
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
    layers = ["Flatten", "Dense W_std 1.4, b_std 0.1", "Relu", "Dense"]
    assert page.text("#layers").split("\n") == layers
    assert page.run("document.querySelector('#white').value") == "32", "as in the training data"
    page.click("#ask")
    refused = page.wait("document.querySelector('#try-refused').innerText")
    assert refused == "Draw something first, or take a picture from a file."
    page.draw("#board", ZERO)
    page.wait("document.querySelector('.said')")
    assert page.text(".said") == "It says 0"
    assert page.run("document.querySelectorAll('.scores tr').length") == 10
    assert page.text(".scores .chosen th") == "0"
    assert page.text("#try-refused") == ""

    one = load_digits().images[1]
    picture = Image.fromarray((255 * one / 16).astype(np.uint8)).resize((256, 256), 0)
    picture.save(tmp_path / "1.png")
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
    found = model.report_
    model.report_ = replace(found, gram=replace(found.gram, n_repaired=1200))
    model.save(str(site.workspace / "models" / "line" / "1"))
    page = visit("/models/line")
    assert page.run("document.querySelector('#picture').hidden")
    page.click("#report-body summary")
    report = page.text("#report-body")
    assert re.search(r"Damaged blocks\s+1,200, computed again", report)
    assert re.search(r"Ritz values\s+From \S+ to \S+: what", report)
    page.run(f"document.querySelector('#rows').value = '{' '.join(map(str, x[0]))}'")
    page.click("#ask")
    page.wait("document.querySelector('#answer td')")
    assert float(page.text("#answer td")) == pytest.approx(x[0, 0], abs=1e-4)


def test_what_is_not_there_is_told(visit, browser, site):
    no_job = "There is no job of this id here: see all jobs."
    told = {"/jobs/no": no_job, f"/jobs/{24 * '0'}": no_job, "/models/no": "there are: digits"}
    for address, words in told.items():
        page = browser.open(site.url + address)
        assert words in page.wait("document.querySelector('#notice').innerText")
        assert page.run("document.querySelector('#main').innerText.trim()") == ""
        assert [m.get("source") for m in page.mistakes()] == ["network"]  # the 404 itself
        if words == no_job:
            page.click("#notice a")
            page.wait("location.pathname === '/' && document.querySelectorAll('.card').length > 1")
        page.close()


def test_a_service_without_jobs_says_where_jobs_and_models_come_from(
    browser, serve_here, pretended_drivers, tmp_path, data_root, job
):
    app = create_app(
        ServiceConfig(
            workspace=str(tmp_path / "ws"),
            is_open=True,
            settings=ServiceSettings(
                executors=("dask://host:8786", "local"), data_roots=(str(data_root),)
            ),
        )
    )
    with serve_here(tmp_path / "ws", app=app) as url:
        page = browser.open(f"{url}/")
        page.wait("!document.querySelector('#empty').hidden")
        assert "Models fitted on the command line" in page.text("#empty")
        assert page.run("document.querySelector('#empty a').pathname") == "/models"
        made = httpx.post(f"{url}/v1/jobs", json={**job, "executor": "local"}).json()
        page.goto(f"{url}/jobs/{made['id']}")
        warned = page.wait("document.querySelector('#warnings').innerText")
        assert warned == made["warnings"][0]
        assert page.mistakes() == []
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


def test_a_token_is_asked_for_once_and_is_in_no_address(browser, site, serve_here, capsys):
    tokens = {}
    for scope in ("read", "predict"):
        command = ["token", "create", "--scope", scope, "--workspace", str(site.workspace)]
        assert cli.run(command) == 0
        tokens[scope] = capsys.readouterr().out.strip()
    with serve_here(site.workspace, is_open=False) as url:
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
        page.wait("document.querySelector('#token-refused').innerText")
        page.run("document.querySelector('#token-refused').textContent = ''")
    page.type(tokens["read"])
    page.key("Enter")
    page.wait("document.querySelectorAll('.card').length === 2")


def test_the_end_of_a_long_log_is_shown(visit, site):
    (log,) = site.workspace.glob(f"service/drivers/*{site.done}*/**/driver.log")
    piece = 4 * 2**20
    before = log.stat().st_size
    with log.open("ab") as file:
        file.write((b"x" * 79 + b"\n") * (piece // 80 + 1))
        file.truncate(piece - 1)  # the service cuts the next character in two
        file.seek(0, os.SEEK_END)
        file.write("ä and the very end\n".encode())
    try:
        page = visit("/jobs/{done}")
        page.click("#log-panel summary")
        page.wait("document.querySelector('#log').textContent.endsWith('ä and the very end\\n')")
        starts = [r["url"].rpartition("=")[2] for r in page.asked() if "/logs?" in r["url"]]
        assert starts == ["0", str(piece), str(log.stat().st_size)]
    finally:
        os.truncate(log, before)


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
    page.wait("document.querySelector('#gram-words').innerText.startsWith('120 of 120 blocks')")
    assert "attempt 2" in page.text("#facts")
