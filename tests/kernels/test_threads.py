"""Pieces of work fall to one thread each, and errors are not lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from ntk_dist.kernels.threads import in_threads, thread_memory


@pytest.mark.parametrize("threads", [1, 3])
def test_every_piece_is_taken_once(threads: int) -> None:
    taken: list[list[int]] = []

    def work(pieces: Iterator[int]) -> None:
        taken.append(list(pieces))

    in_threads(threads, work, iter(range(1000)))
    assert len(taken) == threads
    assert sorted(itertools.chain(*taken)) == list(range(1000))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_one_thread_raises_is_raised(threads: int) -> None:
    def work(pieces: Iterator[int]) -> None:
        for piece in pieces:
            if piece == 7:
                raise ValueError("piece 7")

    with pytest.raises(ValueError, match="piece 7"):
        in_threads(threads, work, iter(range(20)))


def test_memory_of_a_thread_is_zero_and_starts_with_a_page() -> None:
    memory = thread_memory(1000, np.dtype(np.float32))
    assert memory.shape == (1000,)
    assert memory.dtype == np.float32
    assert not memory.any()
    assert memory.ctypes.data % 4096 == 0
    memory[:] = 1  # writable
