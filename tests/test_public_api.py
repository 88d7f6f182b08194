import subprocess
import sys

import numpy as np
import pytest

import ntk_dist


def test_the_promised_names_are_there():
    assert ntk_dist.__all__ == [
        "AsyncClient",
        "Client",
        "NTKClassifier",
        "NTKRegressor",
        "__version__",
        "stax",
    ]
    for name in ntk_dist.__all__:
        assert getattr(ntk_dist, name) is not None
    assert dir(ntk_dist) == ntk_dist.__all__


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="NTKMagic"):
        _ = ntk_dist.NTKMagic


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, ntk_dist; "
        "print([m for m in ('jax', 'zarr', 'ray', 'distributed', 'sklearn') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"


def test_a_client_is_imported_without_what_computes():
    script = (
        "import sys; from ntk_dist import AsyncClient, Client; "
        "heavy = ('jax', 'numba', 'pandas', 'pyarrow', 'pydantic', 'rich', 'scipy', 'sklearn', "
        "'sqlalchemy', 'zarr', 'fastapi'); print([m for m in heavy if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"


def test_importing_changes_no_numerics():
    script = (
        "import jax; before = jax.config.values.copy(); "
        "from ntk_dist import NTKClassifier, stax; import numpy as np; "
        "stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn(np.eye(3)); "
        "print([k for k, v in jax.config.values.items() if before.get(k) != v])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "[]"


def test_the_example_of_the_design_runs():
    stax = ntk_dist.stax
    net = stax.serial(
        stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5, b_std=0.1),
        stax.Relu(),
        stax.AvgPool((2, 2), (2, 2)),
        stax.Flatten(),
        stax.Dense(1, W_std=1.0),
    )
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    both = net.kernel_fn(x, get=("nngp", "ntk"))
    assert both._fields == ("nngp", "ntk")
    assert both.ntk.shape == (3, 3)
    assert stax.from_json(net.to_json()).fingerprint == net.fingerprint
