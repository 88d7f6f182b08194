"""How a job comes from one state to another: every state against everything that can happen."""

import math
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.database import JobRecord
from ntk_dist.errors import ConflictError
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.journal import runs_of
from ntk_dist.jobs.lifecycle import Observation, Outcome
from ntk_dist.jobs.view import view_job
from ntk_dist.standing import SILENT_S, Standing
from ntk_dist.store.location import open_place
from ntk_dist.wire import Failure, Job, JobState, Progress, of_json, to_json

START = datetime(2026, 1, 31, 12, 0, 0, 250001, tzinfo=UTC)
LEASE_S = 60.0
MAX_RESUMES = 2
FAILURE = Failure(code="breakdown", message="the Gram matrix is indefinite")
SUCCEEDED = Outcome(state="succeeded", version=3, score=0.9, report={"steps": 12})
FAILED = Outcome(state="failed", failure=FAILURE)
INTERRUPTED = Outcome(state="interrupted", failure=Failure(code="interrupted", message="signal"))


def later(record, seconds=1.0):
    return record.updated + timedelta(seconds=seconds)


def seen(record, driver, outcome=None, *, silent_s=0.0):
    now = later(record, 2 * SILENT_S)
    heard = now - timedelta(seconds=silent_s)
    return lifecycle.observe(record, Observation(driver=driver, outcome=outcome, heard=heard), now)


HAPPENINGS = {
    "claim": lambda r: lifecycle.claim(r, "here", later(r), LEASE_S),
    "launched": lambda r: lifecycle.launched(r, {"pid": 17}, later(r)),
    "not_launched": lambda r: lifecycle.not_launched(r, FAILURE, later(r)),
    "give_back": lambda r: lifecycle.give_back(r, later(r)),
    "renew": lambda r: lifecycle.renew(r, "here", later(r), LEASE_S),
    "cancel": lambda r: lifecycle.cancel(r, later(r)),
    "resume": lambda r: lifecycle.resume(r, later(r)),
    "requeue": lambda r: lifecycle.requeue(r, later(r), MAX_RESUMES),
    "succeeded": lambda r: seen(r, "gone", SUCCEEDED),
    "failed": lambda r: seen(r, "alive", FAILED),
    "interrupted": lambda r: seen(r, "gone", INTERRUPTED),
    "pending": lambda r: seen(r, "pending", silent_s=2 * SILENT_S),
    "alive": lambda r: seen(r, "alive", silent_s=2 * SILENT_S),
    "heard": lambda r: seen(r, "unknown", silent_s=SILENT_S - 1),
    "silent": lambda r: seen(r, "unknown", silent_s=SILENT_S + 1),
    "gone": lambda r: seen(r, "gone"),
}

# "=" is the same record again, "!" a conflict; "ending" is a running job that was cancelled.
TABLE = """
              queued     running    ending     succeeded  failed     cancelled  lost
claim         running    !          !          !          !          !          !
launched      !          running    ending     !          !          !          !
not_launched  !          failed     failed     !          !          !          !
give_back     !          queued     cancelled  !          !          !          !
renew         !          running    ending     !          !          !          !
cancel        cancelled  ending     =          !          !          =          cancelled
resume        =          !          !          !          queued     queued     queued
requeue       =          =          =          =          =          =          queued
succeeded     =          succeeded  succeeded  =          =          =          succeeded
failed        =          failed     failed     =          =          =          failed
interrupted   =          lost       cancelled  =          =          =          =
pending       =          =          =          =          =          =          =
alive         =          =          =          =          =          =          =
heard         =          =          =          =          =          =          =
silent        =          lost       cancelled  =          =          =          =
gone          =          lost       cancelled  =          =          =          =
"""


def table():
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (row[0], state, told) for row in rows for state, told in zip(head, row[1:], strict=True)
    ]


def new_job():
    return lifecycle.new_job(
        name="waves", spec={"executor": "dask"}, launcher="process", now=START, key="k"
    )


def after(*names):
    record = new_job()
    for name in names:
        record = HAPPENINGS[name](record)
    return record


WAYS = {
    "queued": (),
    "running": ("claim", "launched"),
    "ending": ("claim", "launched", "cancel"),
    "succeeded": ("claim", "launched", "succeeded"),
    "failed": ("claim", "launched", "failed"),
    "cancelled": ("cancel",),
    "lost": ("claim", "launched", "gone"),
}


def state_of(record):
    return "ending" if record.is_cancelling else str(record.state)


@pytest.mark.parametrize(("happening", "state", "told"), table())
def test_the_table(happening, state, told):
    record = after(*WAYS[state])
    assert state_of(record) == state
    if told == "!":
        with pytest.raises(ConflictError, match=f"job {record.id} cannot be .*: expected it "):
            HAPPENINGS[happening](record)
        return
    found = HAPPENINGS[happening](record)
    if told == "=":
        assert found is record
    else:
        assert state_of(found) == told
        assert found.revision == record.revision + 1


def test_the_table_is_whole():
    assert {happening for happening, _, _ in table()} == set(HAPPENINGS)
    assert {state for _, state, _ in table()} == set(WAYS)
    assert {state for _, state, _ in table()} - {"ending"} == {str(state) for state in JobState}


KEPT = ("id", "name", "spec", "owner", "idempotency_key", "body_sha256", "launcher", "created")


def check(record: JobRecord):
    running = record.state is JobState.RUNNING
    assert (record.finished is not None) == record.state.is_over
    assert (record.lease_holder is not None) == (record.lease_until is not None) == running
    assert running or not record.is_cancelling
    assert (record.failure is not None) == (record.state in {JobState.FAILED, JobState.LOST})
    assert (record.model_version is not None) == (record.state is JobState.SUCCEEDED)
    assert (record.run is None) == (record.started is None) == (record.attempt == 0)
    assert record.resumes <= MAX_RESUMES
    assert record.attempt <= record.revision


@given(st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=40))
def test_whatever_happens_in_whatever_order_the_record_makes_sense(names):
    record = new_job()
    check(record)
    for name in names:
        try:
            found = HAPPENINGS[name](record)
        except ConflictError:
            continue
        check(found)
        assert found is record or found.revision == record.revision + 1
        assert found.attempt - record.attempt == (name == "claim")
        assert record.state is not JobState.SUCCEEDED or found is record
        assert [getattr(found, key) for key in KEPT] == [getattr(record, key) for key in KEPT]
        told = view_job(found, None, later(found))
        assert of_json(Job, to_json(told)) == told
        record = found


def test_ids_ascend_with_time_and_differ():
    moments = [START + timedelta(milliseconds=k) for k in (0, 1, 1000, 10**9, 10**11)]
    ids = [
        lifecycle.new_job(name="waves", spec={}, launcher="ray", now=moment).id
        for moment in moments
    ]
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {24}
    assert new_job().id != new_job().id


def test_a_run_is_named_as_the_journal_names_them(tmp_path):
    workspace = open_place(tmp_path)
    names = [after("claim").run, lifecycle.run_name(START + timedelta(hours=9), "0" * 24)]
    for name in names:
        (workspace / "jobs" / "waves" / name).make()
    assert [run.name for run in runs_of(workspace)["waves"]] == names


def test_a_claim_forgets_the_attempt_before():
    record = after("claim", "launched", "gone", "requeue", "claim")
    assert (record.attempt, record.resumes, record.handle) == (2, 1, {})
    assert record.run != after("claim").run
    assert record.started == record.updated


def test_a_job_is_queued_by_itself_so_often_in_a_row_until_somebody_resumes_it():
    record, lose = new_job(), ("claim", "launched", "gone", "requeue")
    for resumes in (1, 2):
        for name in lose:
            record = HAPPENINGS[name](record)
        assert (record.state, record.resumes) == (JobState.QUEUED, resumes)
    for name in lose:
        record = HAPPENINGS[name](record)
    assert (record.state, record.resumes) == (JobState.LOST, MAX_RESUMES)
    assert HAPPENINGS["resume"](record).resumes == 0


def test_a_lease_is_kept_until_it_runs_out_or_is_renewed():
    record = after("claim")
    held = record.lease_until - timedelta(seconds=1)
    with pytest.raises(ConflictError, match="expected nobody else to look after it, got here"):
        lifecycle.renew(record, "there", held, LEASE_S)
    renewed = lifecycle.renew(record, "here", held, LEASE_S)
    assert renewed.lease_until == held + timedelta(seconds=LEASE_S)
    assert renewed.updated == record.updated  # nothing happened to the job
    taken = lifecycle.renew(renewed, "there", renewed.lease_until, LEASE_S)
    assert taken.lease_holder == "there"


def test_a_job_that_was_never_heard_of_is_silent_since_it_was_claimed():
    record = after("claim")
    unknown = Observation(driver="unknown")
    for seconds, state in ((SILENT_S, JobState.RUNNING), (SILENT_S + 1, JobState.LOST)):
        now = record.started + timedelta(seconds=seconds)
        assert lifecycle.observe(record, unknown, now).state is state


def test_the_reason_is_told():
    gone, interrupted = after("claim", "gone"), after("claim", "interrupted")
    assert gone.failure.code == interrupted.failure.code == "job_lost"
    assert "its driver is gone without a word; its log may say more" in gone.failure.message
    assert f"ntk-dist jobs {gone.id} --logs): resume the job" in gone.failure.message
    assert "its driver was interrupted; " in interrupted.failure.message
    assert after("claim", "failed").failure == FAILURE
    assert after("claim", "not_launched").failure == FAILURE
    with pytest.raises(ConflictError, match="expected it cancelled or failed or lost, got running"):
        HAPPENINGS["resume"](after("claim"))


def test_late_news_of_a_lost_job_count():
    record = after("claim", "launched", "gone", "succeeded")
    assert record.state is JobState.SUCCEEDED
    assert (record.model_version, record.score, record.report) == (3, 0.9, {"steps": 12})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"state": "succeeded", "version": 3, "score": 0.9, "report": {"steps": 12}, "new": 1},
            SUCCEEDED,
        ),
        ({"state": "succeeded", "version": 1, "score": math.nan}, None),
        (
            {"state": "failed", "code": FAILURE.code, "message": FAILURE.message},
            FAILED,
        ),
    ],
)
def test_an_outcome_is_read_from_its_record(record, expected):
    expected = expected or Outcome(state="succeeded", version=1, report={})
    assert Outcome.of(record) == expected


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        None,
        "failed",
        {"state": "running", "code": "c", "message": "m"},
        {"state": "failed", "code": "c"},
        {"state": "succeeded"},
        {"state": "succeeded", "version": None},
        {"state": "succeeded", "version": "one"},
        {"state": "succeeded", "version": 1, "score": "good"},
        {"state": "succeeded", "version": 1, "report": 3},
    ],
)
def test_what_is_no_outcome_is_refused(record):
    with pytest.raises(ValueError, match="expected"):
        Outcome.of(record)


def test_a_view_shows_what_the_journal_adds_up_to():
    record = after("claim", "launched")
    standing = Standing(
        job="waves",
        started=START.timestamp(),
        updated=START.timestamp() + 5,
        phase="solve",
        step=7,
        residuals=(1e-3, 1e-2),
        tol=1e-6,
        memory={"driver": 5, "(0, 0)": 3},
        seconds={"gram": 1.5},
        retries=2,
    )
    job = view_job(record, standing, START + timedelta(seconds=6))
    assert {f.name for f in fields(Progress)} == set(vars(job.progress))
    assert job.progress == Progress(
        phase="solve",
        label="solving",
        note="step 7, residual 1e-02 of 1e-06",
        step=7,
        residual=1e-2,
        tol=1e-6,
        driver_bytes=5,
        resident_bytes=3,
        retries=2,
        seconds={"gram": 1.5},
        updated=START + timedelta(seconds=5),
    )
    assert (job.executor, job.is_resumable, job.attempt) == ("dask", False, 1)
    assert view_job(after("claim", "gone"), None, START).is_resumable
    broken = replace(standing, residuals=(1.0, math.nan))
    assert view_job(record, broken, START).progress.residual is None  # JSON has no NaN


@pytest.mark.parametrize(
    ("executor", "usual", "is_warned"),
    [
        ("local", "dask://host:8786", True),
        ("local:2", "ray", True),
        ("dask://host:8786", "ray", False),
        ("ray", "ray", False),
        ("local", "local:1", False),
        ("dask", "local", False),
    ],
)
def test_a_job_that_leaves_workers_idle_is_warned(executor, usual, is_warned):
    record = lifecycle.new_job(
        name="waves", spec={"executor": executor}, launcher="process", now=START
    )
    warnings = view_job(record, None, START, usual).warnings
    assert len(warnings) == is_warned
    for text in warnings:
        assert text.startswith(f"executor {executor}: ")
        assert f"the workers of {usual} have nothing to do: leave executor out" in text
