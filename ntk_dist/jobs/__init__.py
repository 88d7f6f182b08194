"""The user's unit of work: a job file in, a fitted model in the workspace out.

:mod:`~ntk_dist.jobs.spec` is the one definition of a job file; :mod:`~ntk_dist.jobs.runner` runs
one; :mod:`~ntk_dist.jobs.progress` turns its events into a bar on a terminal or lines in a log,
:mod:`~ntk_dist.jobs.journal` keeps them in the workspace, :mod:`~ntk_dist.jobs.watch` reads them.

Jobs that somebody else runs: :mod:`~ntk_dist.jobs.queue` takes them, shows them, cancels and
resumes them; :mod:`~ntk_dist.jobs.lifecycle` decides how they come from one state to another.
"""

from ntk_dist.jobs.spec import JobSpec, load_job

__all__ = ["JobSpec", "load_job"]
