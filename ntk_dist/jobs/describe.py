"""Paths, plans and reports in words, with the same facts as plain records beside them."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ntk_dist.errors import (
    ArtifactError,
    DataError,
    MemoryBudgetError,
    UnreadableDataError,
)
from ntk_dist.gram.plan import GramPlan
from ntk_dist.gram.simulation import Simulation
from ntk_dist.jobs.runner import job_network, plan_job
from ntk_dist.jobs.spec import load_job
from ntk_dist.jobs.watch import latest
from ntk_dist.kernels.projection import Projection
from ntk_dist.model import FitReport, GramReport
from ntk_dist.model.artifact import read_record
from ntk_dist.model.load import find_model
from ntk_dist.settings import get_settings
from ntk_dist.solver.low_rank import affordable_rank, building_bytes
from ntk_dist.standing import Standing
from ntk_dist.stax import from_json
from ntk_dist.store.inputs import read_array
from ntk_dist.store.location import is_remote, open_place
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.workspace import Workspace, is_workspace
from ntk_dist.store.zarr import ZarrBlockStore, is_gram
from ntk_dist.units import format_bytes, format_count, format_seconds

__all__ = ["describe_gram", "describe_path", "describe_plan", "describe_simulation"]

Description = tuple[dict[str, Any], str]
"""Plain types for JSON, and the same for people."""


def describe_plan(plan: GramPlan, projection: Projection, free_bytes: int | None) -> Description:
    """A plan as a short table, with what its entries take on this machine."""
    free = "unknown: storage does not say" if free_bytes is None else format_bytes(free_bytes)
    grid = plan.grid
    dtype = np.dtype(f"f{plan.itemsize}")
    try:
        rank = affordable_rank(grid.n_rows, get_settings().preconditioner_max_bytes, dtype)
    except MemoryBudgetError:
        rank = 0
    driver_bytes = building_bytes(grid.n_rows, rank, dtype) if rank else 0
    rows = [
        ("Gram", f"{grid.n_rows:,} x {grid.n_cols:,} {', '.join(plan.kernels)}"),
        (
            "blocks",
            f"{grid.n_blocks:,} of {grid.block_rows} rows, {format_bytes(plan.block_bytes)} each",
        ),
        (
            "statistics",
            f"{grid.n_rows:,} rows of {format_bytes(plan.statistics_row_bytes)}, "
            f"{format_bytes(plan.statistics_bytes)}",
        ),
        (
            "missing",
            f"{len(plan.missing):,} blocks, statistics of {plan.missing_statistics:,} rows, "
            f"{format_bytes(plan.missing_bytes)}",
        ),
        *([("known", f"{len(plan.known):,} blocks, of fewer rows: copied")] if plan.known else []),
        ("stored in all", format_bytes(plan.gram_bytes + plan.statistics_bytes)),
        ("free in workspace", free),
        ("memory of a worker", format_bytes(plan.worker_bytes)),
        ("preconditioner", _automatic(rank, driver_bytes)),
        ("flops to do", f"{plan.missing_flops:.2e} ({plan.flops_per_pair:.2e} per entry)"),
        ("evaluation", projection.explanation),
        ("speed here", projection.rate),
    ]
    seconds = projection.seconds(plan.missing_entries, plan.missing_statistics)
    if seconds is not None:
        rows.append(("time here", f"about {format_seconds(seconds)}"))
    text = "\n".join(f"{name:<20}{value}" for name, value in rows)
    record = {
        **plan.to_dict(),
        "automatic_rank": rank,
        "preconditioner_bytes": driver_bytes,
        "free_bytes": free_bytes,
        "evaluation": projection.explanation,
    }
    return {**record, "entries_per_s": projection.entries_per_s, "seconds": seconds}, text


def _automatic(rank: int, driver_bytes: int) -> str:
    if not rank:
        return "no automatic rank for so few rows or so little memory"
    return f"rank {rank} by itself, {format_bytes(driver_bytes)} of the driver while it is built"


def describe_simulation(simulation: Simulation) -> Description:
    """A job on a cluster that is not there, phase by phase."""
    plan, cluster, work = simulation.plan, simulation.cluster, simulation.work
    grid = plan.grid
    facts = [
        (
            "simulated",
            f"{grid.n_rows:,} rows, {work.n_targets} targets, on {cluster.n_workers} workers "
            "as fast as this process",
        ),
        (
            "blocks",
            f"{grid.n_blocks:,} of {grid.block_rows} rows, {format_bytes(plan.block_bytes)} each, "
            f"{format_bytes(plan.gram_bytes)} in all",
        ),
        ("in the workspace", format_bytes(simulation.disk_bytes)),
        (
            "share of a worker",
            f"{format_bytes(simulation.share_bytes)}, of which {simulation.resident_share:.0%} "
            "stays in its memory",
        ),
        ("memory of a worker", format_bytes(simulation.worker_bytes)),
        (
            "memory of the driver",
            f"{format_bytes(simulation.driver_bytes)}, preconditioner of rank {work.rank}",
        ),
        (
            "measured here",
            f"{format_count(cluster.entries_per_s)} entries a second, products at "
            f"{format_bytes(cluster.product_rate)} of blocks a second, rows hashed at "
            f"{format_bytes(cluster.hash_rate)} a second",
        ),
        (
            "taken on trust",
            f"{format_bytes(cluster.read_rate)} a second between the workspace and a worker, "
            f"{format_bytes(cluster.link_rate)} between two machines",
        ),
    ]
    lines = [f"{name:<22}{value}" for name, value in facts]
    lines.append(f"{'':<22}{'time':>10}{'workspace':>13}{'network':>13}  most of the time")
    names = {"solve": f"solve, {work.steps} steps", "predict": f"predict, {work.predictions:,}"}
    phases = [
        f"{names.get(phase.name, phase.name):<22}{format_seconds(phase.seconds):>10}"
        f"{format_bytes(phase.stored_bytes):>13}{format_bytes(phase.sent_bytes):>13}  {phase.limit}"
        for phase in (*simulation.phases, simulation.product)
    ]
    total = f"{'in all':<22}{format_seconds(simulation.seconds):>10}"
    lines += [*phases[:-1], total, phases[-1]]
    return simulation.to_dict(), "\n".join(lines)


def describe_gram(report: GramReport) -> Description:
    """What computing a Gram matrix came to."""
    text = (
        f"Gram {report.key}: {report.n_blocks} blocks of {report.block_rows} rows, "
        f"{format_bytes(report.n_bytes)}; {report.n_computed} computed now, "
        f"{report.n_blocks - report.n_computed} were there"
    )
    return asdict(report), text


def describe_path(path: str) -> Description:
    """What ``path`` is: job file, architecture, model, Gram matrix, workspace or data.

    Raises
    ------
    UnreadableDataError
        Nothing known here is at ``path``.
    """
    if not is_remote(path):
        file = Path(path)
        if file.suffix in {".yaml", ".yml"}:
            return _job(file)
        if file.suffix == ".json":
            return _architecture(file)
    place = open_place(path)
    if is_gram(place):
        return _gram(place)
    if is_workspace(place):
        return _workspace(place)
    try:
        model = find_model(place)
    except ArtifactError:
        return _data(path)
    return _model(model)


def _job(path: Path) -> Description:
    job = load_job(path)
    network = job_network(job)
    ridges = job.solver.ridge if isinstance(job.solver.ridge, tuple) else (job.solver.ridge,)
    record = {"kind": "job", **job.model_dump(), "fingerprint": network.fingerprint}
    text = (
        f"job {job.name}: {job.task} on {job.data.x} with {job.executor}\n"
        f"architecture {network.fingerprint}: {network!r}\n"
        f"kernel {job.kernel}, {job.gram.dtype}, ridge {' or '.join(f'{r:g}' for r in ridges)}, "
        f"tol {job.solver.tol:g}\nworkspace {job.workspace}\n"
    )
    try:
        plan, projection, _ = plan_job(job)
    except DataError as error:
        # What the job says is worth reading before its data are there.
        return {**record, "evaluation": None, "problem": str(error)}, f"{text}data: {error}"
    seconds = projection.seconds(plan.missing_entries, plan.missing_statistics)
    time = "" if seconds is None else f", about {format_seconds(seconds)} here"
    text += (
        f"{projection}\n{plan.grid.n_rows:,} x {plan.grid.n_cols:,} entries in "
        f"{format_bytes(plan.gram_bytes)}; {len(plan.missing):,} of {plan.grid.n_blocks:,} blocks "
        f"to compute, {format_bytes(plan.worker_bytes)} of memory a worker{time}"
    )
    return {**record, "evaluation": {**projection.to_dict(), "seconds": seconds}}, text


def _architecture(path: Path) -> Description:
    network = from_json(path.read_text(encoding="utf-8"))
    record = {"kind": "architecture", "fingerprint": network.fingerprint, "repr": repr(network)}
    return record, f"architecture {network.fingerprint}: {network!r}"


def _model(place: AbstractPlace) -> Description:
    record = read_record(place)
    report = FitReport.from_dict(record["report"])
    rows = f"{report.n_rows} rows of shape {tuple(record['input_shape'])}"
    text = f"{record['estimator']} fitted on {rows}\n{report}"
    return {"kind": "model", "folder": str(place), **record}, text


def _gram(place: AbstractPlace) -> Description:
    store = ZarrBlockStore.open(place)
    manifest, present = store.manifest, store.present()
    record = {"kind": "gram", **manifest.to_dict(), "n_present": len(present)}
    text = (
        f"Gram {manifest.key}: {manifest.n_rows:,} x {manifest.n_cols:,} {manifest.dtype}, "
        f"{', '.join(manifest.kernels)}, {len(present)} of {manifest.grid.n_blocks} blocks of "
        f"{manifest.block_rows} rows"
    )
    return record, text


def _workspace(place: AbstractPlace) -> Description:
    workspace = Workspace(place, read_only=True)
    models = workspace.models()
    grams = [_gram(gram) for gram in workspace.grams()]
    jobs = {name: _standing(standing) for name, standing in latest(workspace.place).items()}
    lines = [f"workspace {place}"]
    lines += [f"  model {name}: versions {', '.join(map(str, v))}" for name, v in models.items()]
    lines += [f"  {text}" for _, text in grams]
    lines += [f"  job {name}: {text}" for name, (_, text) in jobs.items()]
    if n_states := len(workspace.solves.names()):
        lines.append(
            f"  {n_states} kept from unfinished solves, for the same fits to go on from; what none "
            f"will may be deleted from {workspace.solves}"
        )
    record = {
        "kind": "workspace",
        "models": {name: list(versions) for name, versions in models.items()},
        "grams": [record for record, _ in grams],
        "jobs": {name: record for name, (record, _) in jobs.items()},
        "unfinished_solves": n_states,
    }
    return record, "\n".join(lines)


def _standing(standing: Standing) -> Description:
    """Where a job stands, by its last word."""
    now = time.time()
    # As the list of jobs says it; "finished" is the word of a journal.
    told = "succeeded" if standing.state == "finished" else standing.state
    state = "silent" if standing.is_silent(now) else told
    derived = {
        "state": state,
        "rate": standing.rate,
        "eta_s": standing.eta_s(now),
        "residual": standing.residual,
        "driver_bytes": standing.driver_bytes,
        "resident_bytes": standing.resident_bytes,
    }
    heads = {"running": f"running: {standing.label}", "failed": f"failed: {standing.text}"}
    if standing.updated is not None and state != "running":
        moment = datetime.fromtimestamp(standing.updated, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        heads["silent"] = (
            f"no word since {moment}: killed, or not seen from here; in {standing.label}"
        )
        for ended in ("succeeded", "interrupted"):
            heads[ended] = f"{ended} {moment}"
    parts = [heads.get(state, state), standing.note(now)]
    if state != "succeeded":
        parts.append(standing.memory_in_words())
    parts.append(standing.troubles())
    return {**standing.to_dict(), **derived}, "; ".join(part for part in parts if part)


def _data(path: str) -> Description:
    array = read_array(path)
    if array.size == 0:
        raise UnreadableDataError(f"{path}: expected some data, got shape {array.shape}")
    record = {"kind": "data", "shape": list(array.shape), "dtype": str(array.dtype)}
    return record, f"data {path}: shape {array.shape}, {array.dtype}"
