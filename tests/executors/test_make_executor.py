from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest

from ntk_dist.errors import ExecutorError, InvalidInputError
from ntk_dist.executors import borrowed, make_executor, parse_executor


@pytest.mark.parametrize(("spec", "n_workers"), [("local", 1), ("local:3", 3)])
def test_local_by_name(spec: str, n_workers: int) -> None:
    with make_executor(spec) as executor:
        assert (executor.name, executor.n_workers) == ("local", n_workers)


def test_an_executor_is_returned_as_it_is_also_from_a_copy() -> None:
    with make_executor("local") as executor:
        assert make_executor(executor) is executor
        assert copy.deepcopy(executor) is executor


@pytest.mark.parametrize(
    "spec",
    [
        *("", "spark", "local:0", "local:-1", "local:x", "dask:0", "ray:", "dask://host"),
        *("http://h:1", None, 5, {}, b"local"),
    ],
)
def test_an_unknown_name_lists_the_choices(spec: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"'local', .*'ray://HOST:PORT', got"):
        make_executor(spec)


@pytest.mark.parametrize(
    ("spec", "engine", "place"),
    [
        ("local", "local", {"n_workers": None}),
        ("dask:3", "dask", {"n_workers": 3}),
        ("dask://h:8786", "dask", {"address": "dask://h:8786"}),
        ("tcp://h:8786", "dask", {"address": "tcp://h:8786"}),
        ("tls://h:8786", "dask", {"address": "tls://h:8786"}),
        ("ray:auto", "ray", {"address": "auto"}),
        ("ray://h:10001", "ray", {"address": "ray://h:10001"}),
    ],
)
def test_what_is_named_is_one_of_three_engines(
    spec: str, engine: str, place: dict[str, Any]
) -> None:
    assert parse_executor(spec) == (engine, place)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("local:4097", "4096 threads, got 'local:4097'"),
        ("local:99999999", "4096 threads, got 'local:99999999'"),
        ("dask:5000", "4096 workers on this machine"),
        (f"ray:{'9' * 5000}", "4096 workers on this machine"),
    ],
    ids=["local", "many", "dask", "ray"],
)
def test_more_workers_than_any_machine_has_cpus_are_refused(spec: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"executor: expected at most {words}"):
        make_executor(spec)


def test_a_closed_executor_says_so() -> None:
    executor = make_executor("local")
    executor.close()
    executor.close()
    with pytest.raises(ExecutorError, match="closed"):
        executor.map_unordered(abs, [1])
    with pytest.raises(ExecutorError, match="closed"):
        executor.shards(abs, [1])


def test_what_was_lent_stays_open_and_what_was_made_here_is_closed() -> None:
    with make_executor("local") as lent:
        with borrowed(lent) as same:
            assert same is lent
        assert list(lent.map_unordered(abs, [])) == []
    with borrowed("local") as made:
        pass
    with pytest.raises(ExecutorError, match="closed"):
        made.map_unordered(abs, [1])


def test_no_engine_is_imported_before_it_is_named() -> None:
    code = (
        "import sys; from ntk_dist.executors import make_executor; make_executor('local').close(); "
        "sys.exit(bool({'distributed', 'ray', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("engine", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_names_the_extra(engine: str, library: str) -> None:
    code = (
        "import sys; sys.modules[sys.argv[2]] = None\n"
        "from ntk_dist.errors import MissingDependencyError\n"
        "from ntk_dist.executors import make_executor\n"
        "try:\n    make_executor(sys.argv[1])\n"
        "except MissingDependencyError as error:\n"
        "    sys.exit(0 if f\"pip install 'ntk_dist[{sys.argv[1]}]'\" in str(error) else 1)\n"
        "sys.exit(2)"
    )
    command = [sys.executable, "-c", code, engine, library]
    assert subprocess.run(command, check=False).returncode == 0
