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
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.processes import Place, end_with, find, here, lives
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.config.run import ConfigError, RunConfig
from vhsbench.harness.sweep.identity import Identity, of_entry
from vhsbench.harness.sweep.shards import Finished, Shard, Worker, lost

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError, WorkerCrashedError

    from vhsbench.harness.sweep.ray_loopback import on_loopback
except ImportError:
    raise ConfigError("--engine ray needs Ray; install it with `pip install vhsbench[ray]`.") from None

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # shards a worker has: one done while the next waits, so that results stay bounded
DEATHS = 4  # of a worker in a shard, after which the shard counts as failed
_END_S = 30.0


class EngineError(VhsbenchError):
    """Workers that cannot do a run; the message is one sentence for a user."""


class _Actor:
    """A process with a worker; loading is a call of its own, so that its errors come back whole."""

    def load(
        self, config: dict[str, Any], prompts: list[dict[str, Any]], entry: int, threads: int, driver: Place
    ) -> tuple[Place, int, Identity, str]:
        """Return where this process is, its generator's steps, and what it makes candidates of, on which host."""
        if (process := find(driver)) is not None:
            end_with(process)  # Ray does so too, on another machine or later
        torch.set_num_threads(threads)
        self.worker = Worker(RunConfig.model_validate(config), prompts, entry)
        return here(), self.worker.generator.steps, self.worker.identity, self.worker.made["host"]

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

    `address` is a cluster's (or RAY_ADDRESS is); else Ray starts on this machine, on loopback, without a dashboard. A worker that dies is
    replaced and its shards are done again; one that dies DEATHS times in a shard makes it a failed one.
    """

    def __init__(self, address: str | None, workers: int | None, gpus_per_worker: float | None) -> None:
        self.address, self.workers, self.gpus = address, workers, gpus_per_worker

    def __call__(
        self, config: RunConfig, prompts: Sequence[dict[str, Any]], todo: Sequence[Shard]
    ) -> Iterator[Finished]:
        """Yield each shard once, in any order; end when all workers have ended."""
        if not todo:
            return
        resources = self._resources(config)
        mine = not ray.is_initialized()
        if mine:
            _connect(self.address or os.environ.get("RAY_ADDRESS"))
        pool = _Pool(config, prompts, todo, resources)
        try:
            count = self.workers or pool.fitting()
            yield from pool.work(min(count, len(todo)))
        finally:
            left = pool.end()
            if mine:
                ray.shutdown()
        if left:
            raise EngineError(
                f"worker process {left[0]} has not ended within {_END_S:g} s, and costs are measured on a "
                "machine without others; run the same command again to measure them."
            )

    def _resources(self, config: RunConfig) -> dict[str, float]:
        """Return what a worker reserves. Raises ConfigError for a share or a device that Ray cannot give."""
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ConfigError(
                f"--gpus-per-worker is a share of one GPU (0.5) or a whole number, not {self.gpus:g}."
            )
        if not config.device.startswith("cuda"):
            threads = config.threads or torch.get_num_threads()
            return {"num_cpus": threads, "num_gpus": self.gpus or 0}
        if config.device not in ("cuda", "cuda:0"):
            raise ConfigError(
                f"with --engine ray the device is 'cuda', not '{config.device}': Ray gives each worker its GPU."
            )
        if self.gpus == 0:
            raise ConfigError(
                f"--gpus-per-worker 0 gives workers no GPU, which device '{config.device}' needs."
            )
        return {"num_cpus": 1, "num_gpus": 1.0 if self.gpus is None else self.gpus}


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
        self.processes: list[psutil.Process] = []  # workers of this machine

    def fitting(self) -> int:
        """Count the workers that the cluster has room for. Raises ConfigError for none."""
        cpus, gpus = self.resources["num_cpus"], self.resources["num_gpus"]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = sum(_room(n.get("CPU", 0.0), n.get("GPU", 0.0), cpus, gpus) for n in nodes)
        if not count:
            have = ray.cluster_resources()
            raise ConfigError(
                f"a worker needs {cpus:g} CPU(s) and {gpus:g} GPU(s) of one node, but the Ray cluster has "
                f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g} on {len(nodes)} node(s); "
                "lower 'threads' or --gpus-per-worker."
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
        options: dict[str, Any] = {**self.resources, "max_restarts": 0, "max_task_retries": 0}
        slot.actor = ray.remote(**options)(_Actor).remote()
        threads = self.config.threads or torch.get_num_threads()
        config = self.config.model_dump(mode="json")
        slot.loading = slot.actor.load.remote(config, self.prompts, slot.entry, threads, here())

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
            return self._replace(slot, first_line(error))
        if ref is slot.loading:
            place, self.steps[slot.entry], identity, host = value
            self._check(slot.entry, identity, host)
            if (process := find(place)) is not None:
                self.processes.append(process)
            slot.loading = None
            self.loads_failed = 0
            return None
        del slot.flight[ref]
        done: Finished = value
        return done

    def _check(self, entry: int, made: Identity, host: str) -> None:
        """Refuse a worker that has other files or versions than this machine. Raises EngineError."""
        now = of_entry(self.config, self.prompts, self.config.generators[entry])
        if differing := now.unlike(made):
            raise EngineError(
                f"the worker on {host} would make candidates of '{self.config.generators[entry].key}' with other than "
                f"what is here: {', '.join(differing[:3])}; put the same files and versions on both."
            )

    def _replace(self, slot: _Slot, reason: str) -> Finished | None:
        """Replace a worker, and queue its shards again; the shard it died in may have failed for good."""
        log.warning("a worker ended (%s); its shards are done again.", reason)
        if slot.loading is not None:
            self.loads_failed += 1
            if self.loads_failed >= DEATHS * len(self.slots):
                name = self.config.generators[slot.entry].key
                raise EngineError(
                    f"workers ended {self.loads_failed} times while loading '{name}': {reason}."
                )
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

    def end(self) -> list[int]:
        """End the workers and wait until those of this machine are gone, so that timing is alone on it.

        Returns the pids of those that are not.
        """
        for slot in self.slots:
            ray.kill(slot.actor)
        until = time.monotonic() + _END_S
        while (left := [p.pid for p in self.processes if lives(p)]) and time.monotonic() < until:
            time.sleep(0.05)
        return left


def _room(have_cpus: float, have_gpus: float, cpus: float, gpus: float) -> int:
    """Count the workers that a node has room for; a share of a GPU is of one GPU."""
    places = [int(have_cpus / cpus + 1e-6)] if cpus else []
    if gpus >= 1:
        places.append(int(have_gpus / gpus))
    elif gpus:
        places.append(int(have_gpus) * int(1 / gpus + 1e-6))
    return min(places)


def _connect(address: str | None) -> None:
    """Join a cluster, or start Ray here, on loopback and without a dashboard. Raises ConfigError."""
    stop = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if address is None:
            with on_loopback():
                ray.init("local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at '{address or 'local'}': {first_line(error)}.") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place
