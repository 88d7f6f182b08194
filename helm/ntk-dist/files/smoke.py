"""Fits a small model through a running service, asks it, and looks whether the answer is right.

    NTK_DIST_TOKEN=... python smoke.py http://127.0.0.1:8080 [TIMEOUT_S]

Infinitely wide networks without a ridge go through every point that they have learned, so what the
model says of its own rows is known before it is asked: the wave below.
"""

from __future__ import annotations

import sys

import click
import numpy as np

from ntk_dist import Client, stax

N_ROWS = 96
MAX_ERROR = 1e-3
"""Of waves between -1 and 1; the job solves to a residual of 1e-6."""


def main(url: str, timeout_s: float) -> int:
    """0 if all went well, 1 if the model is wrong; whatever else fails says so itself."""
    x = np.random.default_rng(0).normal(size=(N_ROWS, 4))
    y = np.sin(x.sum(axis=1))
    network = stax.serial(
        stax.Dense(1, W_std=2**0.5, b_std=0.1), stax.Relu(), stax.Dense(1, W_std=1.0)
    )
    job = {
        "name": "smoke-test",
        "task": "regression",
        "data": {"x": x, "y": y},
        "architecture": network,
        "solver": {"tol": 1e-6},
    }
    with Client(url) as client:
        click.echo(f"service of version {client.version().version} at {url}")
        submitted = client.submit(job, upload=True)
        click.echo(f"job {submitted.id} is queued")
        submitted.wait(timeout_s=timeout_s)
        model = submitted.model()
        error = float(np.max(np.abs(model.predict(x).ravel() - y)))
    is_right = error <= MAX_ERROR
    verdict = "as it should" if is_right else f"expected at most {MAX_ERROR:g}"
    click.echo(f"model {model.name}, version {model.version}: largest error {error:.1e}, {verdict}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 600.0))
