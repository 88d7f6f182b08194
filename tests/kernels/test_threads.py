"""Pieces of work fall to one thread each, and errors are not lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ntk_dist.kernels.threads import in_threads


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
