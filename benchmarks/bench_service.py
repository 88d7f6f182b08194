"""Predictions over HTTP: how long one row takes, how many rows a second, and what overload does.

    python benchmarks/bench_service.py --rows 10000 --seconds 5

A fully connected model is served by ``ntk-dist serve`` in a process of its own; clients of this
process send requests one after the other over connections that stay open. Answers are compared
with those of the model before anything is timed. Clients and server share the processors; one
column has what the server took of them for an answer. The rate with 256 rows a request is compared
with the same model asked in this process, in turn: what others do on the machine moves both. Then
ten times the clients that may wait ask a server with a short queue: every answer must be 200, or
429 with ``Retry-After``, and memory must stay bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from machine import describe_machine, keep_to_threads

from ntk_dist import NTKRegressor, stax
from ntk_dist.gram.block import compute_statistics
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.portable import pack
from ntk_dist.model.serving import ServingModel
from ntk_dist.store.dataset import MemoryRows
from ntk_dist.store.workspace import Workspace
from ntk_dist.units import format_bytes
from ntk_dist.wire import NPY, from_npy, to_npy

FEATURES = 784
TARGETS = 10
NAME = "bench"
LARGE = 256
QUEUE = 16
"""Requests that may wait when overload is tried."""
MOST_GROWTH = 512 * 2**20
"""Memory that overload may take, in bytes: bodies and rows of all who wait take 30 MiB."""


def model_of(rows: int, rng: np.random.Generator) -> NTKRegressor:
    """A model of so many training rows; predicting costs the same whatever its coefficients."""
    hidden = [layer for _ in range(3) for layer in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    network = stax.serial(*hidden, stax.Dense(1))
    x = rng.standard_normal((rows, FEATURES)).astype(np.float32)
    few = x[:20]
    model = NTKRegressor(network).fit(few, rng.standard_normal((len(few), TARGETS)))
    model.rows_ = MemoryRows(x)
    kernel = Kernel(network.layer, ("ntk",), "float32")
    layout = kernel.statistics_layout((FEATURES,))
    model.statistics_ = MemoryRows(layout.pack(compute_statistics(kernel, x)))
    model.dual_coef_ = rng.standard_normal((rows, TARGETS)) / rows
    model.report_ = replace(model.report_, n_rows=rows, n_unique=rows)
    return model


@contextmanager
def serving(workspace: Path, **variables: str) -> Iterator[tuple[str, int, psutil.Process]]:
    """Host, port and process of a server."""
    command = [sys.executable, "-m", "ntk_dist", "serve", "--workspace", str(workspace)]
    log = workspace / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", "--insecure"],
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
        )
    try:
        while not (found := re.findall(r"listening on http://([\d.]+):(\d+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {log.read_text()}")
            time.sleep(0.05)
        yield found[-1][0], int(found[-1][1]), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@dataclass
class Load:
    """What clients saw."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    """Of answers with status 200."""
    statuses: Counter[int] = field(default_factory=Counter)
    told_when: bool = True
    """Whether every 429 said when to come again."""

    def quantile(self, share: float) -> float:
        """Milliseconds within which so many of the answers came."""
        return float(np.quantile(self.latencies, share)) * 1000 if self.latencies else np.nan


def request_of(x: np.ndarray) -> bytes:
    """A whole request, as it goes over the wire."""
    body = to_npy(x)
    head = (
        f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {NPY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, body


async def ask(host: str, port: int, request: bytes) -> bytes:
    """The body of one answer."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    status, _, body = await answer_of(reader)
    writer.close()
    if status != 200:
        raise SystemExit(f"expected 200, got {status}: {body[:500]!r}")
    return body


async def load(host: str, port: int, request: bytes, clients: int, seconds: float) -> Load:
    """So many clients ask for so long."""
    found = Load(seconds)
    start = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while time.perf_counter() < start + seconds:
            begin = time.perf_counter()
            writer.write(request)
            await writer.drain()
            status, headers, _ = await answer_of(reader)
            found.statuses[status] += 1
            if status == 200:
                found.latencies.append(time.perf_counter() - begin)
            if status == 429:
                found.told_when &= "retry-after" in headers
                await asyncio.sleep(0.01)
        writer.close()

    await asyncio.gather(*[client() for _ in range(clients)])
    found.seconds = time.perf_counter() - start
    return found


def rate_of(predict, x: np.ndarray, seconds: float) -> float:
    """Rows a second, in this process."""
    predict(x)
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        predict(x)
        count += len(x)
    return count / (time.perf_counter() - start)


def show(title: str, rows: int, found: Load, cpu: float) -> bool:
    """A line of the table; whether every answer was one."""
    count = found.statuses[200]
    print(
        f"{title:<24}{found.quantile(0.5):9.2f}{found.quantile(0.99):9.2f}"
        f"{1000 * cpu / max(1, count):9.2f}{count * rows / found.seconds:11.0f}{count:9d}"
        f"{sum(found.statuses.values()) - count:8d}"
    )
    return set(found.statuses) <= {200}


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


def overloaded(workspace: Path, x: np.ndarray, seconds: float, threads: int) -> bool:
    """Ten times the clients that may wait, and what became of them and of the memory."""
    variables = {
        "NTK_DIST_SERVICE__MAX_WAITING_REQUESTS": str(QUEUE),
        "NTK_DIST_THREADS": str(threads),
    }
    with serving(workspace, **variables) as (host, port, process):
        request = request_of(x)
        asyncio.run(load(host, port, request, 2, min(1.0, seconds)))
        before, peak = process.memory_info().rss, 0

        async def watched() -> Load:
            nonlocal peak
            running = asyncio.ensure_future(load(host, port, request, 10 * QUEUE, seconds))
            while not running.done():
                peak = max(peak, process.memory_info().rss)
                await asyncio.sleep(0.05)
            return running.result()

        found = asyncio.run(watched())
    growth = peak - before
    print(
        f"overload: {10 * QUEUE} clients, {QUEUE} may wait: {found.statuses[200]} answers in "
        f"{found.seconds:.1f} s (p50 {found.quantile(0.5):.0f} ms, p99 {found.quantile(0.99):.0f} "
        f"ms), {found.statuses[429]} sent away, memory {format_bytes(before)} + "
        f"{format_bytes(growth)}"
    )
    return (
        set(found.statuses) <= {200, 429} and found.told_when and growth < MOST_GROWTH
    ) and found.statuses[200] > 0


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison of rates")
    arguments = parser.parse_args()
    keep_to_threads(arguments.threads)
    print(describe_machine(arguments.threads))
    rng = np.random.default_rng(0)
    model, x = model_of(arguments.rows, rng), rng.standard_normal((LARGE, FEATURES))
    x = x.astype(np.float32)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        with Workspace(folder).new_model(NAME) as draft:
            write_artifact(draft.place, pack(model))
        variables = {"NTK_DIST_THREADS": str(arguments.threads)}
        with serving(Path(folder), **variables) as (host, port, process):
            body = asyncio.run(ask(host, port, request_of(x)))
            expected = model.predict(x)
            error = np.abs(from_npy(body) - expected).max() / np.abs(expected).max()
            print(f"largest difference from the model asked in process: {error:.1e}")
            good &= error < 1e-9
            titles = ("p50 ms", "p99 ms", "CPU ms", "rows/s", "answers", "errors")
            print(" " * 24 + "{:>9}{:>9}{:>9}{:>11}{:>9}{:>8}".format(*titles))
            asyncio.run(load(host, port, request_of(x[:1]), 1, min(1.0, arguments.seconds)))
            for rows in (1, LARGE):
                for clients in arguments.clients:
                    request = request_of(x[:rows])
                    before = cpu_s(process)
                    found = asyncio.run(load(host, port, request, clients, arguments.seconds))
                    taken = cpu_s(process) - before
                    good &= show(f"{rows} rows, {clients} clients", rows, found, taken)
            ready = ServingModel(model)
            ratios: dict[str, list[float]] = {"predict": [], "prepared": []}
            for _ in range(arguments.rounds):
                found = asyncio.run(load(host, port, request_of(x), 2, arguments.seconds))
                over_http = LARGE * found.statuses[200] / found.seconds
                for name, predict in (
                    ("predict", model.predict),
                    ("prepared", lambda x: ready.values(ready.prepare(x), arguments.threads)),
                ):
                    inside = rate_of(predict, x, arguments.seconds / 2)
                    ratios[name].append(over_http / inside)
                    print(f"{over_http:.0f} rows/s over HTTP, {inside:.0f} in process: {name}")
            for name, each in ratios.items():
                print(f"rate over HTTP / in process, {name}: {median(each):.2f} (median)")
        good &= overloaded(Path(folder), x, arguments.seconds, arguments.threads)
    print("all checks held" if good else "CHECK FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
