"""The command line.

:mod:`~ntk_dist.cli.entry` is the ``ntk-dist`` command and turns whatever goes wrong into one line;
:mod:`~ntk_dist.cli.here` has the commands that work in this process, :mod:`~ntk_dist.cli.jobs`
those about jobs that run elsewhere, :mod:`~ntk_dist.cli.service` those that run the service and
make its tokens, :mod:`~ntk_dist.cli.options` what commands share. A command imports what it needs
when it runs, so that ``ntk-dist --help`` loads no jax.

Exit codes: 0 done, 2 bad input, 3 did not converge (a model that missed its tolerance is kept, and
the report says how far) or the matrix is unsound (there is no model), 4 engine, store or service
unreachable, 130 interrupted (run the same command again to go on), 1 a job that came to nothing, or
a defect of ours. With ``--json`` the result, or the error, is one JSON document on standard output:
lists of jobs or tokens are arrays, all else is an object.
"""

from ntk_dist.cli.entry import main, run

__all__ = ["main", "run"]
