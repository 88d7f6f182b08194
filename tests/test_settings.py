import pytest

from ntk_dist.errors import SettingsError
from ntk_dist.settings import Settings, available_memory, cpu_count, get_settings


def test_defaults_fit_this_machine():
    settings = get_settings()
    assert settings.threads == cpu_count() >= 1
    assert settings.block_max_bytes == 256 * 2**20
    assert available_memory() > 0


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
    ("name", "value"), [("THREADS", "0"), ("THREADS", "many"), ("LOG_LEVEL", "loud")]
)
def test_bad_values_are_named(monkeypatch, name, value):
    monkeypatch.setenv(f"NTK_DIST_{name}", value)
    with pytest.raises(SettingsError, match=f"NTK_DIST_{name}.*{value}"):
        get_settings()


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


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().threads = 2
