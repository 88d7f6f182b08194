"""How the command ends where nobody listens, and where Python loses an interruption."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ntk_dist import cli, stax
from ntk_dist.cli import entry
from ntk_dist.errors import ExecutorError

COMMAND = [sys.executable, "-m", "ntk_dist"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    np.savez(folder / "data.npz", x=x, y=x[:, 0])
    net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
    (folder / "arch.json").write_text(net.to_json())
    file = folder / "job.yaml"
    file.write_text(
        "name: quiet\ntask: regression\ndata: {x: data.npz:x, y: data.npz:y}\n"
        "architecture: arch.json\ngram: {block_rows: 20}\nworkspace: ./ws\n"
    )
    return file


def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_a_fit_goes_on_when_its_progress_cannot_be_shown(job, tmp_path, kind):
    stream = os.open("/dev/full", os.O_WRONLY) if kind == "full" else closed_pipe()
    command = [*COMMAND, "fit", str(job), "--workspace", str(tmp_path / "ws"), "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=stream, check=False)
    os.close(stream)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["version"] == 1
    assert (tmp_path / "ws/models/quiet/1").is_dir()


@pytest.mark.parametrize("words", [["doctor", "--json"], ["--help"]])
def test_an_answer_into_a_closed_pipe_is_no_defect(words, monkeypatch, capsys):
    with suppress(BrokenPipeError), os.fdopen(closed_pipe(), "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert cli.run(words) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_an_answer_onto_a_full_disk_is_one_line(monkeypatch, capsys):
    with suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(["doctor", "--json"]) == 4
        monkeypatch.undo()
    # With --json, refusals are for standard output, too.
    assert capsys.readouterr().err == ""
    with suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(["doctor"]) == 4
        monkeypatch.undo()
    assert capsys.readouterr().err == "error: standard output: No space left on device\n"


def test_a_refusal_that_nobody_can_read_keeps_its_exit_code(monkeypatch):
    with suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(["fit", "nowhere.yaml", "--json"]) == 2


DROPPED = """
import gc, os, signal, sys
from ntk_dist.cli import main

at, seen = int(sys.argv[1]), 0

def callback(phase, info):
    global seen
    seen += 1
    if seen == at:
        gc.callbacks.remove(callback)
        os.kill(os.getpid(), signal.SIGTERM)  # Python drops what the handler raises in here

gc.callbacks.append(callback)
sys.argv = ["ntk-dist", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("at", [40, 80, 160])
def test_an_interruption_that_python_drops_comes_again(job, tmp_path, at):
    """The first of them hits the import of an extension, which makes an ImportError of it."""
    command = [sys.executable, "-c", DROPPED, str(at), "fit", str(job)]
    command += ["--workspace", str(tmp_path / "ws")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: interrupted; ")


def test_what_was_noted_of_an_error_is_told_in_its_line(monkeypatch, capsys):
    def fails(*_, **__):
        error = ExecutorError("no worker is left")
        error.add_note("in task (3, 4) on a machine, after 3 attempts")
        error.add_note("raised on a machine:\nTraceback, many lines of it")
        raise error

    monkeypatch.setattr(entry.cli, "main", fails)
    assert cli.run(["fit", "job.yaml"]) == 4
    told = "error: no worker is left; in task (3, 4) on a machine, after 3 attempts\n"
    assert capsys.readouterr().err == told


def test_a_token_is_no_argument(capsys):
    assert cli.run(["jobs", "--service", "http://127.0.0.1:9", "--token", "secret"]) == 2
    assert "--token" in capsys.readouterr().err
