"""Rows added later: only the new blocks are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.events import RepairEvent
from ntk_dist.model.growth import shared_rows
from ntk_dist.store.dataset import MemoryRows

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))


def model(workspace: Path | None, **more: object) -> NTKRegressor:
    return NTKRegressor(NET, workspace=workspace, **{"block_rows": 20, **more})


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((130, 6)), rng.standard_normal((130, 2))


def test_a_grown_data_set_computes_only_the_new_blocks(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    first = model(tmp_path).fit(x[:90], y[:90])
    assert first.report_.gram.n_computed == 5 * 6 // 2
    plan = model(tmp_path).plan(x)
    assert (len(plan.missing), len(plan.known), plan.missing_entries) == (
        28,
        10,
        130**2 / 2 - 80**2 / 2,
    )
    grown = model(tmp_path).fit(x, y)
    # Four whole ranges of rows are shared; the fifth was ragged.
    assert grown.report_.gram.n_adopted == 4 * 5 // 2
    assert grown.report_.gram.n_computed == 7 * 8 // 2 - 4 * 5 // 2
    assert "10 blocks were those of a data set" in str(grown.report_)
    alone = model(None).fit(x, y)
    np.testing.assert_array_equal(grown.dual_coef_, alone.dual_coef_)
    again = model(tmp_path).fit(x, y)
    assert (again.report_.gram.n_computed, again.report_.gram.n_adopted) == (0, 0)


@pytest.mark.parametrize("n", [20, 21, 37, 40, 75, 80, 89])
@pytest.mark.parametrize("block_rows", [20, None])
def test_a_data_set_that_lost_its_last_rows_computes_the_ragged_blocks_only(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path, n: int, block_rows: int | None
) -> None:
    x, y = data
    model(tmp_path, block_rows=block_rows).fit(x[:90], y[:90])
    fewer = model(tmp_path, block_rows=block_rows).fit(x[:n], y[:n])
    if block_rows:
        whole, side = n // 20, -(-n // 20)
        assert fewer.report_.gram.n_adopted == whole * (whole + 1) // 2
        assert fewer.report_.gram.n_computed == (side * (side + 1) - whole * (whole + 1)) // 2
    alone = model(None, block_rows=block_rows).fit(x[:n], y[:n])
    np.testing.assert_array_equal(fewer.dual_coef_, alone.dual_coef_)


def test_a_repeated_row_among_the_new_ones_changes_no_block(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    model(tmp_path).fit(x[:80], y[:80])
    grown = model(tmp_path).fit(np.concatenate([x[:80], x[:5]]), y[:85])
    assert grown.report_.gram.n_computed == 0


def test_the_side_of_blocks_is_that_of_what_was_there(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    model(tmp_path, block_rows=None).fit(x[:70], y[:70])
    assert model(tmp_path, block_rows=None).plan(x).grid.block_rows == 70
    grown = model(tmp_path, block_rows=None).fit(x, y)
    assert (grown.report_.gram.block_rows, grown.report_.gram.n_adopted) == (70, 1)
    model(tmp_path, block_rows=10).fit(x, y)
    again = model(tmp_path, block_rows=None).fit(x, y)
    assert again.report_.gram.n_computed == 0
    # Blocks far smaller than ours would be cost more than they save.
    lone = NTKRegressor(NET, workspace=tmp_path / "lone")
    model(tmp_path / "lone", block_rows=20).fit(x[:40], y[:40])
    assert lone.fit(x, y).report_.gram.block_rows == 130


@pytest.mark.parametrize(
    "other",
    [{"dtype": "float64"}, {"kernel": "nngp"}, {"preprocess": ["standardize"]}],
    ids=lambda other: next(iter(other)),
)
def test_another_matrix_gives_nothing(
    other: dict[str, object], data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    model(tmp_path).fit(x[:90], y[:90])
    assert model(tmp_path, **other).fit(x, y).report_.gram.n_adopted == 0


def test_a_damaged_block_is_computed_and_no_part_of_it_taken(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    key = model(tmp_path).fit(x[:80], y[:80]).report_.gram.key
    chunk = tmp_path / "grams" / key / "ntk" / "c" / "1" / "2"
    damaged = bytearray(chunk.read_bytes())
    damaged[50] ^= 4
    chunk.write_bytes(damaged)
    grown = model(tmp_path).fit(x, y)
    assert (grown.report_.gram.n_adopted, grown.report_.gram.n_repaired) == (10 - 1, 1)
    np.testing.assert_array_equal(grown.dual_coef_, model(None).fit(x, y).dual_coef_)


def test_damaged_statistics_are_computed_and_counted(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    key = model(tmp_path).fit(x[:80], y[:80]).report_.gram.key
    chunk = tmp_path / "grams" / key / "statistics" / "c" / "1" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[50] ^= 4
    chunk.write_bytes(damaged)
    repairs: list[RepairEvent] = []
    grown = model(tmp_path).fit(
        x, y, on_event=lambda e: repairs.append(e) if isinstance(e, RepairEvent) else None
    )
    assert [repair.item for repair in repairs] == ["statistics of batch 1"]
    assert grown.report_.gram.n_repaired == 1
    np.testing.assert_array_equal(grown.dual_coef_, model(None).fit(x, y).dual_coef_)


def test_what_cannot_be_read_is_passed_over(
    data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, y = data
    model(tmp_path).fit(x[:80], y[:80])
    for metadata in [*tmp_path.glob("grams/*/zarr.json"), *tmp_path.glob("datasets/*/zarr.json")]:
        whole = metadata.read_text()
        metadata.write_text(whole[: len(whole) // 2])
        assert model(tmp_path).fit(x[:100], y[:100]).report_.gram.n_adopted == 0
        metadata.write_text(whole)


def test_shared_rows_are_counted_up_to_the_first_that_differs() -> None:
    x = np.arange(20_000.0).reshape(10_000, 2)
    changed = x.copy()
    changed[9_001, 1] = -1
    rows = MemoryRows(x)
    assert shared_rows(rows, MemoryRows(changed)) == 9_001
    assert shared_rows(rows, MemoryRows(x[:7])) == 7
    assert shared_rows(rows, MemoryRows(x.astype("f4"))) == 0
    assert shared_rows(rows, MemoryRows(x.reshape(-1, 1))) == 0
