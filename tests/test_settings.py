import traceback
from pathlib import Path

import psutil
import pytest

from ntk_dist.errors import SettingsError
from ntk_dist.settings import (
    Settings,
    available_memory,
    control_groups,
    cpu_count,
    get_settings,
    group_room,
)

GIB = 2**30


def test_defaults_fit_this_machine():
    settings = get_settings()
    assert settings.threads == cpu_count() >= 1
    assert settings.block_max_bytes == 256 * 2**20
    assert 0 < available_memory() < psutil.virtual_memory().total


def test_the_readme_names_every_variable():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    named = {name for name in Settings.model_fields if f"NTK_DIST_{name.upper()}" in readme}
    assert named == set(Settings.model_fields)


def test_variables_are_read(monkeypatch):
    monkeypatch.setenv("NTK_DIST_THREADS", "3")
    assert get_settings().threads == 3


def test_a_file_is_read_and_variables_win(monkeypatch, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("threads: 5\nlog_level: info\n")
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(file))
    monkeypatch.setenv("NTK_DIST_THREADS", "7")
    settings = get_settings()
    assert (settings.threads, settings.log_level) == (7, "info")


@pytest.mark.parametrize(
    ("name", "value"),
    [("THREADS", "0"), ("THREADS", "many"), ("THREADS", "1000000000"), ("LOG_LEVEL", "loud")],
)
def test_bad_values_are_named(monkeypatch, name, value):
    monkeypatch.setenv(f"NTK_DIST_{name}", value)
    with pytest.raises(SettingsError, match=f"NTK_DIST_{name}.*{value}"):
        get_settings()


def test_a_service_without_any_executor_is_refused(monkeypatch):
    monkeypatch.setenv("NTK_DIST_SERVICE__EXECUTORS", "[]")
    with pytest.raises(SettingsError, match=r"NTK_DIST_SERVICE__EXECUTORS: .*at least 1 item"):
        get_settings()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SERVICE__DATABSE_URL", "postgresql+psycopg://u:hush@host/name", "SERVICE__DATABSE_URL: "),
        ("SERVICE", '{"databse_url": "hush"}', "SERVICE__DATABSE_URL: "),
        ("SERVICE", '["hush"]', "SERVICE: "),
        ("SERVICE", "postgresql+psycopg://u:hush@host/name", "expected JSON"),
        ("SERVICE__DATA_ROOTS", "/hush", "expected JSON"),
    ],
)
def test_what_may_be_a_password_is_not_quoted(monkeypatch, variable, value, words):
    monkeypatch.setenv(f"NTK_DIST_{variable}", value)
    with pytest.raises(SettingsError, match=words) as refused:
        get_settings()
    assert "hush" not in "".join(traceback.format_exception(refused.value))


def test_an_unknown_key_in_the_file_is_named(monkeypatch, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("treads: 5\n")
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(file))
    with pytest.raises(SettingsError, match="TREADS"):
        get_settings()


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="no file"):
        get_settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"- threads", "a list"),
        (b'"hush"', "a str"),
        (b"&a [*a]", "a list"),
        (b"[]", "a list"),
        (b"1: 2", "1 is the name of none"),
        (b"service: {1: 2}", "SERVICE"),
        (b"threads: &a [*a]", "THREADS"),
        (b"threads: [1,\nlog_level: hush", "line 2, column"),
        (b"threads: 1\nthreads: 2", "the key 'threads' twice in line 2, column 1"),
        (b"service:\n  database_url: 'postgresql://u:hush@h/n\n", "line 3"),
        (b"\xff", "utf-8"),
        (b"threads: \0", "special characters"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_mapping_is_told_on_one_line(monkeypatch, tmp_path, text, told):
    file = tmp_path / "settings.yaml"
    file.write_bytes(text)
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(file))
    with pytest.raises(SettingsError, match=told) as refused:
        get_settings()
    assert "\n" not in str(refused.value)
    assert "Error" not in str(refused.value), "a repr of Python's"
    assert "hush" not in "".join(traceback.format_exception(refused.value))


def test_a_file_of_comments_alone_says_nothing(monkeypatch, tmp_path):
    (tmp_path / "settings.yaml").write_text("# threads: 3\n")
    monkeypatch.setenv("NTK_DIST_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    assert get_settings().threads == cpu_count()


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().threads = 2


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({"memory.max": f"{4 * GIB}\n", "memory.current": f"{3 * GIB}\n"}, 2 * GIB),
        ({"memory.max": f"{GIB}\n", "memory.current": f"{3 * GIB}\n"}, 0),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory.limit_in_bytes": f"{8 * GIB}", "memory.usage_in_bytes": f"{3 * GIB}"}, 8 * GIB),
        ({}, None),
    ],
)
def test_a_control_group_leaves_its_limit_less_what_it_cannot_give_back(tmp_path, files, room):
    # Files in the page cache count as used, and are dropped for whoever needs the memory.
    cached = f"anon {GIB}\ninactive_file {GIB // 2}\nactive_file {GIB // 2}\n"
    both = f"{cached}total_inactive_file {GIB}\ntotal_active_file {2 * GIB}\n"
    for name, text in {**files, "memory.stat": both}.items():
        (tmp_path / name).write_text(text)
    assert group_room(tmp_path) == room


def test_no_limit_is_seen_where_there_is_no_group(tmp_path):
    assert group_room(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("membership", "folders"),
    [
        ("0::/a.slice/b.scope\n", ["/cg/a.slice/b.scope", "/cg/a.slice", "/cg"]),
        ("0::/\n", ["/cg"]),
        (
            "4:memory:/docker/ab\n3:cpuset:/x\n1:name=systemd:/y\n",
            ["/cg/memory/docker/ab", "/cg/memory/docker", "/cg/memory"],
        ),
        ("5:cpu,memory:/a:b\n0::/\n", ["/cg/memory/a:b", "/cg/memory", "/cg"]),
        ("", []),
    ],
)
def test_every_group_around_this_process_may_set_a_limit(membership, folders):
    assert control_groups(membership, Path("/cg")) == [Path(folder) for folder in folders]
