"""The user's unit of work: a job file in, a fitted model in the workspace out.

:mod:`~ntk_dist.jobs.spec` is the one definition of a job file; :mod:`~ntk_dist.jobs.runner` runs
one; :mod:`~ntk_dist.jobs.progress` turns its events into a bar on a terminal or lines in a log,
:mod:`~ntk_dist.jobs.journal` keeps them in the workspace, in :mod:`~ntk_dist.jobs.parts`, and
:mod:`~ntk_dist.jobs.watch` reads them.

Jobs that somebody else runs: :mod:`~ntk_dist.jobs.queue` takes them, shows them, cancels and
resumes them; :mod:`~ntk_dist.jobs.lifecycle` decides how they come from one state to another, and
:mod:`~ntk_dist.jobs.view` what a caller is shown of them.
:mod:`~ntk_dist.jobs.supervisor` starts their drivers and sees what becomes of them, by
:mod:`~ntk_dist.jobs.launch` as processes or by :mod:`~ntk_dist.jobs.ray_jobs` on a Ray cluster;
:mod:`~ntk_dist.jobs.outcome` is what a driver writes down at its end. How far many of them are is
the matter of :mod:`~ntk_dist.jobs.standings`, which of their blocks are stored that of
:mod:`~ntk_dist.jobs.gram_map`. Where no service runs, :mod:`~ntk_dist.jobs.desk` does what one
would.

Before there is a job: :mod:`~ntk_dist.jobs.doctor` tells what this machine offers,
:mod:`~ntk_dist.jobs.simulate` what a job would take on a cluster that is not there, and
:mod:`~ntk_dist.jobs.demo` runs one on data that is already here. :mod:`~ntk_dist.jobs.describe`
puts paths, plans and reports into words.
"""

from ntk_dist.jobs.spec import JobSpec, load_job

__all__ = ["JobSpec", "load_job"]
