"""What the regressor and the classifier share: validation, the fit and the decision values."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from ntk_dist.errors import (
    ArchitectureError,
    DataShapeError,
    EmptyDataError,
)
from ntk_dist.events import EventSink, FanOut, ignore
from ntk_dist.executors import AbstractExecutor, borrowed
from ntk_dist.gram.plan import GramPlan
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.artifact import read_artifact, replace_artifact, require_unchanged
from ntk_dist.model.gram import Resources, gram_of_rows, plan_rows
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.pipeline import fit_dual, predict_dual
from ntk_dist.model.portable import pack, unpack
from ntk_dist.model.preprocess import Preprocessor
from ntk_dist.model.report import GramReport
from ntk_dist.model.targets import one_line
from ntk_dist.model.warm_start import EarlierFit
from ntk_dist.settings import get_settings, process_bytes
from ntk_dist.stax import Network
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.inputs import check_rows
from ntk_dist.store.workspace import open_workspace

__all__ = ["AbstractNTKEstimator"]


class AbstractNTKEstimator(BaseEstimator):
    """Ridgeless (or ridge) regression with the kernel of an infinitely wide network.

    f(x) = K(x, X) (K(X, X) + ridge I)^+ Y: for the NTK and ridge 0, what gradient flow on the
    squared loss converges to from zero output (Jacot et al. 2018, arXiv:1806.07572; Lee et al.
    2019, arXiv:1902.06720).

    Parameters
    ----------
    architecture : Network
        From :mod:`ntk_dist.stax`; its output must have no spatial axes left.
    kernel : {"ntk", "nngp"}
        The kernel of the trained network, or of the Gaussian process at initialization.
    ridge : float or sequence of float
        Added to the diagonal of the Gram matrix; 0 interpolates (pseudo-inverse). Of several, the
        one that predicts a held-out fifth of the training rows best.
    preprocess : sequence of str or dict
        Steps of :data:`ntk_dist.model.preprocess.STEPS`, fitted on the training rows.
    executor : str or AbstractExecutor
        ``"local"``, ``"dask"``, ``"dask://HOST:PORT"``, ``"ray"``, ``"ray://HOST:PORT"``, or an
        executor object, which stays open for the next call.
    workspace : str, Path or None
        Folder, or ``s3://BUCKET/PREFIX``, that keeps blocks between runs; None keeps them until the
        fit ends, in memory or, for workers in other processes, in a temporary folder.
    block_rows : int or None
        Side of a Gram block, in rows; None chooses from the data and the architecture.
    dtype : {"float32", "float64"}
        Of the Gram matrix. Vectors and sums are float64 either way.
    tol : float
        True relative residual to reach, for every target.
    solver : {"cg", "direct"}
        Preconditioned conjugate gradients, or a dense factorization for small data.
    preconditioner : {"rpcholesky", "nystrom", "jacobi", "none"}
        For ``cg``; see :mod:`ntk_dist.solver.preconditioners`.
    rank : int or "auto"
        Rank of ``rpcholesky`` or ``nystrom``; ``"auto"`` takes what a memory budget holds.
    refine : bool or int
        Correct the answer from residuals taken with the kernel evaluated again in float64, a pass
        over all pairs each: whether, or how many rounds at most. The answer is then that of
        float64 blocks, from float32 ones; inputs are kept and predictions made in float64.
    max_steps : int or None
        Step limit of ``cg``.
    random_state : int
        Seed of the preconditioner's pivots.
    warm_start : bool
        Start ``cg`` from the coefficients of the fit before, row by row: for other targets, another
        ridge, or rows added or taken away. Preprocessing of the same steps keeps what it learned
        then, since rows would be others after a new mean.

    Attributes
    ----------
    report_ : FitReport
        Status, steps, true residuals, Ritz values, bytes and seconds.
    ridge_ : float
        The ridge of the fit: the one given, or the one chosen.
    dual_coef_ : ndarray of shape (n_unique, n_targets)
        Coefficients of the distinct training rows.
    input_range_ : tuple of float
        Smallest and largest number in the training inputs, before preprocessing.
    n_features_in_ : int
        Length of the first axis of one input.
    """

    def __init__(
        self,
        architecture: Network | None = None,
        *,
        kernel: Literal["ntk", "nngp"] = "ntk",
        ridge: float | Sequence[float] = 0.0,
        preprocess: Sequence[str | Mapping[str, Any]] = (),
        executor: str | AbstractExecutor = "local",
        workspace: str | Path | None = None,
        block_rows: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        tol: float = 1e-6,
        solver: Literal["cg", "direct"] = "cg",
        preconditioner: Literal["rpcholesky", "nystrom", "jacobi", "none"] = "rpcholesky",
        rank: int | Literal["auto"] = "auto",
        refine: bool | int = False,
        max_steps: int | None = None,
        random_state: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.architecture = architecture
        self.kernel = kernel
        self.ridge = ridge
        self.preprocess = preprocess
        self.executor = executor
        self.workspace = workspace
        self.block_rows = block_rows
        self.dtype = dtype
        self.tol = tol
        self.solver = solver
        self.preconditioner = preconditioner
        self.rank = rank
        self.refine = refine
        self.max_steps = max_steps
        self.random_state = random_state
        self.warm_start = warm_start

    @abstractmethod
    def _encode_targets(self, y: Any, n_rows: int) -> np.ndarray:
        """Learn the targets' form; returns float64 of shape ``(n_rows, n_targets)``."""

    @abstractmethod
    def target_record(self) -> dict[str, Any]:
        """What was learned of the targets' form, as JSON types."""

    @abstractmethod
    def target_arrays(self) -> dict[str, np.ndarray]:
        """What was learned of the targets' form, as arrays."""

    @abstractmethod
    def restore_target(self, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of the two above."""

    def fit(self, X: Any, y: Any, on_event: EventSink = ignore) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array of shape (n_samples, *input_shape)
            Inputs: features, or images with channels last.
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        on_event : callable
            Receives :mod:`ntk_dist.events` while the fit runs, in this thread. One that raises is
            dropped with a warning in the log; several go into a :class:`~ntk_dist.events.FanOut`.

        Returns
        -------
        self

        Raises
        ------
        DataError
            Rows with NaN or infinity (by index), a wrong rank, labels that do not match.
        ArchitectureError
            The architecture does not take inputs of this shape.
        BudgetError
            Projected memory or disk use is more than there is; nothing was started.
        NotConvergedError
            Several ridges were given, and none could be judged.
        BreakdownError
            The Gram matrix is indefinite or not finite.
        """
        with self.fitting(X, y, on_event):
            pass
        if not self.report_.solve.status.is_success:
            warnings.warn(self.report_.solve.text, ConvergenceWarning, stacklevel=2)
        return self

    @contextmanager
    def fitting(self, X: Any, y: Any, on_event: EventSink = ignore) -> Iterator[Self]:
        """Like :meth:`fit`, for a block that takes the model to a safe place.

        What a long solve ended with stays in the workspace until the block ends without an error:
        if it does not, or the process is killed in it, the same fit goes on from there. Whether the
        fit converged is left to ``report_``: there is no warning.
        """
        checkpoints = self._fit(X, y, on_event)
        yield self
        for checkpoint in checkpoints:
            checkpoint.delete()

    def _fit(self, X: Any, y: Any, on_event: EventSink) -> tuple[Checkpoint, ...]:
        """Fit, and say where the same fit would go on from."""
        parameters = self._parameters()
        earlier, kept = self._earlier(), self._kept_preprocessor()
        self._forget()
        kernel, x, preprocessor = self._prepare(X, kept)
        targets = self._encode_targets(y, len(x))
        workspace = open_workspace(self.workspace)
        with borrowed(self.executor, env=workspace.worker_environment()) as executor:
            resources = Resources(workspace, executor, get_settings())
            fitted = fit_dual(
                kernel,
                x,
                targets,
                parameters=parameters,
                resources=resources,
                earlier=earlier,
                on_event=FanOut.of(on_event, process_bytes),
            )
        # What predictions and a saved model go by, whatever is set on this object later.
        self.network_, self.parameters_ = self.network, parameters
        self.preprocessor_ = preprocessor
        self.rows_: AbstractRows = fitted.rows
        self.statistics_: AbstractRows = fitted.statistics
        self.dual_coef_: np.ndarray = fitted.dual_coef
        self.report_ = fitted.report
        self.ridge_ = fitted.report.solve.ridge
        return fitted.checkpoints

    def plan(self, X: Any) -> GramPlan:
        """What :meth:`fit` would have to compute for these inputs; nothing is started or written.

        Raises
        ------
        DataError, ArchitectureError
            As for :meth:`fit`.
        """
        kernel, x, _ = clone(self)._prepare(X, self._kept_preprocessor())
        return plan_rows(
            kernel,
            x,
            block_rows=self._parameters().block_rows,
            location=self.workspace,
            settings=get_settings(),
        )

    def compute_gram(self, X: Any, on_event: EventSink = ignore) -> GramReport:
        """Compute the blocks that :meth:`fit` would need and leave them in the workspace.

        Raises
        ------
        DataError, ArchitectureError, BudgetError
            As for :meth:`fit`.
        """
        kernel, x, _ = clone(self)._prepare(X, self._kept_preprocessor())
        workspace = open_workspace(self.workspace)
        with borrowed(self.executor, env=workspace.worker_environment()) as executor:
            return gram_of_rows(
                kernel,
                x,
                block_rows=self._parameters().block_rows,
                resources=Resources(workspace, executor, get_settings()),
                on_event=FanOut.of(on_event, process_bytes),
            )

    def _parameters(self) -> Parameters:
        return Parameters.checked(self.get_params(deep=False))

    def _earlier(self) -> EarlierFit | None:
        """The fit to start from, if there is one and it is asked for."""
        there = self.warm_start and hasattr(self, "dual_coef_")
        return EarlierFit(self.rows_, self.dual_coef_) if there else None

    def _kept_preprocessor(self) -> Preprocessor | None:
        """What the fit to start from learned of its inputs."""
        return getattr(self, "preprocessor_", None) if self.warm_start else None

    def _forget(self) -> None:
        """Become unfitted, so that a fit that fails leaves no half of an earlier one."""
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("_")]:
            delattr(self, name)

    def _prepare(
        self, X: Any, kept: Preprocessor | None
    ) -> tuple[Kernel, np.ndarray, Preprocessor]:
        """The kernel, the inputs as it will see them, and what was done to them.

        Preprocessing that was ``kept`` is used again if it is of the same steps and inputs.
        """
        parameters = self._parameters()
        x = self._validated(X, reset=True)
        self.input_range_ = (float(x.min()), float(x.max()))
        parameters.require_rows(len(x))
        kernel = _kernel(self.network, parameters.kernel, parameters.dtype, x.shape[1:])
        if kept and kept.is_of(self.preprocess, x):
            return kernel, kept.transform(x, parameters.exact_dtype), kept
        preprocessor = Preprocessor.fit(self.preprocess, x)
        return kernel, preprocessor.transform(x, parameters.exact_dtype), preprocessor

    def _decide(self, X: Any, on_event: EventSink) -> np.ndarray:
        """K(x, X) dual_coef for new inputs, shape ``(n_samples, n_targets)``, float64."""
        check_is_fitted(self, "dual_coef_")
        require_unchanged(self.rows_, self.statistics_)
        dtype = self.parameters_.exact_dtype
        x = self.preprocessor_.transform(self._validated(X, reset=False), dtype)
        kernel = _kernel(self.network_, self.parameters_.kernel, dtype, x.shape[1:])
        with borrowed(self.executor) as executor:
            return predict_dual(
                kernel,
                x,
                self.rows_,
                self.statistics_,
                self.dual_coef_,
                executor=executor,
                settings=get_settings(),
                on_event=FanOut.of(on_event, process_bytes),
            )

    @property
    def network(self) -> Network:
        """The architecture, if it is one.

        Raises
        ------
        ArchitectureError
            It is something else.
        """
        if not isinstance(self.architecture, Network):
            raise ArchitectureError(
                "architecture: expected a network built with ntk_dist.stax, got "
                f"{type(self.architecture).__name__}"
            )
        return self.architecture

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        """``X`` as a numeric array with at least one row, every entry finite."""
        try:
            x: np.ndarray = validate_data(
                self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_all_finite=False
            )
        except TypeError as error:
            if not hasattr(X, "dtypes"):  # no table: scikit-learn's rules ask for a TypeError
                raise
            if isinstance(error, np.exceptions.DTypePromotionError):
                raise DataShapeError(
                    "X: expected real numbers in every column, got some that are none, such as "
                    "dates: convert them or leave them out"
                ) from error
            raise DataShapeError(f"X: {one_line(error)}") from error
        except ValueError as error:
            empty = "minimum of 1 is required" in str(error)
            raise (EmptyDataError if empty else DataShapeError)(one_line(error)) from error
        check_rows(x, "X")
        return x

    def save(self, path: str | Path) -> None:
        """Keep the fitted model at ``path``, replacing a model that is there.

        A folder, or ``s3://BUCKET/PREFIX``.

        The executor and the workspace stay behind: they belong to where the fit ran.

        Raises
        ------
        ArtifactError
            Something that is no model is at ``path``.
        StoreFullError, StoreUnreachableError
            The folder cannot be written.
        """
        replace_artifact(path, pack(self))

    @classmethod
    def load(cls, path: str | Path, *, executor: str | AbstractExecutor = "local") -> Self:
        """The model that :meth:`save` kept at ``path``, ready to predict.

        Raises
        ------
        ArtifactError
            There is no model, it is damaged, or it is of another kind.
        """
        return unpack(cls, read_artifact(path), executor)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _kernel(network: Network, name: str, dtype: str, input_shape: tuple[int, ...]) -> Kernel:
    kernel = Kernel(network.layer, (name,), dtype)
    kernel.check(input_shape)
    return kernel
