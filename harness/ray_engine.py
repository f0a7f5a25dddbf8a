"""Shards done by Ray actors, on one machine or a cluster; the driver alone writes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from harness.config import ConfigError, RunConfig
from harness.shards import Finished, Shard, Worker, lost

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError, WorkerCrashedError
except ImportError:
    raise ConfigError("--engine ray needs Ray; install it with `pip install vhsbench[ray]`.") from None

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # shards a worker has: one done while the next waits, so that results stay bounded
DEATHS = 4  # of a worker in a shard, after which the shard counts as failed
_END_S = 30.0


class EngineError(ValueError):
    """Workers that cannot do a run; the message is one sentence for a user."""


class _Actor:
    """A process with a worker; loading is a call of its own, so that its errors come back whole."""

    def load(self, config: dict[str, Any], prompts: list[dict[str, Any]], entry: int, threads: int) -> Any:
        torch.set_num_threads(threads)
        self.worker = Worker(RunConfig.model_validate(config), prompts, entry)
        return os.getpid(), ray.get_runtime_context().get_node_id(), self.worker.generator.steps

    def work(self, shard: Shard) -> Finished:
        return self.worker.work(shard)


@dataclass
class _Slot:
    """A place for a worker: its actor, the generator that it has loaded, and its shards, oldest first."""

    entry: int
    actor: Any = None
    loading: Any = None  # until then it gets no shards, so that none waits for a place that never comes
    flight: dict[Any, Shard] = field(default_factory=dict)


class RayEngine:
    """An engine of `workers` actors that hold one generator each, and change it only when its shards end.

    `address` is a cluster's; None starts Ray on this machine, without a dashboard. A worker that dies is
    replaced and its shards are done again; one that dies DEATHS times in a shard makes it a failed one.
    """

    def __init__(self, address: str | None, workers: int | None, gpus_per_worker: float | None) -> None:
        self.address, self.workers, self.gpus = address, workers, gpus_per_worker

    def __call__(
        self, config: RunConfig, prompts: Sequence[dict[str, Any]], todo: Sequence[Shard]
    ) -> Iterator[Finished]:
        """Yields each shard once, in any order; ends when all workers have ended."""
        if not todo:
            return
        mine = not ray.is_initialized()
        if mine:
            _connect(self.address)
        pool = _Pool(config, prompts, todo, self._resources(config))
        try:
            count = self.workers or pool.fitting()
            yield from pool.work(min(count, len(todo)))
        finally:
            pool.end()
            if mine:
                ray.shutdown()

    def _resources(self, config: RunConfig) -> dict[str, float]:
        threads = config.threads or torch.get_num_threads()
        if config.device.startswith("cuda"):
            return {"num_cpus": 1, "num_gpus": 1.0 if self.gpus is None else self.gpus}
        return {"num_cpus": threads, "num_gpus": self.gpus or 0}


class _Pool:
    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[dict[str, Any]],
        todo: Sequence[Shard],
        resources: dict[str, float],
    ) -> None:
        self.config, self.resources = config, resources
        self.prompts = list(prompts)
        self.queues: dict[int, deque[Shard]] = {}
        for shard in todo:
            self.queues.setdefault(shard.entry, deque()).append(shard)
        self.left = len(todo)
        self.loads_failed = 0  # in a row
        self.deaths: dict[str, int] = {}
        self.steps: dict[int, int] = {}
        self.slots: list[_Slot] = []
        self.processes: list[tuple[int, str]] = []

    def fitting(self) -> int:
        """How many workers the cluster has room for. Raises ConfigError for none."""
        have = ray.cluster_resources()
        need = {"CPU": self.resources["num_cpus"], "GPU": self.resources["num_gpus"]}
        count = min(int(have.get(name, 0) // amount) for name, amount in need.items() if amount)
        if not count:
            raise ConfigError(
                f"a worker needs {need['CPU']:g} CPU(s) and {need['GPU']:g} GPU(s), but the Ray cluster has "
                f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}; lower 'threads' or --gpus-per-worker."
            )
        return count

    def work(self, count: int) -> Iterator[Finished]:
        longest = sorted(self.queues, key=lambda e: -len(self.queues[e]))
        self.slots = [_Slot(longest[i % len(longest)]) for i in range(count)]
        for slot in self.slots:
            self._start(slot)
        while self.left:
            for slot in self.slots:
                self._feed(slot)
            waiting = {ref: s for s in self.slots for ref in (*s.flight, *([s.loading] if s.loading else []))}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=5.0)
            for ref in ready:
                done = self._take(waiting[ref], ref)
                if done is not None:
                    self.left -= 1
                    yield done

    def _start(self, slot: _Slot) -> None:
        options = {**self.resources, "max_restarts": 0, "max_task_retries": 0}
        slot.actor = ray.remote(**options)(_Actor).remote()
        threads = self.config.threads or torch.get_num_threads()
        config = self.config.model_dump(mode="json")
        slot.loading = slot.actor.load.remote(config, self.prompts, slot.entry, threads)

    def _feed(self, slot: _Slot) -> None:
        """Give shards of the generator that it has loaded; when they end, load the one most behind."""
        if slot.loading is not None:
            return
        queue = self.queues[slot.entry]
        while queue and len(slot.flight) < IN_FLIGHT:
            shard = queue.popleft()
            slot.flight[slot.actor.work.remote(shard)] = shard
        behind = max(self.queues, key=lambda e: len(self.queues[e]))
        if not slot.flight and self.queues[behind]:
            ray.kill(slot.actor)
            slot.entry = behind
            self._start(slot)

    def _take(self, slot: _Slot, ref: Any) -> Finished | None:
        if ref is not slot.loading and ref not in slot.flight:
            return None  # its worker died a moment ago
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            raise error.cause or error from None
        except (RayActorError, ActorUnavailableError, WorkerCrashedError) as error:
            return self._replace(slot, str(error).partition("\n")[0])
        if ref is slot.loading:
            pid, node, self.steps[slot.entry] = value
            self.processes.append((pid, node))
            slot.loading = None
            self.loads_failed = 0
            return None
        del slot.flight[ref]
        done: Finished = value
        return done

    def _replace(self, slot: _Slot, reason: str) -> Finished | None:
        """Start a worker anew, and queue its shards again; the shard it died in may have failed for good."""
        log.warning("a worker ended (%s); its shards are done again.", reason)
        if slot.loading is not None:
            self.loads_failed += 1
            if self.loads_failed >= DEATHS * len(self.slots):
                name = self.config.generators[slot.entry].key
                raise EngineError(f"workers ended {self.loads_failed} times while loading '{name}': {reason}")
        shards = list(slot.flight.values())
        slot.flight.clear()
        failed = None
        if shards:
            first = shards[0]
            self.deaths[first.key] = self.deaths.get(first.key, 0) + 1
            if self.deaths[first.key] >= DEATHS:
                name = self.config.generators[first.entry].shown
                said = f"the worker ended {DEATHS} times in this shard"
                failed = lost(first, name, self.steps[first.entry], said)
                shards = shards[1:]
        self.queues[slot.entry].extendleft(reversed(shards))
        ray.kill(slot.actor)
        self._start(slot)
        return failed

    def end(self) -> None:
        """End the workers and wait until those of this machine are gone, so that timing is alone on it."""
        for slot in self.slots:
            ray.kill(slot.actor)
        here = ray.get_runtime_context().get_node_id()
        until = time.monotonic() + _END_S
        for pid, node in self.processes:
            while node == here and psutil.pid_exists(pid) and time.monotonic() < until:
                time.sleep(0.05)


def _connect(address: str | None) -> None:
    """Join a cluster, or start Ray here without a dashboard. Raises ConfigError."""
    stop = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"no Ray cluster at '{address or 'local'}': {first}.") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place
