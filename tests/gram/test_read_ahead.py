"""Blocks in memory are counted, not timed."""

import threading

import numpy as np
import pytest

from ntk_dist.gram.grid import BlockIndex
from ntk_dist.gram.read_ahead import ReadAhead

WANTED = [BlockIndex(0, j) for j in range(20)]


def column(index):
    return np.full((1, 1), float(index.j))


def test_blocks_come_in_the_order_wanted_whoever_reads_faster():
    gate = threading.Event()

    def read(index):
        if index.j == 0:
            gate.wait(10)
        elif index.j == 2:
            gate.set()  # later blocks are read while the first one still is
        return column(index)

    with ReadAhead(read, WANTED, 4) as ahead:
        taken = []
        for index in WANTED:
            taken.append(ahead.take()[0, 0])
            ahead.finish(index)
    assert taken == list(range(20))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_blocks_are_begun_than_may_be_in_memory(most):
    begun = []

    def read(index):
        begun.append(index)
        return column(index)

    with ReadAhead(read, WANTED, most) as ahead:
        for used, index in enumerate(WANTED):
            assert ahead.take() is not None
            assert len(begun) <= used + most
            ahead.finish(BlockIndex(7, 7))  # not read here: nothing begins for it
            assert len(begun) <= used + most
            ahead.finish(index)
    assert sorted(begun) == WANTED


def test_what_a_read_raises_is_raised_where_its_block_is_taken():
    def read(index):
        if index.j == 1:
            raise OSError(f"no {index}")
        return column(index)

    with ReadAhead(read, WANTED, 3) as ahead:
        assert ahead.take() is not None
        with pytest.raises(OSError, match=r"no \(0, 1\)"):
            ahead.take()


def test_whoever_waits_for_a_block_that_will_not_come_is_let_go():
    with ReadAhead(column, WANTED, 1) as ahead:
        assert ahead.take() is not None  # and never finished
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(ahead.take()))
        waiting.start()
        ahead.stop()
        waiting.join(10)
        assert answers == [None]


def test_leaving_ends_the_threads_that_read():
    with ReadAhead(column, WANTED, 6) as ahead:
        ahead.take()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]
