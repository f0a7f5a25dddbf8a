"""How fast a sweep's pools are made: the plain way and by the variant `fast`, shard by shard in turn, in one process.

    python benchmarks/sweep_speed.py --out results/performance/sweep-NAME.json [--seconds 200] [--rounds 4]
    python benchmarks/sweep_speed.py --out FILE --tiny                     # nano on the CPU: a dry run
    python benchmarks/sweep_speed.py --out FILE --way after --way plain    # judging after generation, and behind it

SANA-Sprint, VHS, MLLM w/ CLIP and GenEval's detector with its colour model, at full size with random weights on one GPU.
What is timed is a worker's whole shard of 64 candidates (vhsbench.harness.sweep.shards.Worker.work), of prompts of all
tasks; the first of each way is left out. `stages` has ms an image of each stage of one more shard, without overlap, with a
wait for the GPU on either side of it. Every figure is written to FILE when it is known; started again with the same
FILE, the rest is measured. `--seconds` starts nothing new after that long.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fast import Figures

from vhsbench.harness.config.run import RunConfig, parse
from vhsbench.harness.cost.environment import environment
from vhsbench.harness.cost.measure import device_name
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.shards import SMALLEST_SHARD, Finished, Shard, Worker

FULL = """
generators: [{{name: sana-sprint, options: {{weights: random, dtype: bfloat16}}{variant}}}]
verifiers:
  - {{name: vhs, checkpoint: random, options: {{dtype: bfloat16}}}}
  - {{name: mllm-clip, checkpoint: random, options: {{dtype: bfloat16}}}}
prompts: {{source: geneval}}
detector: {{name: mask2former, options: {{checkpoint: random, colors: random, dtype: {dtype}}}}}
device: cuda
overlap: {overlap}
gallery_prompts: 0
pool: 8
batch_size: 8
"""
TINY = """
generators: [{{name: nano{variant}}}]
verifiers: [{{name: vhs}}, {{name: mllm-clip}}]
prompts: {{source: nano}}
threads: 1
overlap: {overlap}
gallery_prompts: 0
pool: 1
batch_size: 8
"""
WAYS = {
    "after": {"variant": "", "dtype": "float32", "overlap": "false"},
    "plain": {"variant": "", "dtype": "float32", "overlap": "true"},
    "fast": {"variant": ", variant: fast", "dtype": "float16", "overlap": "true"},
}
_STAGES = ("encode", "noise", "head", "tail", "decode")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    ways, text = options.way or ["plain", "fast"], TINY if options.tiny else FULL
    configs = {way: parse(text.format(**WAYS[way]), f"the way '{way}'") for way in ways}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    device = device_name(torch.device(configs[ways[0]].device))
    settings = {"ways": ways, "configuration": text, "device": device}
    figures = Figures(options.out, settings, options.seconds)
    figures.known["environment"] = environment()
    rounds = [f"round {i}" for i in range(1, options.rounds + 1)]
    keys = [*rounds[:2], "stages", *rounds[2:]]
    if any(figures.lacks(key) for key in keys):
        _measure(figures, configs, keys)
    if summary := summed(figures.known):
        figures.note("summary", summary)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing after this long")
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated; the first is the old")
    parser.add_argument("--tiny", action="store_true", help="nano on the CPU: a dry run")
    return parser


def _measure(figures: Figures, configs: dict[str, RunConfig], keys: Sequence[str]) -> None:
    """Build a worker a way, warm each up with a shard, and measure what is not known."""
    prompts = of_all_tasks(load_prompts(next(iter(configs.values()))))
    workers, began = dict[str, Worker](), dict[str, dict[str, float]]()
    for way, config in configs.items():
        started = time.perf_counter()
        workers[way] = Worker(config, prompts, 0)
        built = time.perf_counter()
        workers[way].work(shard(0))
        began[way] = {"build_s": built - started, "first_shard_s": time.perf_counter() - built}
    if "began" not in figures.known:  # a second start compiles from inductor's cache
        figures.note("began", began)
    for key in keys:
        if not figures.lacks(key):
            continue
        if key == "stages":
            figures.note(key, {way: stages(worker) for way, worker in workers.items()})
        else:
            figures.note(key, compared(workers, int(key.split()[1])))
    if torch.cuda.is_available():
        figures.note("peak_gb", torch.cuda.max_memory_reserved() / 1e9)


def of_all_tasks(prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return prompts in an order in which each shard has some from everywhere, as suites go task by task."""
    step = len(prompts) // SMALLEST_SHARD
    return [prompt for first in range(step) for prompt in prompts[first::step][:SMALLEST_SHARD]]


def shard(number: int) -> Shard:
    return Shard(f"shard-{number}", 0, 0, number * SMALLEST_SHARD, (number + 1) * SMALLEST_SHARD)


def compared(workers: dict[str, Worker], number: int) -> dict[str, Any]:
    """Time one shard each way, the first way last in every other round; say how far results are apart."""
    found, took = dict[str, Finished](), dict[str, float]()
    for way in list(workers)[:: 1 if number % 2 else -1]:
        started = time.perf_counter()
        found[way] = workers[way].work(shard(number))
        took[way] = time.perf_counter() - started
    tables = [found[way].tables for way in workers]
    if any(len(each["incidents"]) for each in tables):
        raise RuntimeError(f"round {number}: {[each['incidents'].to_dict('records') for each in tables]}")
    first, last = tables[0], tables[-1]
    return {
        "candidates": len(first["candidates"]),
        "wall_s": {way: took[way] for way in workers},
        "same_verdicts": float((first["candidates"]["correct"] == last["candidates"]["correct"]).mean()),
        "most_score_difference": float((first["scores"]["score"] - last["scores"]["score"]).abs().max()),
    }


def stages(worker: Worker) -> dict[str, float]:
    """Measure ms an image of a shard's stages, one after another; `rest` is what no stage has, `logits` is part of detect."""
    last = range(len(worker.prompts) - SMALLEST_SHARD, len(worker.prompts))  # whose texts are not encoded yet
    rows = [(prompt, 0, index) for prompt in last for index in range(worker.config.pool_of(worker.entry))]
    size = worker.config.batch_size
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    watch, detector = Watch(), getattr(worker.bench.judges[0], "detector", None)
    with ExitStack() as watched:
        for name in _STAGES:
            watched.enter_context(watch.on(worker.generator, name, name))
        for verifier in worker.bench.verifiers:
            watched.enter_context(watch.on(verifier, "score", f"score:{verifier.name}"))
        for name in ("detect", "logits", "name_colors"):
            if hasattr(detector, name):
                watched.enter_context(watch.on(detector, name, name))
        for batch in batches:
            with watch.timed("all"):
                made = worker.bench.make(batch)
                with watch.timed("pictures"):
                    made.images  # noqa: B018  # copied from the device, unless decoding did
                worker._judge(made)
    ms = {stage: 1e3 * seconds / len(rows) for stage, seconds in watch.seconds.items()}
    outer = sum(value for stage, value in ms.items() if stage not in ("all", "logits"))
    return ms | {"rest": ms["all"] - outer}


class Watch:
    """Seconds by stage, with a wait for the GPU before and after."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        _wait()
        started = time.perf_counter()
        yield
        _wait()
        self.seconds[stage] += time.perf_counter() - started

    @contextmanager
    def on(self, owner: Any, name: str, stage: str) -> Iterator[None]:
        """Time what `owner` does by the function `name`, as long as this lasts."""
        call, own = getattr(owner, name), name in vars(owner)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.timed(stage):
                return call(*args, **kwargs)

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, call) if own else delattr(owner, name)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summed(known: dict[str, Any]) -> dict[str, Any]:
    """Return images/s a way and how many times as fast the last way is as the first, with its range; {} without rounds."""
    rounds = [value for key, value in known.items() if key.startswith("round ")]
    if not rounds:
        return {}
    ways = list(rounds[0]["wall_s"])
    ratios = [each["wall_s"][ways[0]] / each["wall_s"][ways[-1]] for each in rounds]
    return {
        "rounds": len(rounds),
        "images_per_s": {
            way: statistics.median(each["candidates"] / each["wall_s"][way] for each in rounds)
            for way in ways
        },
        "times_as_fast": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


if __name__ == "__main__":
    main()
