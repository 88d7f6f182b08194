"""The command line.

Exit codes: 0 done, 2 bad input, 3 did not converge (a model that missed its tolerance is kept, and
the report says how far) or the matrix is unsound (there is no model), 4 engine or store
unreachable, 130 interrupted (run the same command again to go on), 1 a defect of ours. With
``--json`` the result, or the error, is one JSON object on standard output.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import traceback
import uuid
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console

from ntk_dist._version import __version__
from ntk_dist.errors import InvalidInputError, NTKDistError
from ntk_dist.settings import get_settings
from ntk_dist.units import parse_bytes

__all__ = ["main", "run"]

OK, DEFECT, BAD_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130


def _size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Bytes, as people write them."""
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


COUNT = click.IntRange(min=1)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output."
)
executor_option = click.option(
    "--executor", metavar="WHO", help="local, dask, dask://HOST:PORT, ray or ray://HOST:PORT."
)


def main() -> NoReturn:
    """Entry point of the ``ntk-dist`` command."""
    # A polite kill is an interruption, so that workers are stopped and temporary files go.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong ends as one line."""
    as_json = "--json" in arguments
    try:
        _log_to_screen(get_settings().log_level.upper())
        code = cli.main(arguments, prog_name="ntk-dist", standalone_mode=False)
    except click.ClickException as error:
        return _fail("usage", error.format_message(), BAD_INPUT, as_json)
    except (KeyboardInterrupt, click.Abort):
        message = "interrupted; finished blocks are kept: run the same command again to go on"
        return _fail("interrupted", message, INTERRUPTED, as_json)
    except NTKDistError as error:
        return _fail(error.code, str(error), error.exit_code, as_json)
    except Exception as error:
        return _fail("defect", _explain_defect(error), DEFECT, as_json)
    return int(code or OK)


def _log_to_screen(level: str) -> None:
    """Show this package's own log; the engines' would bury the one line that matters."""
    handler = _ScreenHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("ntk_dist")
    logger.handlers = [handler]
    logger.setLevel(level)
    # Kernels tell, once per machine, of a compilation that people wait many seconds for.
    shown = logging.INFO if logger.level == logging.WARNING else logger.level
    logging.getLogger("ntk_dist.kernels").setLevel(shown)


class _ScreenHandler(logging.Handler):
    """Writes to what is standard error now: a bar that is shown takes its place, and gives way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        click.echo(self.format(record), err=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(code: str, message: str, exit_code: int, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": message}}))
    else:
        click.echo(f"error: {message}", err=True)
    return exit_code


def _explain_defect(error: Exception) -> str:
    """One line for the screen, with the place of the traceback."""
    path = Path(tempfile.gettempdir()) / f"ntk-dist-{uuid.uuid4().hex[:8]}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"unexpected {type(error).__name__}; this is a defect of ntk_dist, details in {path}"


def _show(result: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(result) if as_json else text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ntk-dist")
def cli() -> None:
    """Exact kernel regression with infinitely wide neural networks."""


@cli.command()
@click.argument("job", type=click.Path(dir_okay=False))
@executor_option
@click.option("--workspace", metavar="DIR", help="Instead of the job file's.")
@json_option
def fit(job: str, executor: str | None, workspace: str | None, as_json: bool) -> int:
    """Fit the model of a job file and publish it in the workspace.

    Run it again after an interruption: finished blocks are found and used.
    """
    from sklearn.exceptions import ConvergenceWarning

    from ntk_dist.jobs.progress import ProgressDisplay
    from ntk_dist.jobs.runner import run_job

    spec = _job(job, executor=executor, workspace=workspace)
    with ProgressDisplay(Console(stderr=True)) as display, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the report and exit code say it
        result = run_job(spec, on_event=display)
    score = f"\nscore on the test data: {result.score:.4f}" if result.score is not None else ""
    text = f"{result.report}{score}\nmodel {result.name} version {result.version}: {result.model}"
    _show(result.to_dict(), text, as_json)
    return OK if result.report.solve.status.is_success else NOT_CONVERGED


@cli.command()
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@click.option("-o", "--output", required=True, metavar="OUT", help=".npy, .npz, .csv or .parquet")
@click.option("--scores", is_flag=True, help="Class values instead of labels.")
@executor_option
@json_option
def predict(
    model: str, inputs: str, output: str, scores: bool, executor: str | None, as_json: bool
) -> int:
    """Predict INPUT (PATH, or PATH:array) with the MODEL in a folder."""
    from ntk_dist.jobs.progress import ProgressDisplay
    from ntk_dist.kernels.cache import programs_kept_in, user_cache
    from ntk_dist.model import NTKClassifier
    from ntk_dist.model.load import find_model, load_model
    from ntk_dist.store.inputs import check_output, read_array, write_array

    check_output(output)
    fitted = load_model(find_model(model), executor=executor or "local")
    x = read_array(inputs)
    with programs_kept_in(user_cache()), ProgressDisplay(Console(stderr=True)) as display:
        if not scores:
            y = fitted.predict(x, on_event=display)
        elif isinstance(fitted, NTKClassifier):
            y = fitted.decision_function(x, on_event=display)
        else:
            raise InvalidInputError("--scores: expected a classifier, got a regressor")
    write_array(output, y)
    _show({"output": output, "shape": list(y.shape)}, f"{len(y)} predictions in {output}", as_json)
    return OK


@cli.command()
@click.argument("job", type=click.Path(dir_okay=False))
@click.option("--plan", is_flag=True, help="Say what there is to do, and do nothing.")
@click.option("--workers", type=COUNT, help="With --plan: what it takes on so many workers.")
@click.option("--n", "n_rows", type=COUNT, help="With --workers: if there were so many rows.")
@click.option("--targets", type=COUNT, help="With --workers: right-hand sides [10].")
@click.option("--steps", type=COUNT, help="With --workers: of the solver [100].")
@click.option("--predictions", type=COUNT, help="With --workers: new rows [10000].")
@click.option(
    "--worker-memory",
    callback=_size,
    metavar="SIZE",
    help="With --workers: blocks a worker keeps [2GiB].",
)
@click.option(
    "--read-rate",
    callback=_size,
    metavar="SIZE",
    help="With --workers: workspace, per second [1GB].",
)
@click.option(
    "--link-rate",
    callback=_size,
    metavar="SIZE",
    help="With --workers: network, per second [1.25GB].",
)
@executor_option
@click.option("--workspace", metavar="DIR", help="Instead of the job file's.")
@json_option
def gram(
    job: str,
    plan: bool,
    executor: str | None,
    workspace: str | None,
    as_json: bool,
    **scale: int | None,
) -> int:
    """Compute the Gram matrix of a job file, or only plan it."""
    from ntk_dist.jobs.describe import describe_gram, describe_plan, describe_simulation
    from ntk_dist.jobs.progress import ProgressDisplay
    from ntk_dist.jobs.runner import compute_job_gram, plan_job

    given = {name: value for name, value in scale.items() if value is not None}
    if given and not (plan and "workers" in given):
        option = next(iter(given)).replace("n_rows", "n").replace("_", "-")
        raise click.UsageError(f"--{option}: expected --plan and --workers with it")
    spec = _job(job, executor=executor, workspace=workspace)
    if given:
        from ntk_dist.jobs.simulate import Scale, simulate_job

        _show(*describe_simulation(simulate_job(spec, Scale(**given))), as_json)
        return OK
    if plan:
        _show(*describe_plan(*plan_job(spec)), as_json)
        return OK
    with ProgressDisplay(Console(stderr=True)) as display:
        report = compute_job_gram(spec, on_event=display)
    _show(*describe_gram(report), as_json)
    return OK


@cli.command()
@click.argument("path")
@json_option
def info(path: str, as_json: bool) -> int:
    """Say what a job file, architecture, model, Gram matrix, workspace or data file is."""
    from ntk_dist.jobs.describe import describe_path

    _show(*describe_path(path), as_json)
    return OK


@cli.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say which devices, executors and libraries were found, and what is missing."""
    from ntk_dist.jobs.doctor import examine

    _show(*examine(), as_json)
    return OK


@cli.command()
@click.option("--out", default="demo", metavar="DIR", help="Where the picture and workspace go.")
def demo(out: str) -> int:
    """Fit handwritten digits with two infinitely wide networks, and draw the result."""
    from ntk_dist.jobs.demo import run_demo

    return run_demo(Path(out), Console())


def _job(path: str, **overrides: str | None) -> Any:
    from ntk_dist.jobs.spec import load_job

    spec = load_job(path)
    return spec.model_copy(update={k: v for k, v in overrides.items() if v is not None})
