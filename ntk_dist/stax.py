"""Architectures of infinitely wide networks, named and called as in ``neural_tangents.stax``.

    >>> from ntk_dist import stax
    >>> net = stax.serial(stax.Dense(512, W_std=1.5, b_std=0.05), stax.Relu(), stax.Dense(1))
    >>> init_fn, apply_fn, kernel_fn = net

Arguments, defaults and normalizations are those of neural_tangents 0.6.5: images are
height, width, channels; inputs are divided by their number of channels; ``None`` means no bias.
What has no meaning (an activation on a non-Gaussian input, pooling after Flatten) is refused when
it is built. New here: ``trainable=False`` on Dense and Conv, JSON, equality and fingerprints.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ntk_dist.errors import ArchitectureError, InvalidInputError
from ntk_dist.kernels import architecture
from ntk_dist.kernels.branching import Parallel, Serial
from ntk_dist.kernels.layers import Layer

if TYPE_CHECKING:
    import jax

__all__ = [
    "ABRelu",
    "Abs",
    "AvgPool",
    "Conv",
    "Cos",
    "Dense",
    "Erf",
    "FanInSum",
    "FanOut",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Identity",
    "LayerNorm",
    "LeakyRelu",
    "Network",
    "Rbf",
    "Relu",
    "Sigmoid_like",
    "Sin",
    "SumPool",
    "from_json",
    "parallel",
    "repeat",
    "serial",
]


@dataclass(frozen=True, repr=False)
class Network:
    """An architecture with its exact kernels and its finite random networks.

    Compared by value; unpacks, and is indexed, as ``init_fn, apply_fn, kernel_fn``.
    """

    layer: Layer
    """The record of the architecture."""

    def kernel_fn(
        self, x1: npt.ArrayLike, x2: npt.ArrayLike | None = None, get: str | Sequence[str] = "ntk"
    ) -> Any:
        """The exact kernel between samples.

        Parameters
        ----------
        x1 : (n1, ...)
            Real numbers, channels last. Floats of eight bytes or more give float64, others float32.
        x2 : (n2, ...), optional
            Other samples; ``None`` for those of ``x1``, and then exactly symmetric.
        get
            ``"ntk"``, ``"nngp"``, or a sequence of both.

        Returns
        -------
        (n1, n2) array
            Or, for a sequence, a named tuple of such arrays in the order asked for.

        Raises
        ------
        InvalidInputError
            ``get`` names no kernel, or one twice.
        ArchitectureError, DataShapeError
            The architecture has no kernel for such samples, or they do not fit each other.
        DataError
            The samples are not real numbers.
        NonFiniteDataError
            Samples hold NaN or infinity, or their kernel is too large for its precision.
        """
        names = _kernel_names(get)
        # Imported late, so that reading and checking an architecture starts no JAX.
        from ntk_dist.gram.pairs import kernels_between

        block = kernels_between(self.layer, names, x1, x2)
        if isinstance(get, str):
            return block[get]
        return namedtuple("Kernels", names)(*(block[name] for name in names))

    def init_fn(self, rng: jax.Array, input_shape: Sequence[int]) -> tuple[Any, Any]:
        """The output shape and random parameters of the finite network.

        ``rng`` is a JAX random key; ``input_shape`` is that of a batch, and its first entry may
        be -1.
        """
        from ntk_dist.kernels import finite

        return finite.init(self.layer, rng, tuple(input_shape))

    def apply_fn(self, params: Any, inputs: Any) -> Any:
        """The outputs of the finite network, (n, ..., out_dim), for parameters of ``init_fn``."""
        from ntk_dist.kernels import finite

        return finite.apply(self.layer, params, inputs)

    def to_json(self) -> str:
        """The architecture as one line of JSON, which ``from_json`` reads back."""
        return architecture.to_json(self.layer)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that only equal architectures share."""
        return architecture.fingerprint(self.layer)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def __getitem__(self, index: int | slice) -> Any:
        return (self.init_fn, self.apply_fn, self.kernel_fn)[index]

    def __repr__(self) -> str:
        return _source(self.layer)


def from_json(text: str | bytes | list[Any]) -> Network:
    """The network that JSON text, or the nested lists in it, describes.

    A layer is ``["Dense", {"W_std": 1.5}]`` or ``["Relu"]``; combinations are
    ``["serial", layer, ...]`` and ``["parallel", layer, ...]``.

    Raises
    ------
    ArchitectureError
        No JSON, an unknown layer or argument, or layers that cannot follow each other.
    """
    return Network(architecture.from_json(text))


def serial(*layers: Network) -> Network:
    """One layer after another."""
    return Network(Serial(_records("serial", layers)))


def parallel(*layers: Network) -> Network:
    """One layer per branch; FanOut goes before, FanInSum after."""
    return Network(Parallel(_records("parallel", layers)))


def repeat(layer: Network, n: int) -> Network:
    """``layer`` applied ``n`` times, with new weights each time."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArchitectureError(f"repeat: n must be an integer, at least 1, got {n!r}")
    return Network(Serial(_records("repeat", (layer,)) * n))


def Dense(
    out_dim: int,
    W_std: float = 1.0,
    b_std: float | None = None,
    batch_axis: int = 0,
    channel_axis: int = -1,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
    *,
    trainable: bool = True,
) -> Network:
    """A fully connected layer; over images, the same one at every position.

    Parameters
    ----------
    out_dim
        Width of the finite network; in the "ntk" parameterization the kernel ignores it.
    W_std, b_std
        Standard deviations of weights and biases; ``b_std=None`` for no bias.
    batch_axis, channel_axis
        0 and -1: samples first, channels last.
    parameterization
        ``"ntk"``, or ``"standard"`` (arXiv:2001.07301).
    s
        Width scalings of input and output in the standard parameterization.
    trainable
        False keeps the random weights: the layer then adds nothing to the NTK.
    """
    return _layer("Dense", locals())


def Conv(
    out_chan: int,
    filter_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    W_std: float = 1.0,
    b_std: float | None = None,
    dimension_numbers: tuple[str, str, str] | None = None,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
    *,
    trainable: bool = True,
) -> Network:
    """A convolution with shared weights.

    Parameters
    ----------
    out_chan
        Channels of the finite network; in the "ntk" parameterization the kernel ignores them.
    filter_shape, strides
        One number per spatial axis; ``strides=None`` for 1.
    padding
        ``"VALID"``, ``"SAME"`` (zeros) or ``"CIRCULAR"`` (periodic).
    W_std, b_std
        Standard deviations of weights and biases; ``b_std=None`` for no bias.
    dimension_numbers
        None: samples first, channels last.
    parameterization, s, trainable
        As in Dense.
    """
    return _layer("Conv", locals())


def AvgPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    normalize_edges: bool = False,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Network:
    """Averages over windows; ``strides=None`` for 1.

    ``normalize_edges`` divides windows at SAME-padded edges by their positions inside the image.
    """
    return _layer("AvgPool", locals())


def SumPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Network:
    """Sums over windows; ``strides=None`` for 1."""
    return _layer("SumPool", locals())


def GlobalAvgPool(batch_axis: int = 0, channel_axis: int = -1) -> Network:
    """The average over all positions."""
    return _layer("GlobalAvgPool", locals())


def GlobalSumPool(batch_axis: int = 0, channel_axis: int = -1) -> Network:
    """The sum over all positions."""
    return _layer("GlobalSumPool", locals())


def Flatten(batch_axis: int = 0, batch_axis_out: int = 0) -> Network:
    """Positions and channels become one feature axis."""
    return _layer("Flatten", locals())


def LayerNorm(
    axis: int | Sequence[int] = -1,
    eps: float = 1e-12,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Network:
    """Divides each sample by its standard deviation over ``axis``, which must name the channels."""
    return _layer("LayerNorm", locals())


def Identity() -> Network:
    """Nothing; the short cut of a residual block."""
    return _layer("Identity", {})


def FanOut(num: int) -> Network:
    """``num`` copies of one input, for ``parallel`` to take."""
    return _layer("FanOut", locals())


def FanInSum() -> Network:
    """The sum of independent Gaussian branches."""
    return _layer("FanInSum", {})


def ABRelu(a: float, b: float, do_stabilize: bool = False) -> Network:
    """``a min(x, 0) + b max(x, 0)``; ``do_stabilize`` changes nothing: it is stable as it is."""
    return _layer("ABRelu", locals())


def Relu(do_stabilize: bool = False) -> Network:
    """``max(x, 0)``; ``do_stabilize`` changes nothing: it is stable as it is."""
    return _layer("Relu", locals())


def LeakyRelu(alpha: float, do_stabilize: bool = False) -> Network:
    """``alpha min(x, 0) + max(x, 0)``; ``do_stabilize`` changes nothing: it is stable as it is."""
    return _layer("LeakyRelu", locals())


def Abs(do_stabilize: bool = False) -> Network:
    """``|x|``; ``do_stabilize`` changes nothing: it is stable as it is."""
    return _layer("Abs", locals())


def Erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Network:
    """``a erf(b x) + c``."""
    return _layer("Erf", locals())


def Sigmoid_like() -> Network:
    """``erf(x / 2.402...) / 2 + 1 / 2``, close to the logistic function."""
    return _layer("Sigmoid_like", {})


def Gelu(approximate: bool = False) -> Network:
    """``x Φ(x)``; ``approximate`` (by tanh) only concerns finite networks."""
    return _layer("Gelu", locals())


def Sin(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Network:
    """``a sin(b x + c)``."""
    return _layer("Sin", locals())


def Cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Network:
    """``a cos(b x + c)``."""
    return _layer("Cos", locals())


def Rbf(gamma: float = 1.0) -> Network:
    """``√2 sin(√(2 gamma) x + π/4)``, whose kernel is ``exp(-gamma (v1 + v2 - 2 q))``."""
    return _layer("Rbf", locals())


def _layer(name: str, arguments: dict[str, Any]) -> Network:
    return Network(architecture.build(name, arguments))


def _records(name: str, networks: Sequence[object]) -> tuple[Layer, ...]:
    records: list[Layer] = []
    for i, network in enumerate(networks, start=1):
        if not isinstance(network, Network):
            hint = " (call it: Relu(), not Relu)" if callable(network) else ""
            raise ArchitectureError(
                f"{name}: expected layers from ntk_dist.stax, got {network!r} as layer {i}{hint}"
            )
        records.append(network.layer)
    return tuple(records)


def _kernel_names(get: object) -> tuple[str, ...]:
    names = (get,) if isinstance(get, str) else get
    if not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise InvalidInputError(
            f"get: expected 'ntk', 'nngp' or a sequence of them, got {get!r}; say which you want"
        )
    if len(set(names)) < len(names):
        raise InvalidInputError(f"get: expected each kernel once, got {names}")
    return tuple(names)


def _source(layer: Layer) -> str:
    """The code that builds the layer."""
    if isinstance(layer, Serial | Parallel):
        inner = ", ".join(map(_source, layer.layers))
        return f"stax.{type(layer).__name__.lower()}({inner})"
    first = {"Dense": "out_dim", "Conv": "out_chan"}.get(type(layer).__name__)
    arguments = [f"{k}={v!r}" for k, v in layer.arguments().items() if k != first]
    if first is not None:
        arguments.insert(0, repr(getattr(layer, first)))
    return f"stax.{type(layer).__name__}({', '.join(arguments)})"
