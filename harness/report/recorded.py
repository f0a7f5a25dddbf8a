"""What a run's run.json says that a report needs: what verifiers read, failed prompts, machines, memory of strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from vhsbench.harness.common.shown import printable
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.store.keys import POOL, of_pool
from vhsbench.harness.store.tables import Run, StoreError, environments

_PEAKS = ("peak_vram_gb", "peak_rss_gb")


def printable_run(run: Run) -> Run:
    """Escape control characters in the run's prompts and reasons."""
    prompts = [{**p, "prompt": printable(p["prompt"])} for p in run.prompts]
    reasons = run.candidates["reason"].map(printable)
    return replace(run, prompts=prompts, candidates=run.candidates.assign(reason=reasons))


def recorded(info: Mapping[str, Any], *keys: str) -> list[str]:
    """List what the environments in a run.json say under nested keys, each value once, printable."""
    found = []
    for value in environments(info):
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        found += [printable(str(value))] if value else []
    return list(dict.fromkeys(found))


def recorded_needs(run: Run, config: RunConfig) -> dict[str, str | None]:
    """Look up what each verifier reads, as recorded in the run. Raises StoreError if it is not."""
    needs = run.info.get("needs", {})
    if missing := [label for label in config.kinds if label not in needs]:
        raise StoreError(f"the run in {run.path} does not say what '{missing[0]}' reads; run it again.")
    return {label: needs[label] for label in config.kinds}


def failed_prompts(run: Run) -> pd.DataFrame:
    """Collect the failed pools: generator, seed, prompt_id, prompt, reason. Raises StoreError if run.json is damaged."""
    prompts = dict(enumerate(run.prompts))
    try:
        rows = [
            (str(f["generator"]), int(f["seed"]), int(f["prompt_id"]),
             prompts[int(f["prompt_id"])]["prompt"], printable(str(f["reason"])))
            for f in run.info.get("failed_prompts", [])
        ]  # fmt: skip
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{run.path}/run.json is damaged: failed_prompts names none of its prompts."
        ) from error
    return pd.DataFrame(rows, columns=["generator", "seed", "prompt_id", "prompt", "reason"])


def peaks_gb(run: Run, generator: str, steps: int) -> dict[str, float]:
    """Return the peak memory in GB of a pool's strategies, by text, as run.json has it. Raises StoreError if that is damaged."""
    try:
        rows = pd.DataFrame(run.info.get("strategy_memory", []), columns=[*POOL, "strategy", *_PEAKS])
        rows[list(_PEAKS)] = rows[list(_PEAKS)].astype(float)
        here = of_pool(rows, generator, steps)
        return {str(text): peak_gb(each) for text, each in here.groupby("strategy")}
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise StoreError(f"{run.path}/run.json is damaged: strategy_memory is not a list of rows.") from error


def peak_gb(rows: pd.DataFrame) -> float:
    """Return the most memory of rows: a GPU's where it was measured, else of the process; NaN if neither was."""
    return next((float(rows[c].max()) for c in _PEAKS if rows[c].notna().any()), math.nan)


def about_machines(run: Run) -> list[str]:
    """Say that a run was made on different machines, of which times and pictures may differ in the last digits."""
    parts = run.info.get("combined") or [run.info]
    names = list(dict.fromkeys(machine(e) for part in parts for e in environments(part)))
    if len(names) < 2:
        return []
    devices = " and ".join(sorted({str(d) for d in run.costs["device"].dropna()})) or "none of them"
    return [f"it was made on different machines: {'; '.join(names)}. Times were measured on {devices}."]


def machine(environment: Any) -> str:
    """Name the machine of a run's environment by its processor and GPUs."""
    if not isinstance(environment, dict):
        return "unknown"
    gpus = environment.get("gpus") or []
    names = [str(gpu.get("name", "a GPU")) if isinstance(gpu, dict) else str(gpu) for gpu in gpus]
    cores = environment.get("cores")
    cpu = str(environment.get("cpu") or "unknown processor") + (f", {cores} cores" if cores else "")
    return printable(" with ".join([cpu, *names[:1]]))
