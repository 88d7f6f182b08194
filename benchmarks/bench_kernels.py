"""Pairs a second of every path, held against the machine's bound and against other packages.

    python benchmarks/bench_kernels.py [--case gap] [--neural-tangents PYTHON] [--json FILE]

Answers are compared first, and the run fails if any is off: this package and each peer against
the recursion in float64. Then this package, its bound and the peers take turns, ``--repeats``
times, and ratios are those of one turn. ``README.md`` in this folder says what the columns mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, Case, reference, relative_error
from machine import describe_machine, keep_to_threads
from peak import peak_flops
from peer import WORKERS, Peer
from peers.serving import timed

from ntk_dist.kernels.dispatch import DTYPES, Kernel
from ntk_dist.kernels.statistics import Statistics
from ntk_dist.settings import get_settings

LARGEST_ERROR = {"float32": 1e-6, "float64": 1e-12}
LARGEST_PEER_ERROR = {"float32": 1e-2, "float64": 1e-10}
"""Float64 of two packages: both are right. Float32 is published, and only nonsense refused."""
STATISTICS_BYTES = 2**28
"""Working memory that the samples' statistics may take."""
COLUMNS = "| network | dtype | pairs/s | bound | % of the bound | error | statistics, ms |"
PEER_COLUMNS = " {0}, pairs/s (block) | ratio | its error |"


@dataclass(frozen=True)
class Prepared:
    """A case with its samples, and the right answer for some of them."""

    case: Case
    x1: np.ndarray
    x2: np.ndarray | None
    exact: np.ndarray

    @classmethod
    def of(cls, case: Case, side: int) -> Prepared:
        """Samples and reference of a case."""
        x1, x2 = case.samples(side)
        some = slice(case.checked)
        return cls(
            case, x1, x2, reference(case.network, x1[some], None if x2 is None else x2[some])
        )

    def error(self, ntk: np.ndarray) -> float:
        """The largest relative error of the entries that are known."""
        return relative_error(ntk, self.exact, self.case.symmetric)

    @property
    def request(self) -> dict[str, Any]:
        """What a peer is told of the network."""
        return {"architecture": self.case.network.to_json(), "depth": self.case.depth}


class Ours:
    """Our own package on one case, with the statistics of its samples known."""

    def __init__(self, prepared: Prepared, dtype: str) -> None:
        self.kernel = Kernel(prepared.case.network.layer, ("ntk",), dtype)
        self.x1 = prepared.x1.astype(dtype)
        self.x2 = None if prepared.x2 is None else prepared.x2.astype(dtype)
        # A copy: NumPy computes the product of an array with itself otherwise.
        self._other = self.x1.copy() if self.x2 is None else self.x2
        self.pairs = len(self.x1) * len(self._other)
        self.flops = self.kernel.flops_per_pair(self.x1.shape[1:])
        self._left = self._known(self.x1)
        self._right = None if self.x2 is None else self._known(self.x2)

    def block(self) -> np.ndarray:
        """The NTK."""
        return self.kernel.block(self.x1, self.x2, self._left, self._right)["ntk"]

    def gemm(self) -> None:
        """The products of all samples alone, by BLAS."""
        np.matmul(self.x1, self._other.T)

    def statistics_s(self) -> float:
        """Seconds per sample that statistics take."""
        few = self.x1[: self._step]
        return timed(lambda: self.kernel.statistics(few))[0] / len(few)

    def bound(self) -> float:
        """Pairs a second that this machine allows, measured now."""
        if self.x1.ndim == 2:
            # Of a symmetric block, the upper triangle is enough.
            return (2 if self.x2 is None else 1) * self.pairs / timed(self.gemm)[0]
        return peak_flops(self.kernel.dtype.name, get_settings().threads) / self.flops

    @property
    def _step(self) -> int:
        return max(1, STATISTICS_BYTES // self.kernel.sample_working_bytes(self.x1.shape[1:]))

    def _known(self, x: np.ndarray) -> Statistics:
        parts = [
            self.kernel.statistics(x[i : i + self._step]) for i in range(0, len(x), self._step)
        ]
        return Statistics.concatenate(parts)


def measure(
    prepared: Prepared, peers: dict[str, Peer], dtype: str, repeats: int, peer_seconds: float
) -> dict[str, Any]:
    """One line of the table: answers compared, then timed in turns."""
    case, ours = prepared.case, Ours(prepared, dtype)
    _, ntk = timed(ours.block)  # and everything is compiled
    error = prepared.error(ntk)
    _refuse(error, LARGEST_ERROR[dtype], case.title, dtype, "this package")
    best = {}
    for name, peer in peers.items():
        if name == "scikit-ntk" and case.depth is None:
            continue
        best[name] = peer.best(
            prepared.request, prepared.x1, prepared.x2, case.peer_side, peer_seconds
        )
        theirs = prepared.error(best[name].ntk)
        _refuse(theirs, LARGEST_PEER_ERROR[dtype], case.title, dtype, name)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", "bound", *best)}
    for _ in range(repeats):
        rates["bound"].append(ours.bound())
        rates["ours"].append(ours.pairs / timed(ours.block)[0])
        for name, block in best.items():
            again = peers[name].block(prepared.request, prepared.x1, prepared.x2, block.side)
            rates[name].append(again.rate)
    return {
        "case": case.title,
        "dtype": dtype,
        "path": ours.kernel.choice(ours.x1.shape[1:]).explanation,
        "rows": case.rows,
        "columns": case.columns,
        "flops_per_pair": ours.flops,
        "error": error,
        "statistics_s_per_sample": ours.statistics_s(),
        "pairs_per_s": rates["ours"],
        "bound": "GEMM" if ours.x1.ndim == 2 else "flops",
        "bound_pairs_per_s": rates["bound"],
        "peers": {
            name: {
                "side": block.side,
                "error": prepared.error(block.ntk),
                "pairs_per_s": rates[name],
            }
            for name, block in best.items()
        },
    }


def _refuse(error: float, largest: float, title: str, dtype: str, who: str) -> None:
    if not error <= largest:
        raise SystemExit(
            f"CHECK FAILED: {title}, {dtype}: {who} is off by {error:.1e}, expected {largest:.0e}"
        )


def as_line(row: dict[str, Any], peers: list[str]) -> str:
    """The row of a Markdown table."""
    ours = row["pairs_per_s"]
    cells = [
        row["case"],
        row["dtype"],
        _number(ours),
        _number(row["bound_pairs_per_s"]),
        _ratios([100 * r for r in ours], row["bound_pairs_per_s"]),
        f"{row['error']:.1e}",
        f"{1e3 * row['statistics_s_per_sample']:.3g}",
    ]
    for name in peers:
        peer = row["peers"].get(name)
        if peer is None:
            cells += ["-"] * 3
            continue
        rates, side = peer["pairs_per_s"], peer["side"]
        cells.append(f"{_number(rates)} ({side} x {side})")
        cells += [_ratios(ours, rates), f"{peer['error']:.1e}"]
    return f"| {' | '.join(cells)} |"


def _number(rates: list[float]) -> str:
    """The median, to three digits."""
    median = statistics.median(rates)
    return f"{float(f'{median:.3g}'):,.{0 if median >= 100 else 2}f}"


def _ratios(ours: list[float], others: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(ours, others, strict=True))
    return " / ".join(
        f"{float(f'{r:.3g}'):,g}" for r in (ratios[0], statistics.median(ratios), ratios[-1])
    )


def main() -> None:
    """Print a table; fail if any answer is off."""
    options = parse()
    threads = get_settings().threads
    keep_to_threads(threads)
    chosen = options.case or list(CASES)
    peers = {name: path for name in WORKERS if (path := getattr(options, name.replace("-", "_")))}
    print(about := describe_machine(threads))
    for name in WORKERS:
        if name not in peers:
            print(f"{name}: left out, no --{name} given")
    prepared = [Prepared.of(CASES[name].resized(options.pairs), options.side) for name in chosen]
    for each in prepared:
        kernel = Kernel(each.case.network.layer)
        print(f"{each.case.title}: {kernel.choice(each.x1.shape[1:]).explanation}")
    header = COLUMNS + "".join(PEER_COLUMNS.format(name) for name in peers)
    print(f"\n{header}\n|{'---|' * (header.count('|') - 1)}", flush=True)
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for dtype in options.dtype or DTYPES:
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(Peer(name, path, dtype)) for name, path in peers.items()
            }
            versions |= {name: worker.versions for name, worker in workers.items()}
            for each in prepared:
                rows.append(measure(each, workers, dtype, options.repeats, options.peer_seconds))
                print(as_line(rows[-1], list(peers)), flush=True)
    print(
        f"\n{', '.join(versions.values()) or 'no peers'}; load {os.getloadavg()[0]:.1f} at the end"
    )
    if options.json:
        record = {
            "machine": about.splitlines(),
            "peers": versions,
            "repeats": options.repeats,
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(record, indent=1))
    print("all checks held")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="only this; repeatable")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only this")
    parser.add_argument("--side", type=int, default=32, help="pixels of an image's side")
    parser.add_argument("--pairs", type=int, help="of a block of this package")
    parser.add_argument("--repeats", type=int, default=3, help="turns of everybody")
    parser.add_argument("--peer-seconds", type=float, default=10.0, help="longest call of a peer")
    parser.add_argument("--json", help="file for all the numbers")
    for name in WORKERS:
        parser.add_argument(f"--{name}", help=f"an interpreter that has {name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
