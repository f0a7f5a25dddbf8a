"""The harness's own overhead against the number of workers, with stages that sleep.

    python benchmarks/scaling.py [--sleep 5] [--rounds 8] [--workers 1 2 4 8]

Each of W Ray workers gets `rounds` shards, of which generation sleeps three quarters of `sleep` seconds and
scoring one; a harness that cost nothing would take rounds x sleep seconds for any W. Sleeping needs no CPU,
so W may exceed the cores; what the harness and Ray do for W workers then shares them.

* start-up: from before Ray starts until every worker has loaded (importing PyTorch W times);
* work: from there until the last shard is on the disk; efficiency is the ideal over it;
* whole: all of it, and the workers' end and the consolidated tables; its efficiency depends on how long the
  run is, since start-up is paid once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FAKES = ROOT / "tests" / "harness" / "fakes"
os.environ["PYTHONPATH"] = os.pathsep.join([str(FAKES), str(ROOT)])
sys.path[:0] = [str(FAKES), str(ROOT)]

import ray  # noqa: E402

from vhsbench.harness.config.run import RunConfig, parse  # noqa: E402
from vhsbench.harness.sweep import ray_engine  # noqa: E402
from vhsbench.harness.sweep import run as sweep  # noqa: E402
from vhsbench.harness.sweep.shards import SMALLEST_SHARD, Finished, Shard  # noqa: E402


class Timed(ray_engine.RayEngine):
    """Feeds nobody before all have loaded, and notes when that was and when the last shard was written."""

    def __call__(
        self, config: RunConfig, prompts: Sequence[dict[str, Any]], todo: Sequence[Shard]
    ) -> Iterator[Finished]:
        self.ready_s = 0.0
        feed = ray_engine._Pool._feed

        def when_all_are_ready(pool: ray_engine._Pool, slot: ray_engine._Slot) -> None:
            if any(s.loading is not None for s in pool.slots):
                return
            self.ready_s = self.ready_s or time.perf_counter()
            feed(pool, slot)

        ray_engine._Pool._feed = when_all_are_ready  # type: ignore[method-assign]
        try:
            left = len(todo)
            for finished in super().__call__(config, prompts, todo):
                yield finished
                left -= 1
                if not left:
                    self.written_s = time.perf_counter()
        finally:
            ray_engine._Pool._feed = feed  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sleep", type=float, default=5.0, help="seconds a shard sleeps")
    parser.add_argument("--rounds", type=int, default=8, help="shards a worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    sweep._costs = lambda *_: None  # nothing is timed here
    ideal_s = options.rounds * options.sleep
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; shards sleep {options.sleep:g} s")
    print("workers  shards  ideal s  start-up s  work s  efficiency  whole s  efficiency of the whole")
    for workers in options.workers:
        start_s, work_s, whole_s = measure(workers, options.rounds, options.sleep)
        print(
            f"{workers:7} {workers * options.rounds:7} {ideal_s:8.1f} {start_s:11.1f} {work_s:7.2f} "
            f"{ideal_s / work_s:11.1%} {whole_s:8.1f} {ideal_s / whole_s:24.1%}",
            flush=True,
        )


def measure(workers: int, rounds: int, sleep_s: float) -> tuple[float, float, float]:
    """Return the seconds of start-up, of work, and of the whole run."""
    with tempfile.TemporaryDirectory() as name:
        faults = Path(name) / "faults"
        faults.mkdir()
        (faults / "slow").write_text(str(0.75 * sleep_s), encoding="utf-8")
        config = parse(
            f"generators: [{{name: fake, options: {{faults: '{faults}'}}}}]\n"
            f"verifiers: [{{name: fake-verifier, options: {{slow: {0.25 * sleep_s}}}}}]\n"
            f"prompts: {{source: nano, split: validation, limit: {SMALLEST_SHARD}}}\n"
            f"seeds: {list(range(workers * rounds))}\npool: 4\nbatch_size: 32\ngallery_prompts: 0\nthreads: 1\n",
            "scaling",
        )
        engine = Timed(None, workers, None)
        started = time.perf_counter()
        ray.init(
            "local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        sweep.run(config, Path(name) / "run", engine=engine)
        ended = time.perf_counter()
        ray.shutdown()
        return engine.ready_s - started, engine.written_s - engine.ready_s, ended - started


if __name__ == "__main__":
    main()
