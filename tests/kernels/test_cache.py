"""Compiled programs stay where a job keeps them, and nowhere else."""

import jax
import pytest

from ntk_dist.kernels.cache import programs_kept_in, user_cache


@pytest.fixture(autouse=True)
def no_cache_of_the_test_run(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def compile_one(number):
    jax.jit(lambda x: x * number + 1)(1.0)


def test_programs_are_kept_until_the_end_of_the_job(tmp_path):
    folder = tmp_path / "a" / "cache"
    compile_one(2)
    with programs_kept_in(folder):
        compile_one(3)
        kept = set(folder.iterdir())
    assert kept
    compile_one(4)
    assert set(folder.iterdir()) == kept
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_jax_has_already_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    with programs_kept_in(tmp_path / "ours"):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


def test_a_place_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    with programs_kept_in(tmp_path / "file" / "cache"):
        compile_one(5)
    assert jax.config.jax_compilation_cache_dir is None


def test_the_cache_of_a_user_is_where_caches_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "ntk_dist"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "ntk_dist"
