"""The table of jobs, on both databases."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest

from ntk_dist.database import open_database
from ntk_dist.errors import JobNotFoundError, OverloadedError
from ntk_dist.wire import JobState

N_THREADS = 8


def at_once(n, work):
    """What ``work(k)`` comes to in every one of n threads that begin together."""
    barrier = threading.Barrier(n)

    def begin(k):
        barrier.wait(30)
        return work(k)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(begin, range(n)))


def test_a_job_comes_back_as_it_was(database, new_record):
    record = new_record(1)
    assert database.jobs.insert(record)
    found = database.jobs.get(record.id)
    assert found == record
    assert all(type(getattr(found, f.name)) is type(getattr(record, f.name)) for f in fields(found))


def test_what_is_not_known_comes_back_as_none(database, new_record):
    unknown = ("idempotency_key", "run", "lease_holder", "lease_until", "started", "finished")
    unknown = (*unknown, "failure", "model_version", "score", "report")
    record = new_record(1, **dict.fromkeys(unknown))
    database.jobs.insert(record)
    assert database.jobs.get(record.id) == record


def test_numbers_that_are_not_finite_are_null_in_a_report(database, new_record):
    report = {"residuals": (math.nan, 1.0), "best": {"error": -math.inf}}
    record = new_record(1, report=report)
    database.jobs.insert(record)
    expected = {"residuals": [None, 1.0], "best": {"error": None}}
    assert database.jobs.get(record.id).report == expected


def test_times_need_their_zone(database, new_record, moment):
    with pytest.raises(ValueError, match="with its time zone"):
        database.jobs.insert(new_record(1, created=moment.replace(tzinfo=None)))


def test_an_unknown_job_is_told_by_its_id(database):
    with pytest.raises(JobNotFoundError, match="expected the id of a job, got 'no-job'"):
        database.jobs.get("no-job")


def test_pages_show_the_newest_first_and_go_on_where_they_ended(database, new_record):
    for k in (3, 1, 4, 2, 5):
        state = JobState.QUEUED if k < 4 else JobState.RUNNING
        database.jobs.insert(new_record(k, name="even" if k % 2 == 0 else "odd", state=state))
    made = {k: f"{k:024x}" for k in range(7)}

    def page(**wanted):
        return [int(record.id, 16) for record in database.jobs.page(**wanted)]

    assert page() == [5, 4, 3, 2, 1]
    assert page(limit=2) == [5, 4]
    assert page(limit=2, after=made[4]) == [3, 2]
    assert page(after=made[1]) == []
    assert page(name="odd", state=JobState.QUEUED) == [3, 1]
    assert [int(r.id, 16) for r in database.jobs.in_state(JobState.QUEUED)] == [1, 2, 3]
    both = database.jobs.in_state(JobState.QUEUED, JobState.RUNNING, limit=4)
    assert [int(r.id, 16) for r in both] == [1, 2, 3, 4]
    expected = dict.fromkeys(JobState, 0) | {JobState.QUEUED: 3, JobState.RUNNING: 2}
    assert database.jobs.counts() == expected


def test_a_change_counts_only_if_nobody_else_made_one(database, new_record):
    first = new_record(1)
    database.jobs.insert(first)
    mine = replace(first, revision=8, name="mine")
    assert database.jobs.swap(first, mine)
    assert not database.jobs.swap(first, replace(first, revision=9, name="theirs"))
    assert database.jobs.get(first.id) == mine
    assert not database.jobs.swap(new_record(2), replace(new_record(2), revision=8))


def test_a_change_that_is_not_counted_is_a_defect(database, new_record):
    record = new_record(1)
    for new in (replace(record, name="same revision"), replace(new_record(2), revision=8)):
        with pytest.raises(ValueError, match="expected a later revision"):
            database.jobs.swap(record, new)


def test_a_key_is_used_once_by_each_owner(database, new_record):
    assert database.jobs.insert(new_record(1, idempotency_key="k"))
    assert not database.jobs.insert(new_record(2, idempotency_key="k"))
    assert database.jobs.insert(new_record(3, idempotency_key="k", owner="berta"))
    assert database.jobs.insert(new_record(4, idempotency_key=None))
    assert database.jobs.insert(new_record(5, idempotency_key=None))
    assert database.jobs.by_key("berta", "k") == new_record(3, idempotency_key="k", owner="berta")
    assert database.jobs.by_key("berta", "other") is None


def test_of_many_that_are_added_at_once_no_more_are_queued_than_may_be(database_url, new_record):
    with open_database(database_url) as one, open_database(database_url) as other:
        replicas = [one.jobs, other.jobs]
        one.jobs.insert(new_record(99, state=JobState.RUNNING))  # does not wait

        def add(k):
            record = new_record(k, state=JobState.QUEUED)
            try:
                return replicas[k % 2].insert(record, max_queued=3)
            except OverloadedError as error:
                return str(error)

        found = at_once(N_THREADS, add)
        assert found.count(True) == 3
        refusals = {each for each in found if each is not True}
        assert refusals == {
            "expected fewer than 3 jobs that wait, got 3; try again later, or cancel some"
        }
        assert other.jobs.counts()[JobState.QUEUED] == 3


def test_a_key_is_used_once_where_jobs_are_counted_too(database, new_record):
    for k in (1, 2):
        made = new_record(k, state=JobState.QUEUED, idempotency_key="k")
        assert database.jobs.insert(made, max_queued=5) is (k == 1)
    assert database.jobs.insert(new_record(3, state=JobState.QUEUED), max_queued=2)
    with pytest.raises(OverloadedError, match="fewer than 2 jobs that wait, got 2"):
        database.jobs.insert(new_record(4, state=JobState.QUEUED), max_queued=2)


def test_of_many_that_swap_at_once_one_wins(database_url, new_record):
    with open_database(database_url) as one, open_database(database_url) as other:
        replicas = [one.jobs, other.jobs]
        for k in range(5):
            old = new_record(k)
            one.jobs.insert(old)
            # Every thread has read the record before any of them changes it.
            new = [replace(old, revision=8, lease_holder=f"{t}") for t in range(N_THREADS)]
            won = at_once(N_THREADS, lambda t, old=old, new=new: replicas[t % 2].swap(old, new[t]))
            assert sum(won) == 1
            assert other.jobs.get(old.id).lease_holder == str(won.index(True))


def test_no_change_is_lost_when_many_make_one(database_url, new_record):
    def one_more(record):
        return replace(record, revision=record.revision + 1, attempt=record.attempt + 1)

    with open_database(database_url) as one, open_database(database_url) as other:
        one.jobs.insert(new_record(1, attempt=0))
        replicas = [one.jobs, other.jobs]
        at_once(N_THREADS, lambda k: [replicas[k % 2].change(f"{1:024x}", one_more) for _ in "ab"])
        assert one.jobs.get(f"{1:024x}").attempt == 2 * N_THREADS


def test_a_step_that_changes_nothing_writes_nothing(database, new_record):
    record = new_record(1)
    database.jobs.insert(record)
    assert database.jobs.change(record.id, lambda found: found) == record
    assert database.jobs.get(record.id).revision == record.revision
