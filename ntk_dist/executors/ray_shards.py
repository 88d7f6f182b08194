"""Shards on Ray workers: an actor for each, and where they live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ntk_dist.events import EventSink
from ntk_dist.executors.base import AbstractExecutor, AbstractShards, ShardCall
from ntk_dist.executors.drive import Handle
from ntk_dist.executors.outcome import Outcome, attempt_remotely
from ntk_dist.executors.retry import RetryPolicy
from ntk_dist.executors.tree import add_in_pairs

__all__ = ["RayShards", "RayTry", "rooms", "share_out"]

Assignment = TypeVar("Assignment")


@dataclass(frozen=True, eq=False)
class RayTry:
    """A reference to the outcome, and the actor that computes it if it calls a shard."""

    ref: Any
    actor: Any = None
    kept: Any = None
    """A reference to the value, if it stays where it is; the try itself then stands for it."""


class RayShards(AbstractShards):
    """One actor per shard, evenly over the nodes; a lost one is replaced where Ray finds room.

    Parameters
    ----------
    executor, factory, assignments, retry, on_event
        See :class:`AbstractShards`.
    options
        Of every actor.
    device
        What of a node counts as room for shards.
    """

    def __init__(
        self,
        executor: AbstractExecutor,
        options: Mapping[str, Any],
        device: Literal["CPU", "GPU"],
        factory: Callable[[Assignment], Any],
        assignments: Sequence[Assignment],
        retry: RetryPolicy,
        on_event: EventSink,
    ) -> None:
        super().__init__(executor, len(assignments), retry, on_event)
        self._options, self._device = options, device
        self._factory = ray.put(factory)
        self._assignments = list(assignments)
        self._actors: dict[int, Any] = {}
        self._nodes: list[str] = []
        """Where each shard is to live at first."""

    def _pack(self, args: tuple[Any, ...]) -> Any:
        """References into shared memory: each node receives an argument once."""
        return tuple(map(ray.put, args))

    def _submit(self, call: ShardCall, index: int, *, fresh: bool) -> Handle:
        if fresh:
            ray.kill(self._actors.pop(index))
        if index not in self._actors:
            # Of the node that is gone Ray may think for half a minute that it is there.
            where = "SPREAD" if fresh else self._place(index)
            new = ray.remote(_ShardActor).options(scheduling_strategy=where, **self._options)
            self._actors[index] = new.remote(self._factory, self._assignments[index])
        actor = self._actors[index]
        if call.keep:
            outcome, value = actor.keep.options(num_returns=2).remote(call.method, *call.packed)
            return RayTry(outcome, actor, kept=value)
        return RayTry(actor.call.remote(call.method, *call.packed), actor)

    def _place(self, index: int) -> Any:
        """Where to start the actor of a shard: evenly over the nodes, whatever else they do.

        "SPREAD" alone put both of two on one of two nodes in 4 trials of 12, which then needs twice
        the memory for blocks; and it uses nodes without a CPU, such as a head that is to take no
        work.
        """
        if not self._nodes:
            self._nodes = share_out(len(self), rooms(self._device))
        if not self._nodes:  # in a cluster that grows on demand
            return "SPREAD"
        return NodeAffinitySchedulingStrategy(self._nodes[index], soft=True)

    def _submit_sum(self, parts: Sequence[Any]) -> Handle:
        total = add_in_pairs(parts, self._add)
        return RayTry(total.kept, total.actor)

    def _add(self, first: RayTry, second: RayTry) -> RayTry:
        """Start one addition in the actor that has the first of two parts."""
        total = first.actor.add.remote(first.kept, second.kept)
        return RayTry(total, first.actor, kept=total)

    def _free(self) -> None:
        actors, self._actors = self._actors, {}
        if not self._executor.closed:
            for actor in actors.values():
                ray.kill(actor)


def rooms(device: Literal["CPU", "GPU"]) -> dict[str, float]:
    """CPUs or GPUs of the nodes that have some, by their ids."""
    nodes = (node for node in ray.nodes() if node["Alive"])  # Ray remembers those that are gone
    has = {node["NodeID"]: float(node["Resources"].get(device, 0)) for node in nodes}
    return {node: n for node, n in has.items() if n}


def share_out(n: int, rooms: Mapping[str, float]) -> list[str]:
    """A node for each of ``n`` shards, so that none has more than its room asks for.

    Parameters
    ----------
    n
        Shards.
    rooms
        CPUs or GPUs of each node, by its id.

    Returns
    -------
    list of str
        Node ids, of length ``n``; empty if there is no node.
    """
    held = Counter[str]()
    homes = []
    for _ in range(n if rooms else 0):
        home = min(rooms, key=lambda node: (held[node] + 1) / rooms[node])
        held[home] += 1
        homes.append(home)
    return homes


# Below: what runs inside a worker process.


class _ShardActor:
    """A worker process that holds one shard, built by the first call."""

    def __init__(self, factory: Callable[[Any], Any], assignment: Any) -> None:
        self._recipe = (factory, assignment)
        self._shard: Any = None

    def call(self, method: str, *args: Any) -> Outcome:
        return attempt_remotely(self._answer, method, args)

    def keep(self, method: str, *args: Any) -> tuple[Outcome, Any]:
        """The outcome without its value, and the value: two objects, of which one may stay."""
        outcome = self.call(method, *args)
        return replace(outcome, value=None), outcome.value

    def add(self, first: Any, second: Any) -> Any:
        return first + second

    def _answer(self, method: str, args: tuple[Any, ...]) -> Any:
        if self._shard is None:
            factory, assignment = self._recipe
            self._shard = factory(assignment)
        return getattr(self._shard, method)(*args)
