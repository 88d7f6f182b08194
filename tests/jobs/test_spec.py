import json

import pytest

from ntk_dist import NTKClassifier, stax
from ntk_dist.errors import JobSpecError
from ntk_dist.jobs.runner import job_estimator
from ntk_dist.jobs.spec import JobSpec, load_job
from ntk_dist.model.parameters import Parameters

JOB = """
name: digits
task: classification
data: {x: data.npz:x_train, y: data.npz:y_train}
preprocess: [standardize, {name: zca, ridge: 0.2}]
architecture: arch.json
kernel: ntk
gram: {block_rows: 1000, dtype: float32}
solver: {ridge: 0.0, tol: 1.0e-6, preconditioner: {type: rpcholesky, rank: auto}}
executor: dask://scheduler:8786
workspace: ./ws
"""

MINIMAL = {
    "name": "a",
    "task": "regression",
    "data": {"x": "x.npy", "y": "y.npy"},
    "architecture": ["Dense"],
}


@pytest.fixture
def write(tmp_path):
    def write(text, name="job.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_full_job_file_is_read_and_its_paths_are_relative_to_it(write, tmp_path):
    job = load_job(write(JOB))
    assert job.gram.block_rows == 1000
    assert job.solver.preconditioner.rank == "auto"
    assert job.data.x == f"{tmp_path / 'data.npz'}:x_train"
    assert job.architecture == str(tmp_path / "arch.json")
    assert job.workspace == str(tmp_path / "ws")
    assert job.executor == "dask://scheduler:8786"


def test_json_is_yaml_too(write):
    record = {
        "name": 7,
        "task": "regression",
        "data": {"x": "/x.npy", "y": "s3://bucket/y.npy"},
        "architecture": ["serial", ["Dense"]],
    }
    job = load_job(write(json.dumps(record), "job.json"))
    assert (job.name, job.data.x, job.data.y) == ("7", "/x.npy", "s3://bucket/y.npy")
    assert job.architecture == ["serial", ["Dense"]]


@pytest.mark.parametrize("address", ["s3://bucket/ws", "S3://bucket/ws", "abfs+x://bucket/ws"])
def test_what_is_an_address_is_left_for_the_store_to_judge(write, address):
    assert load_job(write(JOB.replace("./ws", address))).workspace == address


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("name: digits", "name: ../digits", "name: string should match"),
        ("task: classification", "task: clustering", r"task: expected .*'clustering'"),
        ("task: classification", "", "task: missing"),
        ("kernel: ntk", "kernle: ntk", "kernle: unknown key"),
        ("block_rows: 1000", "block_rows: 0", r"gram.block_rows: .*greater than 0.*, got 0"),
        ("ridge: 0.0,", "ridge: [0.1, much],", r"solver.ridge: .*at least 0, .*'much'"),
        ("ridge: 0.0,", "ridge: -1,", r"solver.ridge: .*at least 0, or a list of them .*, got -1"),
        ("rank: auto", "rank: big", "solver.preconditioner.rank"),
        ("type: rpcholesky", "type: ilu", "solver.preconditioner.type: expected 'rpcholesky'"),
        (
            "type: rpcholesky, rank: auto",
            "type: jacobi, rank: 5",
            "solver.preconditioner.rank: expected 'auto', because .*'jacobi' has no rank.*, got 5",
        ),
        ("tol: 1.0e-6", "tol: 1.0e-15", "solver.tol: expected at least 1e-14, .*, got 1e-15"),
        ("tol: 1.0e-6", "refine: -2", "solver.refine: .*, got -2"),
        (
            "tol: 1.0e-6",
            "method: direct, refine: true",
            "solver.refine: expected False, because solver 'direct' is not refined",
        ),
        ("x: data.npz:x_train, ", "", "data.x: missing"),
        (
            "kernel: ntk",
            "resources: {driver_cpus: 0, gpus: 1}",
            r"driver_cpus: .*greater than 0.*, got 0; resources.gpus: unknown key",
        ),
        (
            "kernel: ntk",
            "resources: {driver_cpus: 1000000000}",
            r"driver_cpus: .*less than or equal to 4096, got 1000000000",
        ),
    ],
)
def test_every_mistake_is_named_with_its_place(write, line, instead, words):
    assert line in JOB
    with pytest.raises(JobSpecError, match=words):
        load_job(write(JOB.replace(line, instead)))


@pytest.mark.parametrize(
    "section",
    [
        {"gram": {"block_rows": True}},
        {"gram": {"block_rows": "1000"}},
        {"gram": {"block_rows": 1.5}},
        {"solver": {"seed": True}},
        {"solver": {"seed": "1"}},
        {"solver": {"tol": "1e-6"}},
        {"solver": {"tol": True}},
        {"solver": {"max_steps": True}},
        {"solver": {"warm_start": "yes"}},
        {"solver": {"warm_start": 1}},
        {"solver": {"refine": "2"}},
        {"solver": {"ridge": 10**400}},
        {"solver": {"preconditioner": {"rank": True}}},
        {"solver": {"preconditioner": {"rank": "5"}}},
        {"resources": {"driver_cpus": True}},
        {"resources": {"driver_memory_bytes": "1000"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
def test_text_and_truths_are_no_numbers(write, section, name):
    place, value = "", section
    while isinstance(value, dict):
        ((key, value),) = value.items()
        place = f"{place}.{key}".removeprefix(".")
    text = json.dumps(MINIMAL | section)
    with pytest.raises(JobSpecError, match=rf"{place}: .*expected.*, got {value!r}"):
        load_job(write(text, name))


def test_yes_is_no_number_of_rows_and_a_time_is_none_either(write):
    for given, got in (("yes", "True"), ("1:20", "'1:20'"), ("1:20.5", "'1:20.5'")):
        with pytest.raises(JobSpecError, match=f"block_rows: .*valid integer, got {got}"):
            load_job(write(JOB.replace("block_rows: 1000", f"block_rows: {given}")))


@pytest.mark.parametrize(
    ("written", "number"),
    [("16.0", 16), ("1e1", 10), ("1_000", 1000), ("0x10", 16), ("0b11", 3), ("+7", 7), ("010", 8)],
)
def test_whole_numbers_however_they_are_written(write, written, number):
    text = JOB.replace("block_rows: 1000", f"block_rows: {written}")
    text = text.replace("rank: auto}", f"rank: {written}}}, seed: {written}, refine: {written}")
    job = load_job(write(text))
    found = (job.gram.block_rows, job.solver.seed, job.solver.refine)
    assert (*found, job.solver.preconditioner.rank) == (number,) * 4
    assert {type(one) for one in found} == {int}


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan"])
def test_what_is_no_finite_number_is_read_as_such(write, written):
    with pytest.raises(JobSpecError, match=r"ridge: .*finite number.*, got -?(inf|nan)"):
        load_job(write(JOB.replace("ridge: 0.0", f"ridge: {written}")))


@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
@pytest.mark.parametrize("text", ["[1, 2", "just words", "", "[]", "[" * 100_000])
def test_what_is_no_mapping_is_refused(write, text, name):
    with pytest.raises(JobSpecError, match=name):
        load_job(write(text, name))


@pytest.mark.parametrize(
    ("line", "instead", "key"),
    [
        ("name: digits", "name: digits\nname: letters", "'name' twice in line 3"),
        ("tol: 1.0e-6", "tol: 1.0e-3, tol: 1.0e-6", "'tol' twice in line 9"),
    ],
)
def test_a_key_that_is_there_twice_is_named(write, line, instead, key):
    with pytest.raises(JobSpecError, match=key):
        load_job(write(JOB.replace(line, instead)))


def test_a_key_that_is_twice_in_json_is_named(write):
    with pytest.raises(JobSpecError, match="the key 'tol' twice"):
        load_job(write('{"name": "a", "solver": {"tol": 1e-3, "tol": 1e-6}}', "job.json"))


def test_what_is_merged_may_be_said_again(write):
    text = JOB.replace("data: {", "data: &data {")
    text += "test: &test {<<: *data, y: data.npz:y_test}\ngram: {<<: {dtype: float32}}\n"
    text = text.replace("gram: {block_rows: 1000, dtype: float32}\n", "")
    job = load_job(write(text))
    assert job.test is not None
    assert job.test.y.endswith("data.npz:y_test")
    assert job.test.x == job.data.x


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(JobSpecError, match=r"none\.yaml"):
        load_job(tmp_path / "none.yaml")


def test_numbers_without_a_dot_are_numbers(write):
    text = JOB.replace("ridge: 0.0, tol: 1.0e-6", "ridge: [1e-6, 2], tol: 1e-4")
    text = text.replace("arch.json", "[Dense, {b_std: 1e-5, W_std: +2E0}]")
    job = load_job(write(text.replace("ridge: 0.2", "ridge: .5e1")))
    assert (job.solver.ridge, job.solver.tol) == ((1e-6, 2.0), 1e-4)
    assert job.architecture == ["Dense", {"b_std": 1e-5, "W_std": 2.0}]
    assert job.preprocess == ["standardize", {"name": "zca", "ridge": 5.0}]


def test_what_python_writes_as_json_is_read_as_it_was(write):
    job = JobSpec(
        name="a",
        task="regression",
        data={"x": "/data/\U0001f40d.npy", "y": "/data/\x85\u2028.npy"},
        preprocess=[{"name": "zca", "ridge": 1e-05}],
        architecture=["Dense", {"b_std": 1e-05}],
        solver={"ridge": 1e-06},
        workspace="/ws",
    )
    record = job.model_dump(mode="json")
    assert load_job(write(json.dumps(record), "job.json")).model_dump(mode="json") == record


def test_what_a_job_leaves_out_is_what_an_estimator_takes_for_it():
    job = JobSpec.model_validate(MINIMAL | {"architecture": stax.Dense(1).to_json()})
    for estimator in (NTKClassifier(), job_estimator(job)):
        assert Parameters.checked(estimator.get_params(deep=False)) == Parameters()
