"""What is done to inputs before the kernel sees them; fitted on training rows, kept with the model.

A step is a pair of pure functions: ``fit(x, **options)`` returns the arrays it learned,
``apply(x, state)`` transforms rows with them, one piece at a time and in float64.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ntk_dist.errors import DataShapeError, InvalidInputError, NonFiniteDataError

__all__ = ["STEPS", "Preprocessor", "Step", "normalize_steps"]

PIECE_BYTES = 64 * 2**20
"""Rows are converted to float64 this much at a time, so that uint8 images never grow eightfold."""

State = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """One kind of preprocessing."""

    fit: Callable[..., dict[str, np.ndarray]]
    apply: Callable[[np.ndarray, State], np.ndarray]
    positive: frozenset[str] = frozenset()
    """Options that have to be above zero."""

    @property
    def options(self) -> dict[str, Any]:
        """Option names and their defaults."""
        parameters = list(inspect.signature(self.fit).parameters.values())[1:]
        return {p.name: p.default for p in parameters}


def _pieces(x: np.ndarray) -> Iterator[slice]:
    rows = max(1, PIECE_BYTES // max(1, 8 * x[:1].size))
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))


def _moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over ``axes``, in two passes of float64 pieces."""
    count = np.prod([x.shape[a] for a in axes])
    mean = sum(x[p].sum(axis=axes, dtype=np.float64) for p in _pieces(x)) / count
    square = sum(((x[p].astype(np.float64) - mean) ** 2).sum(axis=axes) for p in _pieces(x))
    std = np.sqrt(square / count)
    # A constant feature has a deviation of rounding size; dividing by it would amplify noise.
    constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, std)


def _fit_standardize(x: np.ndarray) -> dict[str, np.ndarray]:
    mean, scale = _moments(x, (0,))
    return {"mean": mean, "scale": scale}


def _fit_standardize_channels(x: np.ndarray) -> dict[str, np.ndarray]:
    mean, scale = _moments(x, tuple(range(x.ndim - 1)))
    return {"mean": mean, "scale": scale}


def _apply_standardize(x: np.ndarray, state: State) -> np.ndarray:
    return (x - state["mean"]) / state["scale"]


def _fit_unit_norm(x: np.ndarray) -> dict[str, np.ndarray]:
    return {}


def _apply_unit_norm(x: np.ndarray, state: State) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    # Brought to largest entry 1 first: squares of 1e-170 or 1e170 would leave float64.
    largest = np.abs(flat).max(axis=1, keepdims=True)
    flat = flat / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.where(norms > 0, norms, 1.0)).reshape(x.shape)


def _fit_zca(x: np.ndarray, ridge: float = 0.1) -> dict[str, np.ndarray]:
    """Whitening W = U (S + ridge mean(S))^(-1/2) U^T of the centred, flattened rows.

    The ridge keeps directions that carry only noise from being blown up (Lee et al. 2020, "Finite
    Versus Infinite Neural Networks", arXiv:2007.15801).
    """
    features = x[:1].size
    total = sum(x[p].reshape(-1, features).sum(axis=0, dtype=np.float64) for p in _pieces(x))
    mean = total / len(x)
    covariance = np.zeros((features, features))
    for piece in _pieces(x):
        centred = x[piece].reshape(-1, features) - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / len(x))
    values = np.maximum(values, 0.0)
    floor = ridge * values.mean() if values.any() else 1.0
    whiten = (vectors / np.sqrt(values + floor)) @ vectors.T
    return {"mean": mean, "whiten": whiten}


def _apply_zca(x: np.ndarray, state: State) -> np.ndarray:
    flat = x.reshape(len(x), -1) - state["mean"]
    return (flat @ state["whiten"]).reshape(x.shape)


STEPS: dict[str, Step] = {
    "standardize": Step(_fit_standardize, _apply_standardize),
    "standardize_channels": Step(_fit_standardize_channels, _apply_standardize),
    "unit_norm": Step(_fit_unit_norm, _apply_unit_norm),
    "zca": Step(_fit_zca, _apply_zca, positive=frozenset({"ridge"})),
}
"""Feature-wise and channel-wise standardization, rows of norm one, regularized ZCA whitening."""


def normalize_steps(steps: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps with every option spelled out: ``{"name": ..., option: ...}``.

    Raises
    ------
    InvalidInputError
        Names the unknown step or option, and those there are.
    """
    if isinstance(steps, str):
        raise InvalidInputError(f"preprocess: expected a list of steps, got {steps!r}: [{steps!r}]")
    if not isinstance(steps, Sequence):
        raise InvalidInputError(f"preprocess: expected a list of steps, got {steps!r}")
    normal = []
    for given in steps:
        if not isinstance(given, str | Mapping):
            raise InvalidInputError(
                f"preprocess: expected a name or a mapping for each step, got {given!r}"
            )
        spec: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        if "name" not in spec:
            raise InvalidInputError(
                "preprocess: expected a mapping {name: STEP, OPTION: VALUE} with a step among "
                f"{', '.join(STEPS)}, got the keys {', '.join(map(repr, spec)) or 'of none'}"
            )
        name = spec.pop("name")
        if not isinstance(name, str) or name not in STEPS:
            close = difflib.get_close_matches(str(name), STEPS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InvalidInputError(
                f"preprocess: expected a step among {', '.join(STEPS)}, got {name!r}{hint}"
            )
        options = STEPS[name].options
        if unknown := sorted(set(spec) - set(options)):
            raise InvalidInputError(
                f"preprocess: {name} has no option {unknown[0]!r}; it has: "
                f"{', '.join(options) or 'none'}"
            )
        for option, value in spec.items():
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            # Also of an integer that no float64 can hold.
            if not is_number or not abs(value) <= sys.float_info.max:
                raise InvalidInputError(
                    f"preprocess: {name}: {option}: expected a finite number, got {value!r}"
                )
            if option in STEPS[name].positive and not value > 0:
                raise InvalidInputError(f"preprocess: {name}: expected {option} > 0, got {value}")
            spec[option] = float(value)
        normal.append({"name": name, **options, **spec})
    return normal


@dataclass(frozen=True)
class Preprocessor:
    """Fitted steps, applied in order."""

    steps: tuple[dict[str, Any], ...]
    states: tuple[dict[str, np.ndarray], ...]
    input_shape: tuple[int, ...]
    """Shape of one input the steps were fitted on."""

    @classmethod
    def fit(cls, steps: Sequence[str | Mapping[str, Any]], x: np.ndarray) -> Preprocessor:
        """Fit the steps on training inputs ``x`` of shape ``(n, *input_shape)``, one after another.

        Raises
        ------
        InvalidInputError
            A step or an option is unknown or out of range.
        """
        specs = normalize_steps(steps)
        states: list[dict[str, np.ndarray]] = []
        for position, spec in enumerate(specs):
            step = STEPS[spec["name"]]
            with np.errstate(over="ignore", invalid="ignore"):
                state = step.fit(x, **{k: v for k, v in spec.items() if k != "name"})
            if not all(np.isfinite(values).all() for values in state.values()):
                raise NonFiniteDataError(
                    f"preprocess: {spec['name']} overflows float64 on inputs as large as "
                    f"{np.abs(x).max():.1e}: scale them first"
                )
            states.append(state)
            if position + 1 < len(specs):
                x = _apply(x, [spec], states[-1:], "float64")
        return cls(tuple(specs), tuple(states), x.shape[1:])

    def is_of(self, steps: Sequence[str | Mapping[str, Any]], x: np.ndarray) -> bool:
        """Whether these steps were fitted, on inputs of the shape of those of ``x``."""
        same_shape = self.input_shape == x.shape[1:]
        return same_shape and list(self.steps) == normalize_steps(steps)

    def transform(self, x: np.ndarray, dtype: str) -> np.ndarray:
        """Inputs ``x`` after all steps, as a new array of ``dtype``.

        Raises
        ------
        DataShapeError
            The inputs are not shaped like those fitted on.
        """
        if x.shape[1:] != self.input_shape:
            raise DataShapeError(
                f"expected inputs of shape {self.input_shape}, got {x.shape[1:]}: predict on the "
                "same kind of rows that the model was fitted on"
            )
        return _apply(x, self.steps, self.states, dtype)


def _apply(
    x: np.ndarray, steps: Sequence[Mapping[str, Any]], states: Sequence[State], dtype: str
) -> np.ndarray:
    out = np.empty(x.shape, dtype)
    for piece in _pieces(x):
        part = x[piece].astype(np.float64)
        for spec, state in zip(steps, states, strict=True):
            part = STEPS[spec["name"]].apply(part, state)
        with np.errstate(over="ignore"):
            out[piece] = part
        if not np.isfinite(out[piece]).all():
            raise NonFiniteDataError(
                f"rows {piece.start} to {piece.stop - 1}: values as large as "
                f"{np.abs(part).max():.1e} do not fit {dtype}: scale the inputs"
            )
    return out
