"""The harness's own overhead against the number of workers, with a generator that sleeps.

    python benchmarks/scaling.py [--sleep 4] [--rounds 3]

Each of W Ray workers gets `rounds` shards that sleep `sleep` seconds; a harness that cost nothing would take
rounds x sleep seconds for any W. Efficiency is that ideal over what it took, from the first worker ready to
the last shard written (loading is printed apart). Sleeping needs no CPU, so W may exceed the cores; what the
harness and Ray do for W workers then shares them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAKES = ROOT / "tests" / "harness" / "fakes"
os.environ["PYTHONPATH"] = os.pathsep.join([str(FAKES), str(ROOT)])

import sys  # noqa: E402

sys.path[:0] = [str(FAKES), str(ROOT)]

import ray  # noqa: E402

from harness import ray_engine, sweep  # noqa: E402
from harness.config import parse  # noqa: E402
from harness.shards import PROMPTS_PER_SHARD  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sleep", type=float, default=4.0, help="seconds a shard sleeps")
    parser.add_argument("--rounds", type=int, default=3, help="shards a worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    sweep._costs = lambda *_: None  # nothing is timed here
    ray.init(num_cpus=max(options.workers), include_dashboard=False,
             log_to_driver=False)  # fmt: skip
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; shards sleep {options.sleep:g} s")
    print("workers  shards  loading s  work s  ideal s  efficiency")
    for workers in options.workers:
        loading, work = measure(workers, options.rounds, options.sleep)
        ideal = options.rounds * options.sleep
        print(
            f"{workers:7} {workers * options.rounds:7} {loading:10.1f} {work:7.2f} {ideal:8.1f} {ideal / work:11.1%}",
            flush=True,
        )


def measure(workers: int, rounds: int, sleep: float) -> tuple[float, float]:
    """Seconds until all workers have loaded, and from there until the last shard is written."""
    with tempfile.TemporaryDirectory() as name:
        faults = Path(name) / "faults"
        faults.mkdir()
        (faults / "slow").write_text(str(sleep))
        seeds = list(range(workers * rounds))
        config = parse(
            f"generators: [{{name: fake, options: {{faults: '{faults}'}}}}]\nverifiers: [{{name: fake-verifier}}]\n"
            f"prompts: {{source: nano, split: validation, limit: {PROMPTS_PER_SHARD}}}\n"
            f"seeds: {seeds}\npool: 4\nbatch_size: 32\ngallery_prompts: 0\nthreads: 1\n",
            "scaling",
        )
        _READY.clear()
        started = time.perf_counter()
        sweep.run(config, Path(name) / "run", engine=ray_engine.RayEngine(None, workers, None))
        ended = time.perf_counter()
        return _READY[0] - started, ended - _READY[0]


_READY: list[float] = []


def _wait_for_all(pool: ray_engine._Pool, slot: ray_engine._Slot) -> None:
    """Feed nobody before all have loaded, and note when that was."""
    if any(s.loading is not None for s in pool.slots):
        return
    if not _READY:
        _READY.append(time.perf_counter())
    _FEED(pool, slot)


_FEED = ray_engine._Pool._feed
ray_engine._Pool._feed = _wait_for_all  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
