"""`vhsbench run CONFIG --out OUT` without costs and report: python drive.py CONFIG OUT local|ray [ADDRESS]

With Ray it prints whether there is a dashboard.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import typer

import vhsbench.harness.sweep.run
from vhsbench.harness.commands.run import Engine, sweep
from vhsbench.harness.config.run import load_config


def connect_and_say(connect: Callable[[str | None], None]) -> Callable[[str | None], None]:
    import ray

    def connected(address: str | None) -> None:
        connect(address)
        print(f"dashboard: {bool(ray._private.worker._global_node.webui_url)}", flush=True)

    return connected


if __name__ == "__main__":
    config, out, engine, *address = sys.argv[1:]
    vhsbench.harness.sweep.run.measure_costs = lambda *_: None
    if engine == "ray":
        from vhsbench.harness.sweep import ray_engine

        ray_engine._connect = connect_and_say(ray_engine._connect)
    workers = 2 if engine == "ray" else None
    try:
        failed = sweep(
            load_config(Path(config)), out, Engine(engine), *(address or [None]), workers, None, bars=False
        )
    except typer.Exit as end:
        sys.exit(end.exit_code)
    print(failed, file=sys.stderr)
    sys.exit(1 if failed else 0)
