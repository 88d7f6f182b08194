"""From the stored blocks of a Gram matrix to dual coefficients: the driver's side of the solve."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntk_dist._version import __version__
from ntk_dist.events import Phases
from ntk_dist.executors import RetryPolicy
from ntk_dist.gram.plan import assign_blocks
from ntk_dist.model.gram import Resources
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.ridge import RidgeChoice, choose_ridge
from ntk_dist.settings import Settings, available_memory
from ntk_dist.shards import RecomputedShardFactory, ShardFactory
from ntk_dist.solver import (
    MOST_ROUNDS,
    AbstractOperator,
    AbstractPreconditioner,
    IdentityPreconditioner,
    JacobiPreconditioner,
    RidgedOperator,
    RidgeScore,
    ScaledOperator,
    Solution,
    StoredGramOperator,
    require_dense_room,
    require_room_to_choose,
    solve,
    solve_direct,
    solve_refined,
)
from ntk_dist.solver.low_rank import affordable_rank, building_bytes, require_room
from ntk_dist.solver.preconditioners import LOW_RANK_PRECONDITIONERS
from ntk_dist.solver.symmetric import dense_bytes
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.dataset import fingerprint

__all__ = [
    "DualSystem",
    "Solved",
    "driver_bytes",
    "precision_warnings",
    "require_room_to_solve",
    "solve_dual",
]

log = logging.getLogger(__name__)

SOLVE_PARAMETERS = ("tol", "max_steps", "random_state", "refine", "dtype")
"""Parameters that the state of a solve depends on, besides what it can be told by."""


@dataclass(frozen=True)
class DualSystem:
    """(D K D + ridge I) D^-1 A = D Y for the distinct rows, with D the square roots of counts."""

    factory: ShardFactory
    """Makes the objects that own the blocks of K."""
    targets: np.ndarray
    """Y: the mean target of every distinct row, shape ``(n_unique, n_targets)``."""
    counts: np.ndarray
    """How often each row occurs, shape ``(n_unique,)``."""
    start: np.ndarray | None = None
    """Coefficients A of an earlier fit to start from, of the shape of Y."""

    @property
    def n_rows(self) -> int:
        """Distinct rows."""
        return len(self.targets)

    @property
    def scale(self) -> np.ndarray:
        """D, as a column."""
        root: np.ndarray = np.sqrt(self.counts)[:, None]
        return root

    def scaled(self, operator: AbstractOperator) -> AbstractOperator:
        """D K D, of an operator that is K."""
        return ScaledOperator(operator, self.scale[:, 0]) if self.counts.max() > 1 else operator


@dataclass(frozen=True)
class Solved:
    """What came of a system."""

    solution: Solution
    """With the coefficients A."""
    scores: tuple[RidgeScore, ...]
    """How the ridges did, where there were several to choose from."""
    checkpoints: tuple[Checkpoint, ...]
    """Where the same fit would go on from: for its caller to delete when the answer is safe."""


def solve_dual(
    system: DualSystem, parameters: Parameters, rank: int, resources: Resources, phases: Phases
) -> Solved:
    """The dual coefficients A, from blocks that stay with the workers that own them.

    Parameters
    ----------
    system
        What to solve.
    parameters
        How.
    rank
        Of the preconditioner, see ``require_room_to_solve``.
    resources
        Who computes, within which limits, and where the state of the solve is kept.
    phases
        Times the parts of it, and passes events on.

    Raises
    ------
    BudgetError
        The driver's memory does not hold what ``require_room_to_solve`` found room for any more.
    NotConvergedError
        None of several ridges could be judged.
    """
    factory = system.factory
    if parameters.refine:
        # Blocks of both precisions share the memory of a worker.
        factory = replace(factory, max_bytes=factory.max_bytes // 2)
    grid, executor = factory.task.store.grid, resources.executor
    assignments = assign_blocks(grid, executor.n_workers)
    retry = RetryPolicy(timeout_s=resources.settings.task_timeout_s)
    with executor.shards(factory, assignments, retry=retry, on_event=phases.on_event) as shards:
        dtype = factory.task.kernel.dtype
        gram = system.scaled(StoredGramOperator(shards, system.n_rows, dtype))
        y = system.scale * system.targets
        identity = _identity(system, y)
        choice = choose_ridge(
            gram,
            y,
            system.counts,
            identity=identity,
            parameters=parameters,
            resources=resources,
            phases=phases,
        )
        ridge = choice.ridge
        if parameters.solver == "direct":
            with phases.phase("solve"):
                solution = solve_direct(gram, y, ridge, tol=parameters.tol)
            return _solved(system, solution, choice)
        with phases.phase("precondition"):
            preconditioner = _preconditioner(gram, ridge, parameters, rank, resources.settings)
        operator = RidgedOperator(gram, ridge) if ridge else gram
        # The preconditioner is not kept: its seed gives the same one again in a pass or two over
        # the blocks, and of n x 1000 numbers it would be most of the bytes.
        identity |= _rules(system, ridge, preconditioner, parameters)
        checkpoint = resources.workspace.checkpoint(identity)
        rounds_checkpoint = None
        with phases.phase("solve"), ExitStack() as stack:
            options: dict[str, Any] = {
                "tol": parameters.tol,
                "max_steps": parameters.max_steps,
                "x0": None if system.start is None else system.start / system.scale,
                "checkpoint": checkpoint,
                "checkpoint_every_s": resources.settings.checkpoint_every_s,
                "on_step": phases.on_event,
            }
            if parameters.refine:
                again = RecomputedShardFactory(factory.task, factory.kernel_name, factory.max_bytes)
                # Without a time limit: blocks that are not kept are all evaluated for each
                # product, which takes as long as the Gram matrix did, and that may be hours.
                fresh = stack.enter_context(
                    executor.shards(again, assignments, on_event=phases.on_event)
                )
                exact = system.scaled(StoredGramOperator(fresh, system.n_rows, "float64"))
                exact = RidgedOperator(exact, ridge) if ridge else exact
                rounds = MOST_ROUNDS if parameters.refine is True else parameters.refine
                rounds_checkpoint = resources.workspace.checkpoint(identity | {"part": "rounds"})
                solution = solve_refined(
                    operator,
                    exact,
                    y,
                    preconditioner,
                    rounds=rounds,
                    rounds_checkpoint=rounds_checkpoint,
                    **options,
                )
            else:
                solution = solve(operator, y, preconditioner, **options)
        return _solved(system, solution, choice, checkpoint, rounds_checkpoint)


def _solved(
    system: DualSystem,
    solution: Solution,
    choice: RidgeChoice,
    *checkpoints: Checkpoint | None,
) -> Solved:
    there = tuple(one for one in (choice.checkpoint, *checkpoints) if one is not None)
    return Solved(replace(solution, x=system.scale * solution.x), choice.scores, there)


def precision_warnings(parameters: Parameters) -> tuple[str, ...]:
    """What the tolerance asks for beyond the blocks' precision, said now and in the report."""
    epsilon = float(np.finfo(parameters.exact_dtype).eps)
    if parameters.tol >= epsilon:
        return ()
    warning = (
        f"tol {parameters.tol:.0e} is below the rounding of {parameters.dtype} entries "
        f"({epsilon:.0e}): the residual can meet it, the answer comes no nearer to that of the "
        "exact kernel; use dtype 'float64' or refine"
    )
    log.warning(warning)
    return (warning,)


def require_room_to_solve(
    parameters: Parameters, n: int, n_targets: int, settings: Settings
) -> int:
    """The preconditioner's rank, once all that a solve takes is known to fit the driver's memory.

    Parameters
    ----------
    parameters
        How to solve.
    n
        Distinct rows.
    n_targets
        Columns to solve for.
    settings
        Limits of this process.

    Raises
    ------
    InvalidInputError
        One row is all there is to choose a ridge with.
    MemoryBudgetError
        The preconditioner does not fit, or a path of ridges, or the matrix where it is solved with
        densely.
    """
    if isinstance(parameters.ridge, tuple):
        require_room_to_choose(n, n_targets, settings.preconditioner_max_bytes)
    if parameters.solver == "direct":
        require_dense_room(n, available_memory())
        return 0
    if parameters.preconditioner not in LOW_RANK_PRECONDITIONERS:
        return 0
    max_bytes, dtype = settings.preconditioner_max_bytes, np.dtype(parameters.dtype)
    if parameters.rank == "auto":
        return affordable_rank(n, max_bytes, dtype)
    rank = min(parameters.rank, n)
    require_room(n, rank, max_bytes, dtype)
    return rank


def driver_bytes(parameters: Parameters, n: int, rank: int, settings: Settings) -> int:
    """Most that the driver's side of a solve takes at one time, in bytes.

    Parameters
    ----------
    parameters
        How to solve.
    n
        Distinct rows.
    rank
        Of the preconditioner, see ``require_room_to_solve``.
    settings
        Limits of this process.
    """
    if parameters.solver == "direct":
        needed = dense_bytes(n)
    else:
        needed = building_bytes(n, rank, np.dtype(parameters.dtype)) if rank else 0
    if isinstance(parameters.ridge, tuple):
        needed = max(needed, min(8 * n**2, settings.preconditioner_max_bytes))
    return needed


def _identity(system: DualSystem, y: np.ndarray) -> dict[str, str]:
    """What is solved."""
    return {
        "gram": system.factory.task.store.manifest.key,
        "kernel": system.factory.kernel_name,
        "targets": fingerprint(y),
        "counts": fingerprint(system.counts),
        "package": __version__,
    }


def _rules(
    system: DualSystem,
    ridge: float,
    preconditioner: AbstractPreconditioner,
    parameters: Parameters,
) -> dict[str, str]:
    """How it is solved: everything else that the state of a solve depends on."""
    return {
        "start": "" if system.start is None else fingerprint(system.start),
        "ridge": repr(ridge),
        "preconditioner": f"{preconditioner.name} {preconditioner.rank}",
    } | {name: str(getattr(parameters, name)) for name in SOLVE_PARAMETERS}


def _preconditioner(
    gram: AbstractOperator, ridge: float, parameters: Parameters, rank: int, settings: Settings
) -> AbstractPreconditioner:
    if parameters.preconditioner == "none":
        return IdentityPreconditioner()
    if parameters.preconditioner == "jacobi":
        return JacobiPreconditioner(gram, ridge)
    return LOW_RANK_PRECONDITIONERS[parameters.preconditioner].of(
        gram,
        rank=rank,
        ridge=ridge,
        generator=np.random.default_rng(parameters.random_state),
        max_bytes=settings.preconditioner_max_bytes,
    )
