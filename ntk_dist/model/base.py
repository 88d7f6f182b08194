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
from ntk_dist.executors import AbstractExecutor, make_executor
from ntk_dist.gram.plan import GramPlan
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.artifact import read_artifact, replace_artifact, require_unchanged
from ntk_dist.model.gram import Resources, gram_of_rows, plan_rows
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.pipeline import fit_dual, pack_statistics, predict_dual
from ntk_dist.model.portable import pack, unpack
from ntk_dist.model.preprocess import Preprocessor
from ntk_dist.model.report import GramReport
from ntk_dist.model.targets import one_line
from ntk_dist.settings import get_settings, process_bytes
from ntk_dist.stax import Network
from ntk_dist.store.base import AbstractRows
from ntk_dist.store.inputs import check_rows
from ntk_dist.store.workspace import open_workspace

__all__ = ["AbstractNTKEstimator", "borrowed"]


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
    ridge : float
        Added to the diagonal of the Gram matrix; 0 interpolates (pseudo-inverse).
    preprocess : sequence of str or dict
        Steps of :data:`ntk_dist.model.preprocess.STEPS`, fitted on the training rows.
    executor : str or AbstractExecutor
        ``"local"``, ``"dask"``, ``"dask://HOST:PORT"``, ``"ray"``, ``"ray://HOST:PORT"``, or an
        executor object, which stays open for the next call.
    workspace : str, Path or None
        Folder that keeps blocks between runs; None keeps everything in memory.
    block_rows : int or None
        Side of a Gram block, in rows; None chooses from the data and the architecture.
    dtype : {"float32", "float64"}
        Of the Gram matrix. Vectors and sums are float64 either way.
    tol : float
        True relative residual to reach, for every target.
    solver : {"cg", "direct"}
        Preconditioned conjugate gradients, or a dense factorization for small data.
    preconditioner : {"rpcholesky", "none"}
        For ``cg``.
    rank : int or "auto"
        Rank of the preconditioner.
    max_steps : int or None
        Step limit of ``cg``.
    random_state : int
        Seed of the preconditioner's pivots.

    Attributes
    ----------
    report_ : FitReport
        Status, steps, true residuals, Ritz values, bytes and seconds.
    dual_coef_ : ndarray of shape (n_unique, n_targets)
        Coefficients of the distinct training rows.
    n_features_in_ : int
        Length of the first axis of one input.
    """

    def __init__(
        self,
        architecture: Network | None = None,
        *,
        kernel: Literal["ntk", "nngp"] = "ntk",
        ridge: float = 0.0,
        preprocess: Sequence[str | Mapping[str, Any]] = (),
        executor: str | AbstractExecutor = "local",
        workspace: str | Path | None = None,
        block_rows: int | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        tol: float = 1e-6,
        solver: Literal["cg", "direct"] = "cg",
        preconditioner: Literal["rpcholesky", "none"] = "rpcholesky",
        rank: int | Literal["auto"] = "auto",
        max_steps: int | None = None,
        random_state: int = 0,
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
        self.max_steps = max_steps
        self.random_state = random_state

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
        BreakdownError
            The Gram matrix is indefinite or not finite.
        """
        parameters = self._parameters()
        self._forget()
        kernel, x, preprocessor = self._prepare(X)
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
                on_event=FanOut.of(on_event, process_bytes),
            )
        self.preprocessor_ = preprocessor
        self.rows_ = fitted.rows
        self.statistics_: AbstractRows | None = fitted.statistics
        self.dual_coef_ = fitted.dual_coef
        self.report_ = fitted.report
        if not fitted.report.solve.status.is_success:
            warnings.warn(fitted.report.solve.text, ConvergenceWarning, stacklevel=2)
        return self

    def plan(self, X: Any) -> GramPlan:
        """What :meth:`fit` would have to compute for these inputs; nothing is started or written.

        Raises
        ------
        DataError, ArchitectureError
            As for :meth:`fit`.
        """
        kernel, x, _ = clone(self)._prepare(X)
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
        kernel, x, _ = clone(self)._prepare(X)
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

    def _forget(self) -> None:
        """Become unfitted, so that a fit that fails leaves no half of an earlier one."""
        for name in [n for n in vars(self) if n.endswith("_") and not n.startswith("_")]:
            delattr(self, name)

    def _prepare(self, X: Any) -> tuple[Kernel, np.ndarray, Preprocessor]:
        """The kernel, the inputs as it will see them, and what was done to them."""
        parameters = self._parameters()
        x = self._validated(X, reset=True)
        kernel = self._kernel(parameters, x.shape[1:])
        preprocessor = Preprocessor.fit(self.preprocess, x)
        return kernel, preprocessor.transform(x, parameters.dtype), preprocessor

    def _decide(self, X: Any, on_event: EventSink) -> np.ndarray:
        """K(x, X) dual_coef for new inputs, shape ``(n_samples, n_targets)``, float64."""
        check_is_fitted(self, "dual_coef_")
        require_unchanged(self.rows_, self.statistics_)
        parameters = self._parameters()
        x = self.preprocessor_.transform(self._validated(X, reset=False), parameters.dtype)
        kernel = self._kernel(parameters, x.shape[1:])
        if self.statistics_ is None:
            self.statistics_ = pack_statistics(kernel, self.rows_, on_event)
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

    def _kernel(self, parameters: Parameters, input_shape: tuple[int, ...]) -> Kernel:
        kernel = Kernel(self.network.layer, (parameters.kernel,), parameters.dtype)
        kernel.check(input_shape)
        return kernel

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        """``X`` as a numeric array with at least one row, every entry finite."""
        try:
            x: np.ndarray = validate_data(
                self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_all_finite=False
            )
        except ValueError as error:
            empty = "minimum of 1 is required" in str(error)
            raise (EmptyDataError if empty else DataShapeError)(one_line(error)) from error
        check_rows(x, "X")
        return x

    def save(self, path: str | Path) -> None:
        """Keep the fitted model in the folder ``path``, replacing a model that is there.

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


@contextmanager
def borrowed(
    spec: str | AbstractExecutor, env: Mapping[str, str] | None = None
) -> Iterator[AbstractExecutor]:
    """The executor ``spec`` names, closed afterwards only if it was made here."""
    executor = make_executor(spec, env=env)
    try:
        yield executor
    finally:
        if executor is not spec:
            executor.close()
