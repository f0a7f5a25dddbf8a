"""The local engine: shards in this process, and those of small models on a CPU in others beside it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from vhsbench import generators, verifiers
from vhsbench.harness.common.children import Child, ChildEnded, asked
from vhsbench.harness.common.heap import kept_heap
from vhsbench.harness.config.models import chosen_detector
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.sweep.shards import Finished, Shard, Worker, WorkerError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

FEWEST = 6  # shards of one generator for which another process is worth its start
_SMALL_BYTES = 2**28  # of weights: operators of such models are too short to be shared between cores
_MOST = 8  # processes

Prompts = Sequence[dict[str, Any]]


def local(config: RunConfig, prompts: Prompts, todo: Sequence[Shard]) -> Iterator[Finished]:
    """Make shards on this machine, each model loaded once a process: the default engine.

    Models too small to gain from several CPU threads are given as many processes, of one thread each.
    """
    for number, (entry, group) in enumerate(groupby(todo, lambda shard: shard.entry)):
        if number:
            gc.collect()  # free the last models before the next are loaded: a generator's parts hold each other
        worker, shards = Worker(config, prompts, entry), list(group)
        with kept_heap() if worker.on_cpu else nullcontext():
            if (processes := _processes(worker, len(shards))) > 1:
                yield from _shared(worker, shards, processes)
            else:
                yield from map(worker.work, shards)
        del worker


def _processes(worker: Worker, shards: int) -> int:
    """Return how many processes are to make so many shards; of others' packages, nothing is known."""
    config, entry = worker.config, worker.entry
    ours = (
        entry.name in generators.SPECS
        and all(verifiers.REGISTRY.is_builtin(v.name) for v in config.verifiers_of(entry))
        and all(judge.name == "geneval" and not judge.options for judge in config.judged_by)
        and chosen_detector(config, worker.prompts).name == "shapes"
    )
    if not (ours and worker.on_cpu and shards >= FEWEST and _weight_bytes(worker) <= _SMALL_BYTES):
        return 1
    return min(torch.get_num_threads(), shards // 2, _MOST)


def _weight_bytes(worker: Worker) -> int:
    parts = list(worker.generator.modules().values())
    for verifier in worker.bench.verifiers:
        parts += verifier.modules().values()
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def _shared(worker: Worker, shards: Sequence[Shard], processes: int) -> Iterator[Finished]:
    """Make shards here and in other processes, in the order in which they are done."""
    left, done = SimpleQueue[Shard](), SimpleQueue[Finished | Exception]()
    for each in shards:
        left.put(each)
    threads = torch.get_num_threads()
    with _threads(threads // processes) as own:
        given = (worker.config, worker.prompts, shards[0].entry, threads, own)
        # started by this thread: with the one that starts them, Linux ends their server
        children = [Child(_help, *given) for _ in range(processes - 1)]
        try:
            for child in children:
                Thread(target=_feed, args=(child, left, done), daemon=True).start()
            waiting = len(shards)
            while waiting:
                if (shard := _next(left)) is not None:
                    done.put(worker.work(shard))
                for made in _ready(done):
                    waiting -= 1
                    yield made
        except BaseException:
            for child in children:
                child.kill()  # not waited for: it may be in the middle of a shard
            raise
        finally:
            for child in children:
                child.close()


def _feed(child: Child, left: SimpleQueue[Shard], done: SimpleQueue[Finished | Exception]) -> None:
    """Give shards to a process, as soon as it has its models, while there are any."""
    try:
        child.receive()
        while (shard := _next(left)) is not None:
            child.send(shard)
            done.put(child.receive())
    except ChildEnded as ended:
        done.put(WorkerError(
            f"a process that makes candidates beside this one ended with exit code {ended.code} and without a reason, "
            "usually because memory ran out (`threads: 1` needs no such process), or because a script runs this "
            "without `if __name__ == '__main__':`."
        ))  # fmt: skip
    except Exception as error:
        done.put(error)


def _ready(done: SimpleQueue[Finished | Exception]) -> Iterator[Finished]:
    """Yield what is done, and wait for one if nothing is: what stays here is lost if this process is killed."""
    while True:
        made = done.get()
        if isinstance(made, Exception):
            raise made
        yield made
        if done.empty():
            return


def _next(left: SimpleQueue[Shard]) -> Shard | None:
    try:
        return left.get_nowait()
    except Empty:
        return None


def _help(pipe: Connection, config: RunConfig, prompts: Prompts, entry: int, threads: int, own: int) -> None:
    """Make the shards that are asked for, with `own` of the run's threads: what a process beside `local` does."""
    torch.set_num_threads(threads)
    worker = Worker(config, prompts, entry)  # whose rows say with how many threads the run was made
    with kept_heap(), _threads(own):
        pipe.send(None)
        for shard in asked(pipe):
            pipe.send(worker.work(shard))


@contextmanager
def _threads(count: int) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
