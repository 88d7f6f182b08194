import json
import subprocess
import sys

import pytest

from ntk_dist import stax
from ntk_dist.errors import ArchitectureError, DataShapeError
from ntk_dist.kernels.architecture import check, from_json, output_shape

CONV = ["Conv", {"filter_shape": [3, 3]}]
CONV_SAME = ["Conv", {"filter_shape": [3, 3], "padding": "SAME"}]
POOL = ["AvgPool", {"window_shape": [2, 2]}]
FORK = ["FanOut", {"num": 2}]


def refused(node, *words, input_shape=None, error=ArchitectureError):
    with pytest.raises(error) as caught:
        check(from_json(node), input_shape)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (["Dens"], ["unknown layer 'Dens'", "did you mean 'Dense'", "GlobalAvgPool"]),
        (["Dense", {"w_std": 1}], ["Dense argument 'w_std'", "did you mean 'W_std'", "b_std"]),
        (["Relu", {"alpha": 1}], ["Relu argument 'alpha'"]),
        (["Conv", {}], ["Conv", "missing argument filter_shape"]),
        (["ABRelu", {"a": 1.0}], ["missing argument b"]),
        (["Dense", {"W_std": -1.0}], ["W_std", "at least 0", "-1.0"]),
        (["Dense", {"W_std": float("nan")}], ["W_std", "finite", "nan"]),
        (["Dense", {"W_std": "2"}], ["W_std", "'2'"]),
        (["Dense", {"W_std": True}], ["W_std", "True"]),
        (["Dense", {"out_dim": 1.5}], ["out_dim", "integer"]),
        (["Dense", {"parameterization": "mean"}], ["parameterization", '"standard"']),
        (["Dense", {"channel_axis": 1}], ["channel_axis must be -1", "transpose"]),
        (["Conv", {"filter_shape": []}], ["filter_shape", "sequence"]),
        (["Conv", {"filter_shape": [3, 0]}], ["filter_shape", "at least 1"]),
        (["Conv", {"filter_shape": [3, 3], "strides": [2]}], ["strides", "as many entries"]),
        (["Conv", {"filter_shape": [3], "padding": "FULL"}], ["padding", '"CIRCULAR"']),
        (["LeakyRelu", {"alpha": float("inf")}], ["alpha", "finite"]),
        (["LayerNorm", {"axis": 0}], ["axis", "without the batch axis"]),
        (["FanOut", {"num": 0}], ["num", "at least 1"]),
        (["serial"], ["serial", "at least one layer"]),
        (["Dense", [1]], ["Dense", "named arguments"]),
        ({"Dense": 1}, ["expected", "serial"]),
        ("[1, 2", ["expected JSON"]),
        (
            '["Dense", {"W_std": 1, "b_std": 0, "W_std": 2}]',
            ["expected JSON, got: the key 'W_std' twice"],
        ),
    ],
)
def test_bad_layers_are_refused_in_words(node, words):
    refused(node, *words)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([CONV, ["Flatten"], POOL], ["layer 3, AvgPool", "spatial axes", "Flatten removed them"]),
        ([CONV, ["GlobalAvgPool"], CONV], ["layer 3, Conv", "GlobalAvgPool removed them"]),
        ([CONV, ["Flatten"], ["GlobalSumPool"]], ["GlobalSumPool", "Flatten removed them"]),
        ([["Dense"], ["Relu"], ["Relu"]], ["layer 3, Relu", "Gaussian", "got Relu"]),
        ([CONV, ["Flatten"], ["Erf"]], ["Gaussian", "got Flatten"]),
        ([["Dense"], ["Relu"], ["LayerNorm"]], ["layer 3, LayerNorm", "Gaussian"]),
        ([["Dense"], ["FanInSum"]], ["FanInSum", "expected branches"]),
        ([["Dense"], ["parallel", ["Dense"]]], ["expected branches", "FanOut"]),
        ([FORK, ["Dense"]], ["layer 2, Dense", "2 branches", "parallel"]),
        ([FORK, ["parallel", ["Dense"]], ["FanInSum"]], ["1 layers for 2 branches"]),
        (
            [
                FORK,
                ["parallel", ["Dense", {"out_dim": 2}], ["Dense", {"out_dim": 3}]],
                ["FanInSum"],
            ],
            ["FanInSum", "one shape"],
        ),
        (
            [["Dense"], FORK, ["parallel", ["Relu"], ["Dense"]], ["FanInSum"]],
            ["Gaussian branches", "Relu at the end of branch 1"],
        ),
        (
            [["Dense"], FORK, ["parallel", ["Identity"], ["Identity"]], ["FanInSum"]],
            ["independent branches"],
        ),
        ([CONV, ["Conv", {"filter_shape": [3]}]], ["1 spatial axes", "got 2"]),
        ([CONV, ["LayerNorm", {"axis": [1, 2]}]], ["axis must name the channels"]),
    ],
)
def test_meaningless_combinations_are_refused_when_built(layers, words):
    refused(["serial", *layers], *words)


@pytest.mark.parametrize(
    ("layers", "input_shape", "error", "words"),
    [
        ([["Relu"], ["Dense"]], (5,), ArchitectureError, ["Gaussian", "got the input"]),
        ([CONV, ["Dense"]], (5, 5, 1), ArchitectureError, ["(3, 3)", "end with Flatten"]),
        ([["Dense"], FORK], (5,), ArchitectureError, ["FanInSum"]),
        ([CONV, ["Flatten"]], (2, 5, 1), DataShapeError, ["at least 3 × 3", "2 × 5", "VALID"]),
        ([CONV, ["Flatten"]], (7, 1), DataShapeError, ["2 spatial axes", "got 1", "7 × 1"]),
        ([CONV, ["Flatten"]], (7,), DataShapeError, ["none", "images"]),
        ([["GlobalAvgPool"], ["Dense"]], (7,), DataShapeError, ["images"]),
        ([["Dense"]], (0,), DataShapeError, ["(0,)"]),
    ],
)
def test_data_that_do_not_fit_are_refused(layers, input_shape, error, words):
    refused(["serial", *layers], *words, input_shape=input_shape, error=error)


def test_a_branch_may_start_with_an_activation():
    block = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(stax.Relu(), stax.Dense(1)), stax.Identity()),
        stax.FanInSum(),
    )
    check(stax.serial(stax.Dense(1), block, block).layer, (3,))


def test_output_shape_follows_strides_and_padding():
    layer = from_json(
        ["serial", CONV_SAME, ["Conv", {"filter_shape": [3, 3], "strides": [2, 2], "out_chan": 8}]]
    )
    assert output_shape(layer, (9, 8, 3)) == (4, 3, 8)
    assert output_shape(from_json(["serial", layer_node(layer), ["Flatten"]]), (9, 8, 3)) == (96,)


def layer_node(layer):
    return json.loads(stax.Network(layer).to_json())


def test_spelling_does_not_change_the_fingerprint():
    short = from_json(["Conv", {"filter_shape": [3, 3]}])
    spelled = from_json(
        '["Conv", {"strides": [1, 1], "W_std": 1, "b_std": null, "filter_shape": [3, 3], '
        '"out_chan": 1, "padding": "VALID", "trainable": true, "parameterization": "NTK"}]'
    )
    assert short == spelled
    assert stax.Network(short).fingerprint == stax.Network(spelled).fingerprint


def test_every_argument_matters_to_the_fingerprint():
    variants = [
        stax.Dense(1),
        stax.Dense(2),
        stax.Dense(1, b_std=0.0),
        stax.Dense(1, trainable=False),
        stax.Dense(1, W_std=1.0000000000000002),
        stax.serial(stax.Dense(1)),
    ]
    assert len({net.fingerprint for net in variants}) == len(variants)


def test_fingerprint_is_the_same_in_another_process():
    net = stax.serial(stax.Dense(1, W_std=2**0.5, b_std=0.1), stax.Relu(), stax.Dense(1))
    code = (
        "import sys; from ntk_dist import stax; print(stax.from_json(sys.argv[1]).fingerprint); "
        "assert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", code, net.to_json()]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == net.fingerprint == "2216ae8e84ddf7b6"
