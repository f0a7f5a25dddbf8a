"""Train the whole nano world from scratch, in stages that survive a kill: `vhsbench train nano`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators.checks import as_device
from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.terminal import duration
from vhsbench.harness.training.nano_recipe import PLANS, VERIFIERS, NanoRecipe, Report, Say, Site, identity
from vhsbench.harness.training.nano_stages import Stages
from vhsbench.verifiers.training.engine import TrainingError


def train(
    out: Path,
    recipe: NanoRecipe | None = None,
    report: Report = lambda _: None,
    threads: int = 2,
    device: str = "cpu",
    say: Say = lambda _: None,
    processes: int = 1,
    base: Path | None = None,
    kinds: Sequence[str] = VERIFIERS,
) -> Path:
    """Run the unfinished stages in `out`; return the folder of weights. Restart it to resume.

    `say` gets a line when a stage begins, and one with its results; both, and the progress, are in train.log too.
    `threads` (of each process), `device` ("cpu" or "cuda") and `processes` change the time and the rounding, not the
    recipe: stages that do not need each other run side by side. `base` is the folder of another training, whose
    stages are taken over where the recipe is the same for them. `kinds` are the verifiers to train.
    Raises TrainingError.
    """
    recipe = recipe or NanoRecipe()
    as_device(device)  # fails before anything is done
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    keep_recipe(out, recipe)
    needed = [s for s in PLANS if s in _closure(kinds)]
    if base is not None:
        for stage in needed:
            _take_over(stage, base, out, recipe)
    site = Site(out, recipe, device, threads, report, say)
    if processes == 1:
        for stage in needed:
            do(site, stage)
    else:
        _side_by_side(site, needed, processes)
    return out / "weights"


def _closure(stages: Sequence[str]) -> set[str]:
    found = set(stages)
    for stage in stages:
        found |= _closure(PLANS[stage].after)
    return found


def keep_recipe(out: Path, recipe: NanoRecipe) -> None:
    """Write recipe.json. Raises TrainingError if `out` has that of another recipe."""
    file = out / "recipe.json"
    text = json.dumps(asdict(recipe), indent=1) + "\n"
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise TrainingError(f"{out} holds a training with another recipe; choose another folder.")
    file.write_text(text, encoding="utf-8")


def _take_over(stage: str, base: Path, out: Path, recipe: NanoRecipe) -> None:
    """Link a stage's results into `out`, if `base` has it finished by the same recipe."""
    record = base / f"{stage}.json"
    if (out / record.name).exists() or not record.exists():
        return
    if json.loads(record.read_text(encoding="utf-8"))["identity"] != identity(stage, recipe):
        return
    writes = PLANS[stage].writes
    found = [name for name in writes if (base / name).exists()]
    # unbundled weights have no looks or losses, which no stage reads
    needed = {name for name in writes if name.startswith("weights/")} or set(writes)
    if not needed <= set(found):
        return
    for name in found:
        link = out / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to((base / name).resolve())
    write_atomic(out / record.name, record.read_bytes())


def do(site: Site, name: str) -> None:
    """Run a stage unless it is done; record its metrics, how long it took and its identity in <stage>.json."""
    record = site.out / f"{name}.json"
    if record.exists():
        site.say(f"stage {name}: done before")
        return
    site.say(f"stage {name}: begins")
    began_s = time.monotonic()
    metrics = Stages(site).run(name)
    took_s = time.monotonic() - began_s
    content = {"identity": identity(name, site.recipe), "took_s": round(took_s, 1), **metrics}
    write_atomic(record, (json.dumps(content, indent=1) + "\n").encode())
    site.say(f"stage {name}: done in {duration(took_s)}; {', '.join(reached(metrics))}")


def reached(metrics: Mapping[str, Any]) -> list[str]:
    """Write the numbers among metrics, such as "psnr_db 27.1", without those by task ("correct_percent.colors")."""
    return [f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, (int, float)) and "." not in k]


Job = tuple[str, int]  # a stage, and which share of it; share -1 is the stage itself


def _side_by_side(site: Site, needed: Sequence[str], processes: int) -> None:
    """Run stages in several processes, each as soon as those before it are done."""
    jobs: dict[Job, set[Job]] = {}
    for stage in needed:
        before = {(s, -1) for s in PLANS[stage].after}
        shares = range(processes) if PLANS[stage].shared else ()
        jobs |= {(stage, share): before for share in shares}
        jobs[stage, -1] = before | {(stage, share) for share in shares}
    machine = site.out, site.recipe, site.device, site.threads
    running: dict[Future[None], Job] = {}
    done: set[Job] = set()
    with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
        while jobs or running:
            for job in [job for job, before in jobs.items() if before <= done]:
                del jobs[job]
                site.say(f"{_named(job)}: queued")
                running[pool.submit(_work, *machine, job, processes)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    future.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                done.add(job)
                site.say(f"{_named(job)}: finished")


def _named(job: Job) -> str:
    return f"stage {job[0]}" if job[1] < 0 else f"stage {job[0]}, share {job[1]}"


def _work(out: Path, recipe: NanoRecipe, device: str, threads: int, job: Job, processes: int) -> None:
    """Run one job in a process of the pool; what it says goes to the log."""
    torch.set_num_threads(threads)
    stage, share = job
    site = Site(out, recipe, device, threads, lambda _: None, lambda _: None)
    if share < 0:
        do(site, stage)
    elif not (out / f"{stage}.json").exists():
        Stages(site).collect(stage, (share, processes))
