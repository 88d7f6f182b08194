"""Maps of matrices while their blocks are listed, which takes long in object storage."""

import base64
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ntk_dist.gram.grid import BlockIndex
from ntk_dist.jobs import gram_map
from ntk_dist.jobs.gram_map import GramMaps
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import Workspace

PATIENCE_S = 30


def manifest(architecture):
    return Manifest(
        architecture=architecture,
        data_rows="d",
        data_cols="d",
        n_rows=10,
        n_cols=10,
        block_rows=3,
        symmetric=True,
        kernels=("ntk",),
        dtype="float32",
        device_kind="cpu",
    )


def stored(blocks):
    bits = np.frombuffer(base64.b64decode(blocks.packed), np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")[: blocks.n_blocks]).tolist())


def test_a_matrix_that_takes_long_to_list_keeps_nobody_waiting(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    slow, quick = manifest("slow"), manifest("quick")
    store = workspace.gram(slow)
    workspace.gram(quick)
    now, is_listing, may_go_on = [0.0], threading.Event(), threading.Event()
    maps = GramMaps(workspace.place, clock=lambda: now[0])
    assert stored(maps.of(slow.key)) == set()
    store.write(BlockIndex(0, 0), {"ntk": np.zeros((3, 3), "float32")})
    map_of = gram_map._map_of

    def slowly(store):
        if store.manifest.architecture == "slow":
            is_listing.set()
            assert may_go_on.wait(PATIENCE_S)
        return map_of(store)

    monkeypatch.setattr(gram_map, "_map_of", slowly)
    now[0] = 10.0
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(maps.of, slow.key)
        assert is_listing.wait(PATIENCE_S)
        try:
            # Others hear what was known of it, and of the other matrix.
            assert stored(threads.submit(maps.of, slow.key).result(PATIENCE_S)) == set()
            assert stored(threads.submit(maps.of, quick.key).result(PATIENCE_S)) == set()
        finally:
            may_go_on.set()
        assert stored(first.result(PATIENCE_S)) == {0}
    assert stored(maps.of(slow.key)) == {0}


def test_the_map_of_a_run_that_is_over_is_listed_once_more(tmp_path, monkeypatch):
    workspace, theirs = Workspace(tmp_path), manifest("a")
    store = workspace.gram(theirs)
    listed = []
    map_of = gram_map._map_of
    monkeypatch.setattr(gram_map, "_map_of", lambda s: listed.append(s) or map_of(s))
    maps = GramMaps(workspace.place, clock=lambda: 0.0)
    assert stored(maps.of(theirs.key)) == set()
    store.write(BlockIndex(0, 0), {"ntk": np.zeros((3, 3), "float32")})
    assert stored(maps.of(theirs.key)) == set(), "a map is good for a while"
    assert stored(maps.of(theirs.key, "job 1")) == {0}, "but not for who may not ask again"
    assert stored(maps.of(theirs.key, "job 1")) == stored(maps.of(theirs.key)) == {0}
    assert len(listed) == 2
    maps.of(theirs.key, "job 2")
    assert len(listed) == 3


def test_who_asks_for_a_run_that_is_over_waits_for_a_map_that_has_it_all(tmp_path, monkeypatch):
    workspace, theirs = Workspace(tmp_path), manifest("a")
    store = workspace.gram(theirs)
    is_listing, may_go_on, asked = threading.Event(), threading.Event(), threading.Event()
    now = [0.0]
    maps = GramMaps(workspace.place, clock=lambda: now[0])
    maps.of(theirs.key)
    now[0] = 10.0
    map_of = gram_map._map_of

    def slowly(store):
        found = map_of(store)  # before the last block
        is_listing.set()
        assert may_go_on.wait(PATIENCE_S)
        return found

    monkeypatch.setattr(gram_map, "_map_of", slowly)

    def ask():
        asked.set()
        return maps.of(theirs.key, "job 1")

    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(maps.of, theirs.key)
        assert is_listing.wait(PATIENCE_S)
        store.write(BlockIndex(0, 0), {"ntk": np.zeros((3, 3), "float32")})
        over = threads.submit(ask)
        assert asked.wait(PATIENCE_S)
        may_go_on.set()
        assert stored(over.result(PATIENCE_S)) == {0}
        assert stored(running.result(PATIENCE_S)) == set()


def test_maps_of_matrices_that_are_gone_or_asked_for_no_more_are_dropped(tmp_path):
    workspace, now = Workspace(tmp_path), [0.0]
    keys = [manifest(name).key for name in "ab"]
    for name in "ab":
        workspace.gram(manifest(name))
    maps = GramMaps(workspace.place, clock=lambda: now[0])
    assert all(maps.of(key) for key in keys)
    now[0] = 30.0
    shutil.rmtree(tmp_path / "grams" / keys[0])
    assert maps.of(keys[0]) is None
    now[0] = 80.0
    assert maps.of(keys[0]) is None
    assert set(maps._entries) == {keys[0]}
