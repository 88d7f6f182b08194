"""Requests on stdin, answers on stdout, one line of JSON each: how a peer is driven.

Runs under the peer's own interpreter and needs nothing but NumPy there. A request names files of
samples; the answer tells the seconds of one call, and the kernel is in the file it asked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SETTLING_S = 0.2
LONG_ENOUGH_S = 0.3
"""Short calls are repeated for this long, and their mean is told."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned; everybody's times are taken here."""
    # The threads of a BLAS that was called before spin for some time, on the CPUs of all others.
    time.sleep(SETTLING_S)
    calls, start = 0, time.perf_counter()
    while True:
        value, calls = call(), calls + 1
        elapsed = time.perf_counter() - start
        if elapsed >= LONG_ENOUGH_S:
            return elapsed / calls, value


def serve(prepare: Callable[[dict[str, Any]], Callable[[], np.ndarray]], versions: str) -> None:
    """Answer requests until stdin ends; ``versions`` is told first.

    ``prepare`` turns a request into a call that has nothing left to compile.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds, values = timed(prepare(request))
        np.save(request["out"], values)
        print(json.dumps(seconds), file=answers, flush=True)
