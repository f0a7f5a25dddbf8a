"""What `vhsbench run` does between its options and the report."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from vhsbench.harness.commands.stopping import stopping
from vhsbench.harness.common.terminal import Bars

if TYPE_CHECKING:
    from vhsbench.harness.config.run import RunConfig


class Engine(StrEnum):
    """Where shards are done."""

    local = "local"
    ray = "ray"


def sweep(
    config: RunConfig,
    out: str,
    engine: Engine,
    address: str | None,
    workers: int | None,
    gpus_per_worker: float | None,
    bars: bool,
    redo: bool = False,
    log: Callable[[str, int, int], None] = lambda *_: None,
) -> str:
    """Run the sweep, `log` its progress; return a sentence on what failed, or "". Exits with how to resume if stopped."""
    from vhsbench.harness.store.folder import check_lasting
    from vhsbench.harness.sweep import run as sweeping

    check_lasting(out)
    work = sweeping.local
    if engine is Engine.ray:
        from vhsbench.harness.sweep.ray_engine import RayEngine

        work = RayEngine(address, workers, gpus_per_worker)
    elif stray := [f"--{name}" for name, value in
                   (("address", address), ("workers", workers), ("gpus-per-worker", gpus_per_worker))
                   if value is not None]:  # fmt: skip
        raise typer.BadParameter(f"{stray[0]} is for --engine ray.")
    again = shlex.join(["vhsbench", *sys.argv[1:]])
    told = f"stopped; nothing that was finished is lost: resume with `{again}`."
    with stopping(told), Bars() if bars else nullcontext() as shown:

        def progress(phase: str, done: int, of: int) -> None:
            if shown is not None:
                shown.update(phase, done, of)
            log(phase, done, of)

        sweeping.run(config, out, progress, work, redo, _without_secrets(again))
    return _failures(out)


def costs_again(out: str, bars: bool) -> None:
    """Measure a finished run's costs again."""
    from vhsbench.harness.sweep.costs import measure_again

    command = _without_secrets(shlex.join(["vhsbench", *sys.argv[1:]]))
    with stopping("stopped; the run keeps the costs that it had."):
        if bars:
            with Bars() as shown:
                measure_again(out, shown.update, command)
        else:
            measure_again(out, command=command)


def _without_secrets(command: str) -> str:
    """Leave out who logs in to a URL, and by which password."""
    return re.sub(r"://[^/@\s]*@", "://...@", command)


def _failures(out: str) -> str:
    from vhsbench.harness.store.folder import Folder
    from vhsbench.harness.store.tables import read_info

    failed: list[dict[str, Any]] = (read_info(Folder(out)) or {}).get("failed_prompts", [])
    if not failed:
        return ""
    first = failed[0]
    return (
        f"{len(failed)} pool(s) of candidates failed and are left out of every table, first: "
        f"{first['generator']}, seed {first['seed']}, prompt {first['prompt_id']}: {first['reason']} "
        f"(`vhsbench status {out}` lists all)."
    )
