"""A cluster on paper, held against sums done by hand."""

from dataclasses import replace

import pytest

from ntk_dist.errors import InvalidInputError
from ntk_dist.gram.grid import BlockGrid
from ntk_dist.gram.plan import GramPlan, default_block_rows
from ntk_dist.gram.simulation import Cluster, Work, simulate

GB = 10**9
CLUSTER = Cluster(
    n_workers=64,
    resident_bytes=32 * GB,
    read_rate=GB,
    link_rate=GB,
    hash_rate=GB / 2,
    entries_per_s=1e8,
    statistics_s=1e-5,
    product_rate=8 * GB,
    driver_flops=1e11,
)


def plan(n, block_rows=4096):
    return GramPlan(
        grid=BlockGrid(n, n, block_rows, symmetric=True),
        missing=(),
        kernels=("ntk",),
        itemsize=4,
        flops_per_pair=1e4,
        input_shape=(784,),
        working_bytes=10**6,
        statistics_row_bytes=40,
        missing_statistics=n,
    )


def phases(simulation):
    return {phase.name: phase for phase in simulation.phases}


def test_a_million_rows_on_sixty_four_workers():
    told = simulate(plan(10**6), CLUSTER, Work(n_targets=10, steps=100))
    assert told.plan.grid.n_blocks == 245 * 246 // 2 == 30_135
    assert told.plan.block_bytes == 64 * 2**20
    assert told.plan.gram_bytes == pytest.approx(2e12, rel=0.02)
    # 31.6 GB each, and 32 fit.
    assert told.share_bytes == pytest.approx(31.6e9, rel=1e-3)
    assert told.resident_share == 1
    # Seven levels out and seven back, of 80 MB at 1 GB/s; 31.6 GB at 8 GB/s; nothing is read.
    product = told.product
    assert product.seconds == pytest.approx(14 * 0.08 + 31.6 / 8, rel=1e-3)
    assert product.stored_bytes == 0
    assert product.sent_bytes == 2 * 64 * 80e6
    # Half of 1e12 entries at 64 x 1e8 a second, and 2 TB written with twice 30,135 bands of rows.
    bands = 2 * 30_135 * 4096 * (4 * 784 + 40)
    gram = 0.5e12 / 6.4e9 + (told.plan.gram_bytes + bands) / 64e9
    assert phases(told)["gram"].seconds == pytest.approx(gram, rel=1e-4)
    # Without a preconditioner the first of 100 products reads everything.
    solve = phases(told)["solve"]
    assert solve.stored_bytes == pytest.approx(2e12, rel=0.02)
    assert solve.seconds == pytest.approx(31.6 + 1.12 + 99 * product.seconds + 0.12, rel=1e-3)


def test_blocks_that_are_streamed_take_what_the_workspace_takes():
    cluster = replace(CLUSTER, resident_bytes=0)
    told = simulate(plan(10**6), cluster, Work())
    product = told.product
    assert product.seconds - 14 * 0.08 == pytest.approx(31.6, rel=1e-3)
    assert product.limit == "blocks from the workspace"
    assert product.stored_bytes == pytest.approx(told.plan.gram_bytes)


def test_five_million_rows():
    told = simulate(plan(5_000_000), CLUSTER, Work())
    assert told.plan.grid.n_blocks == 746_031
    assert told.plan.gram_bytes == pytest.approx(50e12, rel=2e-3)
    assert told.resident_share == pytest.approx(32 / (50e3 / 64), rel=2e-3)
    assert default_block_rows(5_000_000, 1e4) == 4096
    # Twelve arrays of 400 MB, the rows twice, and 250 bytes for each block.
    assert told.driver_bytes == pytest.approx(12 * 0.4e9 + 2 * 15.68e9 + 0.19e9, rel=1e-3)


def test_ingest_hashes_the_rows_and_writes_them_in_one_process():
    told = simulate(plan(5_000_000), CLUSTER, Work())
    ingest = told.phases[0]
    assert (ingest.name, ingest.stored_bytes, ingest.sent_bytes) == ("ingest", 15.68e9, 0)
    assert ingest.seconds == pytest.approx(2 * 15.68 + 15.68)
    assert ingest.limit == "hashing rows"


@pytest.mark.parametrize(("n_workers", "n_tasks"), [(64, 40), (5, 20), (1, 5)])
def test_predictions_read_the_training_rows_once_a_task(n_workers, n_tasks):
    told = simulate(plan(10**6), replace(CLUSTER, n_workers=n_workers), Work())
    assert phases(told)["predict"].stored_bytes == n_tasks * 10**6 * (4 * 784 + 40)


def test_a_preconditioner_brings_its_columns_to_the_driver():
    most = 10**10
    works = Work(), Work(rank=100), Work(rank=100, building_bytes=most)
    without, kept, told = (simulate(plan(10**6), CLUSTER, work) for work in works)
    phase = phases(told)["precondition"]
    assert phase.sent_bytes == 2 * 10**6 * 100 * 4
    # Blocks come into memory, columns cross one link, and 8 n r^2 flops.
    assert phase.seconds == pytest.approx(31.6 + 0.8 + 0.8, rel=1e-3)
    assert phases(without)["precondition"].seconds == 0
    # What it read needs not be read by the first product.
    assert phases(told)["solve"].stored_bytes == 0
    # Its factor stays, in the precision of the blocks; building it takes more, before the solve.
    assert kept.driver_bytes - without.driver_bytes == 0.4e9
    assert told.driver_bytes - without.driver_bytes == most - 12 * 0.08e9


def test_one_worker_is_a_cluster_too():
    told = simulate(plan(1000, 500), replace(CLUSTER, n_workers=1), Work(predictions=1))
    assert told.plan.grid.n_blocks == 3
    assert told.product.sent_bytes == 2 * 1000 * 10 * 8
    assert told.seconds == sum(phase.seconds for phase in told.phases)
    assert told.to_dict()["product"]["name"] == "one product"


def test_tiny_blocks_wait_for_the_driver():
    told = simulate(plan(10**6, 100), CLUSTER, Work())
    assert phases(told)["gram"].limit == "the driver's submitting"


def test_rates_must_be_rates():
    with pytest.raises(InvalidInputError, match="read_rate: expected a finite number above 0, got"):
        replace(CLUSTER, read_rate=0)
