"""The command line as a person meets it: by exit code and by words."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ntk_dist import cli, stax

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
JOB = """
name: waves
task: regression
data: {x: data.npz:x, y: data.npz:y}
test: {x: data.npz:x_test, y: data.npz:y_test}
preprocess: [standardize]
architecture: arch.json
gram: {block_rows: 40}
workspace: ./ws
"""


@pytest.fixture
def run(capsys):
    """Run a command in this process; starting one for each would cost seconds of imports."""

    def run(*arguments):
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return run


def test_a_compilation_is_said_on_the_screen(run, capsys):
    run("info", "nowhere")
    capsys.readouterr()
    logging.getLogger("ntk_dist.kernels.segments").info("compiling")
    logging.getLogger("ntk_dist.store.zarr").info("reading")
    assert capsys.readouterr().err == "INFO compiling\n"


@pytest.fixture
def job(tmp_path, rng):
    x = rng.normal(size=(100, 4))
    y = np.sin(x[:, 0]) + x[:, 1]
    np.savez(tmp_path / "data.npz", x=x, y=y, x_test=x[:30] + 0.01, y_test=y[:30])
    (tmp_path / "arch.json").write_text(NET.to_json())
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def test_from_plan_to_predictions(job, tmp_path, run):
    planned = run("gram", job, "--plan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["n_missing"] == 6
    assert "no layer sees spatial axes" in json.loads(planned.stdout)["evaluation"]
    assert json.loads(planned.stdout)["seconds"] > 0
    assert json.loads(planned.stdout)["automatic_rank"] == 12
    assert json.loads(planned.stdout)["preconditioner_bytes"] > 100 * 12 * 16
    assert not (tmp_path / "ws").exists()

    computed = run("gram", job)
    assert computed.returncode == 0, computed.stderr
    assert "6 computed now" in computed.stdout

    fitted = run("fit", job, "--json")
    assert fitted.returncode == 0, fitted.stderr
    record = json.loads(fitted.stdout)
    assert record["report"]["gram"]["n_computed"] == 0
    assert record["status"] == "converged"
    assert record["score"] > 0.9
    assert record["version"] == 1

    again = run("fit", job)
    assert "model waves version 2" in again.stdout

    with np.load(tmp_path / "data.npz") as data:
        truth = data["y_test"]
    predicted = run(
        "predict",
        tmp_path / "ws/models/waves",
        f"{tmp_path / 'data.npz'}:x_test",
        "-o",
        tmp_path / "out.npy",
    )
    assert predicted.returncode == 0, predicted.stderr
    assert np.corrcoef(np.load(tmp_path / "out.npy"), truth)[0, 1] > 0.95

    for path, words in {
        "job.yaml": "job waves",
        "arch.json": NET.fingerprint,
        "ws": "model waves: versions 1, 2",
        "ws/models/waves": "NTKRegressor fitted on 100 rows",
        "data.npz:x_test": "shape (30, 4)",
    }.items():
        told = run("info", tmp_path / path)
        assert told.returncode == 0, told.stderr
        assert words in told.stdout


def test_a_cluster_is_simulated_on_paper(job, tmp_path, run):
    options = ["--workers", "64", "--n", "1000000", "--worker-memory", "32GB"]
    told = run("gram", job, "--plan", *options)
    assert told.returncode == 0, told.stderr
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert "simulated 1,000,000 rows, 10 targets, on 64 workers as fast as this process" in lines
    assert any(line.startswith("one product ") for line in lines)
    record = json.loads(run("gram", job, "--plan", "--workers", "2", "--json").stdout)
    assert (record["n_rows"], record["n_blocks"]) == (100, 6)
    assert [phase["name"] for phase in record["phases"]][:3] == ["ingest", "statistics", "gram"]
    assert record["product"]["seconds"] > 0
    assert record["cluster"]["product_rate"] > 0
    assert record["cluster"]["hash_rate"] > 0
    assert record["cluster"]["resident_bytes"] == 2**31
    none = json.loads(
        run("gram", job, "--plan", "--workers", "2", "--worker-memory", "0B", "--json").stdout
    )
    assert none["cluster"]["resident_bytes"] == 0
    assert not (tmp_path / "ws").exists()


def test_a_simulation_holds_nothing_of_the_size_of_what_is_simulated(job, run):
    options = [f"--{what}" for what in ("workers", "targets", "steps", "predictions")]
    most = [word for name in options for word in (name, "1000000000")]
    told = run("gram", job, "--plan", "--n", "1000000", *most)
    assert told.returncode == 0, told.stderr
    assert "simulated 1,000,000 rows, 1000000000 targets" in " ".join(told.stdout.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "7"], "--n: expected --plan and --workers with it"),
        (["--plan", "--read-rate", "1GB"], "--read-rate: expected --plan and --workers with it"),
        (["--plan", "--workers", "0"], "0 is not in the range 1<=x<=1000000000"),
        (["--plan", "--workers", "2", "--steps", "9" * 400], "in the range 1<=x<=1000000000"),
        (["--plan", "--workers", "2", "--targets", "9" * 12], "in the range 1<=x<=1000000000"),
        (["--plan", "--workers", "2", "--link-rate", "fast"], "expected a size such as 32GB"),
        (["--plan", "--workers", "2", "--read-rate", "0GB"], "read_rate: expected a finite"),
    ],
)
def test_a_simulation_is_refused_in_one_line(job, run, options, words):
    told = run("gram", job, *options)
    assert told.returncode == 2
    (line,) = told.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_job_chooses_a_ridge_and_starts_from_the_model_before(job, tmp_path, run):
    edit("job.yaml", "workspace:", "solver: {ridge: [1e-6, 0.01, 100]}\nworkspace:")(tmp_path)
    assert "ridge 1e-06 or 0.01 or 100, tol 1e-06" in run("info", job).stdout
    first = run("fit", job, "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)["report"]
    assert [score["ridge"] for score in report["ridge_scores"]] == [1e-6, 0.01, 100]
    best = min(report["ridge_scores"], key=lambda score: score["error"])
    assert report["solve"]["ridge"] == best["ridge"]
    chosen = f"{{ridge: {report['solve']['ridge']}, warm_start: true}}"
    edit("job.yaml", "{ridge: [1e-6, 0.01, 100]}", chosen)(tmp_path)
    second = run("fit", job, "--json")
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)["report"]
    assert (again["n_warm"], again["solve"]["steps"]) == (100, 0)
    assert "had for 100 of 100 rows" in run("fit", job).stdout


def test_a_warm_start_from_a_model_of_another_task_names_it(job, tmp_path, run):
    assert run("fit", job).returncode == 0
    edit("job.yaml", "task: regression", "task: classification")(tmp_path)
    edit("job.yaml", "gram:", "solver: {warm_start: true}\ngram:")(tmp_path)
    refused = run("fit", job)
    assert refused.returncode == 2
    assert (
        "warm_start: expected a NTKClassifier to start from, got a NTKRegressor" in refused.stderr
    )
    assert str(tmp_path / "ws" / "models" / "waves" / "1") in refused.stderr.replace("\n", "")


def test_a_job_is_described_with_what_it_takes_here(job, tmp_path, run):
    told = run("info", job)
    assert told.returncode == 0, told.stderr
    assert "100 x 100 entries" in told.stdout
    assert "flops a pair" in told.stdout
    assert "entries a second" in told.stdout
    record = json.loads(run("info", job, "--json").stdout)
    assert record["evaluation"]["entries_per_s"] > 0
    (tmp_path / "data.npz").unlink()
    without = run("info", job)
    assert without.returncode == 0, without.stderr
    assert "job waves" in without.stdout
    assert "data: " in without.stdout


def test_doctor_knows_this_machine():
    told = subprocess.run(
        [sys.executable, "-m", "ntk_dist", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    record = json.loads(told.stdout)
    assert record["devices"]
    assert record["executors"]["local"] is True
    assert record["libraries"]["jax"]


def spoil_data(folder, **arrays):
    with np.load(folder / "data.npz") as data:
        kept = {name: data[name] for name in data.files}
    np.savez(folder / "data.npz", **{**kept, **arrays})


def with_nan(folder):
    spoil_data(folder, x=np.where(np.arange(100)[:, None] == 17, np.nan, np.ones((100, 4))))


def with_fewer_labels(folder):
    spoil_data(folder, y=np.ones(99))


def with_no_rows(folder):
    spoil_data(folder, x=np.ones((0, 4)), y=np.ones(0))


def with_truncated_data(folder):
    path = folder / "data.npz"
    path.write_bytes(path.read_bytes()[:1000])


def edit(name, old, new):
    def change(folder):
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "exit_code", "code", "words"),
    [
        (with_nan, 2, "non_finite_data", "17"),
        (with_fewer_labels, 2, "invalid_labels", "100 rows, got 99"),
        (with_no_rows, 2, "empty_data", "0 sample"),
        (with_truncated_data, 2, "unreadable_data", "data.npz"),
        (edit("job.yaml", "regression", "classification"), 2, "invalid_labels", "class"),
        (edit("job.yaml", "data.npz:x,", "nowhere.npz,"), 2, "unreadable_data", "nowhere.npz"),
        (edit("job.yaml", "task:", "tusk:"), 2, "invalid_job", "tusk: unknown key"),
        (
            edit("job.yaml", "workspace:", "solver: {seed: -1}\nworkspace:"),
            2,
            "invalid_job",
            "seed",
        ),
        (
            edit("job.yaml", "arch.json", '["serial", ["Dense", 2000-01-01]]'),
            2,
            "invalid_architecture",
            "date",
        ),
        (lambda folder: spoil_data(folder, y_test=np.ones(7)), 2, "invalid_labels", "30 targets"),
        (lambda folder: spoil_data(folder, x_test=np.ones((30, 5))), 2, "wrong_shape", "(4,)"),
        (lambda folder: (folder / "job.yaml").write_text("[" * 3000), 2, "invalid_job", "job.yaml"),
        (edit("job.yaml", "arch.json", "no.json"), 2, "invalid_architecture", "no.json"),
        (edit("arch.json", "Relu", "Reul"), 2, "invalid_architecture", "Relu"),
        (edit("arch.json", "W_std", "w_std"), 2, "invalid_architecture", "W_std"),
        (edit("job.yaml", "data.npz:x,", "http://host/x.npy,"), 2, "invalid_input", "begins with"),
        (edit("job.yaml", "./ws", "s3:/a"), 2, "invalid_input", "s3://BUCKET/PREFIX"),
        (edit("job.yaml", "./ws", "./arch.json/ws"), 4, "store_unreachable", "arch.json"),
        (
            edit("job.yaml", "workspace:", "executor: dask://127.0.0.1:9\nworkspace:"),
            4,
            "executor_unreachable",
            "127.0.0.1:9",
        ),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    job, tmp_path, change, exit_code, code, words, run
):
    change(tmp_path)
    told = run("fit", job, "--json")
    assert told.returncode == exit_code, told.stderr
    error = json.loads(told.stdout)["error"]
    assert error["code"] == code
    assert not (tmp_path / "ws/models").exists()
    assert words in error["message"]
    assert "Traceback" not in told.stderr


def test_no_place_at_all_is_bad_input(job, run):
    for arguments in (("info", ""), ("fit", job, "--workspace", "")):
        told = run(*arguments)
        assert (told.returncode, told.stderr.count("\n")) == (2, 1)
        assert "got ''" in told.stderr


def test_errors_for_people_are_one_line(job, tmp_path, run):
    with_nan(tmp_path)
    told = run("fit", job)
    assert told.returncode == 2
    (line,) = told.stderr.strip().splitlines()
    assert line.startswith("error: ")


def test_a_step_limit_keeps_the_model_and_says_how_far_it_came(job, tmp_path, run):
    edit(
        "job.yaml", "workspace:", "solver: {max_steps: 1, preconditioner: {type: none}}\nworkspace:"
    )(tmp_path)
    told = run("fit", job, "--json")
    assert told.returncode == 3, told.stderr
    record = json.loads(told.stdout)
    assert record["status"] == "max_steps"
    assert Path(record["model"], "model.json").is_file()


def test_a_predict_that_cannot_write_is_refused_before_it_computes(job, tmp_path, run):
    run("fit", job)
    told = run(
        "predict",
        tmp_path / "ws/models/waves",
        f"{tmp_path / 'data.npz'}:x_test",
        "-o",
        tmp_path / "out.docx",
        "--json",
    )
    assert told.returncode == 2
    assert "docx" in json.loads(told.stdout)["error"]["message"]


@pytest.mark.parametrize("arguments", [["fit"], ["juggle"], ["fit", "a.yaml", "--loud"]])
def test_usage_errors_exit_with_2(arguments, run):
    told = run(*arguments)
    assert told.returncode == 2
    assert told.stderr.startswith("error: ")


def test_an_interrupted_fit_exits_with_130_and_goes_on_from_its_blocks(tmp_path, rng, run):
    images = rng.normal(size=(150, 8, 8, 1))
    np.savez(tmp_path / "data.npz", x=images, y=images.sum(axis=(1, 2, 3)))
    conv = stax.Conv(1, (3, 3), padding="SAME")
    net = stax.serial(conv, stax.Relu(), conv, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1))
    (tmp_path / "arch.json").write_text(net.to_json())
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: slow\ntask: regression\ndata: {x: data.npz:x, y: data.npz:y}\n"
        "architecture: arch.json\ngram: {block_rows: 15}\nworkspace: ./ws\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ntk_dist", "fit", str(job)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ws/grams/*/ntk/c/*/*"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # SIGINT is ignored where the suite runs in the background
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "run the same command again" in stderr
    kept = len(list(tmp_path.glob("ws/grams/*/ntk/c/*/*")))
    assert 3 <= kept < 55
    again = run("fit", job, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["report"]["gram"]["n_computed"] == 55 - kept
