"""Commands that do their work in this process."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ntk_dist.cli.options import (
    MANY,
    NOT_CONVERGED,
    OK,
    as_size,
    executor_option,
    job_argument,
    json_option,
    open_job,
    show,
    workspace_option,
)
from ntk_dist.errors import InvalidInputError
from ntk_dist.screen import standard_error

__all__ = ["COMMANDS"]


@click.command()
@job_argument
@executor_option
@workspace_option
@click.option("--run", metavar="RUN", hidden=True)  # by whoever starts drivers
@json_option
def fit(
    job: str, executor: str | None, workspace: str | None, run: str | None, as_json: bool
) -> int:
    """Fit the model of a job file and publish it in the workspace.

    Run it again after an interruption: finished blocks are found and used.
    """
    from ntk_dist.jobs.progress import ProgressDisplay
    from ntk_dist.jobs.runner import run_job

    spec = open_job(job, executor=executor, workspace=workspace)
    with ProgressDisplay(standard_error()) as display:
        result = run_job(spec, on_event=display, run=run)
    score = f"\nscore on the test data: {result.score:.4f}" if result.score is not None else ""
    text = f"{result.report}{score}\nmodel {result.name} version {result.version}: {result.model}"
    show(result.to_dict(), text, as_json)
    return OK if result.report.solve.status.is_success else NOT_CONVERGED


@click.command()
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
    with programs_kept_in(user_cache()), ProgressDisplay(standard_error()) as display:
        if not scores:
            y = fitted.predict(x, on_event=display)
        elif isinstance(fitted, NTKClassifier):
            y = fitted.decision_function(x, on_event=display)
        else:
            raise InvalidInputError("--scores: expected a classifier, got a regressor")
    write_array(output, y)
    show({"output": output, "shape": list(y.shape)}, f"{len(y)} predictions in {output}", as_json)
    return OK


@click.command()
@job_argument
@click.option("--plan", is_flag=True, help="Say what there is to do, and do nothing.")
@click.option("--workers", type=MANY, help="With --plan: what it takes on so many workers.")
@click.option("--n", "n_rows", type=MANY, help="With --workers: if there were so many rows.")
@click.option("--targets", type=MANY, help="With --workers: right-hand sides [10].")
@click.option("--steps", type=MANY, help="With --workers: of the solver [100].")
@click.option("--predictions", type=MANY, help="With --workers: new rows [10000].")
@click.option(
    "--worker-memory",
    callback=as_size,
    metavar="SIZE",
    help="With --workers: blocks a worker keeps [2GiB].",
)
@click.option(
    "--read-rate",
    callback=as_size,
    metavar="SIZE",
    help="With --workers: workspace, per second [1GB].",
)
@click.option(
    "--link-rate",
    callback=as_size,
    metavar="SIZE",
    help="With --workers: network, per second [1.25GB].",
)
@executor_option
@workspace_option
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
    spec = open_job(job, executor=executor, workspace=workspace)
    if given:
        from ntk_dist.jobs.simulate import Scale, simulate_job

        show(*describe_simulation(simulate_job(spec, Scale(**given))), as_json)
        return OK
    if plan:
        show(*describe_plan(*plan_job(spec)), as_json)
        return OK
    with ProgressDisplay(standard_error()) as display:
        report = compute_job_gram(spec, on_event=display)
    show(*describe_gram(report), as_json)
    return OK


@click.command()
@click.argument("path")
@json_option
def info(path: str, as_json: bool) -> int:
    """Say what a job file, architecture, model, Gram matrix, workspace or data file is."""
    from ntk_dist.jobs.describe import describe_path

    show(*describe_path(path), as_json)
    return OK


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say which devices, executors and libraries were found, and what is missing."""
    from ntk_dist.jobs.doctor import examine

    show(*examine(), as_json)
    return OK


@click.command()
@click.option("--out", default="demo", metavar="DIR", help="Where the picture and workspace go.")
def demo(out: str) -> int:
    """Fit handwritten digits with two infinitely wide networks, and draw the result."""
    from ntk_dist.jobs.demo import run_demo

    return run_demo(Path(out), Console())


COMMANDS = (fit, predict, gram, info, doctor, demo)
