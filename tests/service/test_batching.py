"""Who waits, who comes next, who is sent away; and what callers get of it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_dist.errors import NonFiniteDataError, OverloadedError, ServiceTimeoutError
from ntk_dist.service.batching import Batcher, Lanes, Ticket


def lanes(batch_rows=8, max_rows=100, max_bytes=10**6, max_requests=50) -> Lanes:
    return Lanes(
        batch_rows=lambda lane: batch_rows,
        max_rows=max_rows,
        max_bytes=max_bytes,
        max_requests=max_requests,
    )


def ticket(rows: int, lane="a", start: float = 0.0) -> Ticket:
    return Ticket(lane, start + np.arange(rows, dtype=float)[:, None])


def taken(batch) -> list[tuple[Ticket, int, int]]:
    return [(part.ticket, part.rows.start, part.rows.stop) for part in batch.parts]


def test_small_requests_come_together_in_order():
    waiting = lanes()
    one, two, three = ticket(3), ticket(5), ticket(1)
    for each in (one, two, three):
        waiting.put(each)
    assert taken(waiting.take()) == [(one, 0, 3), (two, 0, 5)]
    assert taken(waiting.take()) == [(three, 0, 1)]
    assert waiting.take() is None
    assert (waiting.requests, waiting.rows, waiting.n_bytes) == (0, 0, 0)


def test_a_large_request_goes_in_pieces_and_lets_small_ones_pass():
    waiting = lanes()
    large, small = ticket(20), ticket(2)
    waiting.put(large)
    waiting.put(small)
    assert taken(waiting.take()) == [(large, 0, 8)]
    assert taken(waiting.take()) == [(small, 0, 2)]
    assert taken(waiting.take()) == [(large, 8, 16)]
    assert taken(waiting.take()) == [(large, 16, 20)]


def test_models_take_turns():
    waiting = lanes(batch_rows=1)
    order = [ticket(2, "a"), ticket(1, "b"), ticket(1, "a")]
    for each in order:
        waiting.put(each)
    found = [waiting.take() for _ in range(4)]
    assert [batch.lane for batch in found] == ["a", "b", "a", "a"]
    assert waiting.take() is None


@pytest.mark.parametrize(
    ("limits", "rows", "told"),
    [
        ({"max_rows": 10}, 6, "at most 10 rows to wait for predictions, got 11"),
        ({"max_requests": 1}, 1, "at most 1 requests"),
        ({"max_bytes": 48}, 2, "at most 48 bytes"),
    ],
)
def test_whoever_comes_when_too_much_waits_is_sent_away(limits, rows, told):
    waiting = lanes(**limits)
    waiting.require_room(10**9, 10**9, 1.0)  # with nobody waiting, anything goes
    waiting.put(ticket(5))
    with pytest.raises(OverloadedError, match=told) as found:
        waiting.require_room(rows, 8 * rows, 2.5)
    assert found.value.retry_after_s == 2.5


def test_whoever_leaves_makes_room():
    waiting = lanes()
    large, small = ticket(20), ticket(2, "b")
    waiting.put(large)
    waiting.put(small)
    waiting.take()
    waiting.drop(large)
    waiting.drop(large)
    assert (waiting.requests, waiting.rows) == (1, 2)
    assert taken(waiting.take()) == [(small, 0, 2)]
    assert waiting.take() is None


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from("abc")), max_size=6),
    st.integers(1, 9),
    st.data(),
)
def test_every_row_is_taken_once_whatever_the_order(requests, batch_rows, data):
    waiting = lanes(batch_rows=batch_rows)
    left = [ticket(rows, lane) for rows, lane in requests]
    tickets, dropped = list(left), set()
    seen = {each: [] for each in left}
    while left or waiting.rows:
        if left and (not waiting.rows or data.draw(st.booleans())):
            waiting.put(left.pop(0))
        else:
            batch = waiting.take()
            assert sum(map(len, batch.parts)) <= batch_rows
            assert batch.x.shape == (sum(map(len, batch.parts)), 1)
            for part in batch.parts:
                assert part.ticket.lane == batch.lane
                np.testing.assert_array_equal(
                    batch.x[part.first : part.first + len(part)], part.ticket.x[part.rows]
                )
                seen[part.ticket] += range(part.rows.start, part.rows.stop)
                if part.ticket.waiting and data.draw(st.integers(0, 9)) == 0:
                    waiting.drop(part.ticket)
                    dropped.add(part.ticket)
    for each in tickets:
        if each not in dropped:
            assert seen[each] == list(range(len(each.x)))
    assert (waiting.requests, waiting.rows, waiting.n_bytes) == (0, 0, 0)


class Computer:
    """Doubles rows, when it is let."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, lane: str, x: np.ndarray, threads: int) -> np.ndarray:
        self.calls.append((lane, len(x), threads))
        assert self.may_go.wait(20)
        if lane == "bad":
            raise NonFiniteDataError("too large")
        return np.concatenate([2 * x, -x], axis=1)


@pytest.fixture
def computer():
    made = Computer()
    yield made
    made.may_go.set()


def batching(computer: Computer, body, *, slots: int = 1, **limits) -> None:
    """Run a coroutine function with a batcher."""

    async def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            try:
                await body(Batcher(computer, lanes(**limits), pool, slots))
            finally:
                computer.may_go.set()

    asyncio.run(run())


async def begun(computer: Computer, calls: int) -> None:
    async with asyncio.timeout(20):
        while len(computer.calls) < calls:
            await asyncio.sleep(0.001)


def test_those_that_come_while_all_are_busy_are_computed_together(computer):
    async def body(batcher):
        tickets = [ticket(1, start=10.0 * k) for k in range(5)]
        asked = [asyncio.ensure_future(batcher.values("a", t.x, 20)) for t in tickets]
        await begun(computer, 1)
        await asyncio.sleep(0)
        computer.may_go.set()
        for each, found in zip(tickets, await asyncio.gather(*asked), strict=True):
            np.testing.assert_array_equal(found, [[2 * each.x[0, 0], -each.x[0, 0]]])
        assert computer.calls == [("a", 1, 1), ("a", 4, 1)]

    batching(computer, body)


def test_one_alone_gets_all_threads(computer):
    async def body(batcher):
        first = asyncio.ensure_future(batcher.values("a", ticket(1).x, 20))
        await begun(computer, 1)
        second = asyncio.ensure_future(batcher.values("a", ticket(1).x, 20))
        await begun(computer, 2)
        computer.may_go.set()
        await asyncio.gather(first, second)
        assert [call[2] for call in computer.calls] == [2, 1]

    batching(computer, body, slots=2)


def test_pieces_come_back_as_one(computer):
    async def body(batcher):
        computer.may_go.set()
        x = ticket(21).x
        np.testing.assert_array_equal((await batcher.values("a", x, 20))[:, 0], 2 * x[:, 0])
        assert [call[1] for call in computer.calls] == [8, 8, 5]

    batching(computer, body)


def test_whoever_gives_up_leaves_the_queue(computer):
    async def body(batcher):
        first = asyncio.ensure_future(batcher.values("a", ticket(1).x, 20))
        await begun(computer, 1)
        with pytest.raises(ServiceTimeoutError, match=r"of 3 rows within 0.01 s, got those of 0"):
            await batcher.values("a", ticket(3).x, 0.01)
        gone = asyncio.ensure_future(batcher.values("a", ticket(3).x, 20))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.lanes.requests == 0
        computer.may_go.set()
        await first
        assert len(computer.calls) == 1

    batching(computer, body)


def test_whoever_gives_up_while_it_is_computed_is_not_missed(computer):
    async def body(batcher):
        with pytest.raises(ServiceTimeoutError):
            await batcher.values("a", ticket(1).x, 0.01)
        computer.may_go.set()
        assert (await batcher.values("a", ticket(2).x, 20)).shape == (2, 2)

    batching(computer, body)


def test_errors_reach_those_who_asked_and_the_next_goes_on(computer):
    async def body(batcher):
        computer.may_go.set()
        asked = [batcher.values(lane, ticket(1).x, 20) for lane in ("bad", "bad", "a")]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in found] == [NonFiniteDataError] * 2 + [np.ndarray]

    batching(computer, body)


def test_who_is_sent_away_learns_for_how_long(computer):
    async def body(batcher):
        asked = [asyncio.ensure_future(batcher.values("a", ticket(4).x, 20)) for _ in range(2)]
        await begun(computer, 1)
        with pytest.raises(OverloadedError) as found:
            await batcher.values("a", ticket(1).x, 20)
        assert found.value.retry_after_s == 0.5  # nothing is known yet
        computer.may_go.set()
        await asyncio.gather(*asked)
        assert (await batcher.values("a", ticket(1).x, 20)).shape == (1, 2)

    batching(computer, body, max_requests=1)
