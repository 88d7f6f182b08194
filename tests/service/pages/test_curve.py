"""The residual curve, where events come late, break off or do not come at all."""

import threading
from contextlib import contextmanager

import pytest

from ntk_dist.events import JobEvent, PhaseEvent, StepEvent
from ntk_dist.jobs import JobSpec
from ntk_dist.jobs.journal import Journal
from ntk_dist.jobs.parts import parts_of
from ntk_dist.service.app import create_app
from ntk_dist.service.event_stream import EventStreams
from ntk_dist.service.service import ServiceConfig
from ntk_dist.wire import JobState


class Solver:
    """A job in its solver, which makes the steps that a test wants."""

    def __init__(self, service, journal, job_id):
        self.job_id = job_id
        self._service = service
        self._journal = journal
        self._cut = threading.Event()
        self.let_events_come(True)

    def step(self, number):
        self._journal(StepEvent(step=number, residuals=(0.5**number, 0.25**number), tol=1e-6))

    def let_events_come(self, may):
        """Streams that are open end; more are allowed, or as many as may be are open already."""
        self._cut.set()
        self._cut = cut = threading.Event()
        self._service.event_streams = EventStreams(
            self._service.queue,
            lambda: cut.is_set() or self._service.is_stopping,
            max_streams=9 if may else 0,
        )


@pytest.fixture
def solver(tmp_path, pretended_drivers, serve_here, wait_for):
    """The address of its page, and what has it make steps."""
    workspace = tmp_path / "ws"
    app = create_app(ServiceConfig(workspace=str(workspace), is_open=True))
    service = app.state.service
    data = {"x": "/data/x.npy", "y": "/data/y.npy"}
    spec = JobSpec(name="waves", task="regression", data=data, architecture=[["Dense", 1]])
    with serve_here(workspace, app=app) as url:
        job, _ = service.queue.submit(spec)
        service.supervisor.wake()
        wait_for(lambda: service.queue.get(job.id).state is JobState.RUNNING)
        run = service.place / "jobs" / job.name / service.database.jobs.get(job.id).run
        with Journal(parts_of(run)) as journal:
            journal(JobEvent(state="started", job=job.name))
            journal(PhaseEvent(phase="solve", state="started"))
            yield f"{url}/jobs/{job.id}", Solver(service, journal, job.id)


@pytest.fixture
def look(browser):
    """A function that opens a page whose requests may be refused, but nothing else go wrong."""

    @contextmanager
    def look(url):
        page = browser.open(url)
        page.wait("!document.querySelector('[aria-busy]')")
        yield page
        assert {one.get("source") for one in page.mistakes()} <= {"network"}
        page.close()

    return look


ENDS = (
    "[...document.querySelectorAll('#residual text')].slice(-3, -1).map(each => each.textContent)"
)


def ends_of_curve(page, n_points):
    """The steps at its ends, once it has so many points."""
    page.call("Page.bringToFront")  # one that is behind another asks for nothing
    page.wait(f"document.querySelector('.curve')?.points.length === {n_points}")
    return page.run(ENDS)


def test_the_curve_goes_on_without_events_and_is_whole_when_they_come_back(solver, look, wait_for):
    url, job = solver
    with look(url) as page:
        for number in (1, 2, 3):
            job.step(number)
        assert ends_of_curve(page, 3) == ["step 1", "3"]

        def streams_asked_for():
            return sum(request["url"].endswith("/events") for request in page.asked())

        assert streams_asked_for() == 1
        job.let_events_come(False)
        wait_for(lambda: streams_asked_for() > 1)
        for number in range(4, 10):
            job.step(number)
        # The job itself says where it is, and not how it came there.
        assert ends_of_curve(page, 4) == ["step 1", "9"]
        with look(url) as late:  # which never had an event
            late.wait("document.querySelector('.dot')")
            job.step(12)
            assert ends_of_curve(late, 2) == ["step 9", "12"]
            assert ends_of_curve(page, 5) == ["step 1", "12"]

            job.let_events_come(True)
            assert ends_of_curve(page, 10) == ["step 1", "12"]
            assert ends_of_curve(late, 10) == ["step 1", "12"]
        assert page.run("document.querySelector('#notice').hidden")
