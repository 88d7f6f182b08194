"""What a writer that is killed while it replaces something leaves beside it, and who sweeps it."""

import os
import time
from pathlib import Path

import pytest

from ntk_dist.store.folder import Folder


def save(place: Folder, text: str) -> str:
    """Replace what is at ``place``; what the draft was called."""
    with place.replacing(last="model.json") as draft:
        (draft / "model.json").write_bytes(text.encode())
    return draft.name


def left_behind(place: Folder) -> Path:
    """As a writer leaves it that was killed two hours ago."""
    draft = place.folder.with_name(save(place, "first"))
    draft.mkdir()
    (draft / "model.json").write_text("of a killed writer")
    for path in (draft / "model.json", draft):
        os.utime(path, (time.time() - 7200,) * 2)
    return draft


@pytest.mark.parametrize("name", ["model", "my.model [1]", ".hidden"])
def test_saving_again_sweeps_what_killed_writers_left(tmp_path, name):
    place = Folder(str(tmp_path / name))
    draft = left_behind(place)
    save(place, "second")
    assert not draft.exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (place / "model.json").read_bytes() == b"second"


def test_what_is_new_or_belongs_to_another_is_not_swept(tmp_path):
    model, others = Folder(str(tmp_path / "model")), Folder(str(tmp_path / "model.2"))
    young, theirs = left_behind(model), left_behind(others)
    os.utime(young / "model.json")
    save(model, "second")
    assert young.exists(), "its writer may still be at work"
    assert theirs.exists()


def test_while_the_place_is_empty_nothing_that_was_for_it_is_swept(tmp_path):
    """A kill between the two renames: the model is in the drafts alone."""
    place = Folder(str(tmp_path / "model"))
    draft = left_behind(place)
    place.delete()
    Folder(str(tmp_path)).sweep_orphans()
    save(place, "second")
    assert (draft / "model.json").read_text() == "of a killed writer"
    Folder(str(tmp_path)).sweep_orphans()
    assert not draft.exists()
    assert (place / "model.json").read_bytes() == b"second"
