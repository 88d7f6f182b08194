import time

from ntk_dist.kernels.projection import measured_cost, measured_rate


class Sleeper:
    """Computes a hundred thousand entries a second."""

    def __init__(self):
        self.sizes = []

    def __call__(self, rows):
        self.sizes.append(rows)
        time.sleep(rows**2 / 1e5)


def test_blocks_grow_until_one_takes_long_enough():
    sleeper = Sleeper()
    rate = measured_rate(sleeper, 1000, most_rows=1024)
    assert 0.2e5 < rate <= 1e5
    assert sleeper.sizes[0] == sleeper.sizes[1] == 316  # 1e8 flops
    assert len(sleeper.sizes) % 2 == 0


def test_blocks_stay_within_memory_and_patience():
    sleeper = Sleeper()
    assert measured_rate(sleeper, 1000, most_rows=20) > 0
    assert max(sleeper.sizes) == 20
    sleeper = Sleeper()
    assert measured_rate(sleeper, 10**10, most_rows=1024) > 0
    assert max(sleeper.sizes) == 4  # 2e11 flops are 20 pairs
    assert measured_rate(sleeper, 10**12, most_rows=1024) is None


def test_samples_are_counted_together_where_one_takes_no_time():
    quick, slow = Sleeper(), Sleeper()
    assert measured_cost(lambda n: slow(60), 1000) > 0.02
    assert slow.sizes == [60, 60]
    assert 0 < measured_cost(quick, 1000) < 0.02
    assert quick.sizes == [1, 1, 256, 256]
    assert measured_cost(quick, 7) > 0
    assert quick.sizes[4:] == [1, 1, 7, 7]
