"""The paper's B.4: the same verifiers on a generator that a LoRA has moved, strength by strength (Table 7)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vhsbench.generators.checks import as_device
from vhsbench.generators.lora import find_lora
from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.limits import MOST_CANDIDATES
from vhsbench.harness.common.shown import csv_bytes, markdown_table
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.detector import Detector, judge
from vhsbench.harness.inference.bench import Bench
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference
from vhsbench.harness.stats.intervals import average_by_prompt, brackets, clustered_mean, paired_difference

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import Verifier

Progress = Callable[[str, int, int], None]
STRENGTHS = (0.0, 0.5, 1.0)
# the paper's N at its 1100 ms budget
BEST_OF_N = {"vhs": 9, "mllm-clip": 4, "mllm-ae": 7}
COLUMNS = [
    "strength",
    "verifier",
    "best_of_n",
    *TAGS,
    OVERALL,
    "low",
    "high",
    "delta",
    "delta_low",
    "delta_high",
]


class DriftError(VhsbenchError):
    """A drift check that cannot be done; the message is one sentence for a user."""


@dataclass(frozen=True)
class DriftPlan:
    """What to measure: `size` candidates for each prompt and seed, at each strength."""

    prompts: Sequence[Mapping[str, Any]]
    detector: Detector
    strengths: Sequence[float] = STRENGTHS
    best_of_n: Mapping[str, int] | None = None  # None: BEST_OF_N
    seed: int = 0
    size: int = 9
    batch: int = 32


def drift_table(
    generator: Generator,
    judges: Sequence[Verifier],
    lora: Path,
    plan: DriftPlan,
    progress: Progress = lambda *_: None,
) -> pd.DataFrame:
    """COLUMNS: accuracy in percent by strength and verifier; `delta` is the first verifier less this one.

    `best_of_n` (exact, over the pool) is each verifier's own; rows whose N is another verifier's too are
    given as well, so that N and ranking can be told apart. Intervals are 95%, clustered by prompt.
    The same noise serves every strength. Raises DriftError for an N beyond the pool, GeneratorError
    where the generator takes no such LoRA.
    """
    ns = {v.name: (plan.best_of_n or BEST_OF_N).get(v.name, 1) for v in judges}
    if max(ns.values()) > plan.size:
        raise DriftError(
            f"best of {max(ns.values())} needs as many candidates, but the pool has {plan.size}."
        )
    set_strength = generator.add_lora(lora)
    frames = []
    for strength in plan.strengths:
        set_strength(strength)
        # of this strength alone: a LoRA may move the text encoder too, whose embeddings a bench keeps
        bench = Bench(generator, plan.prompts, judges, partial(judge, plan.detector))
        correct, scores = _scored(bench, plan, partial(progress, f"strength {strength:g}"))
        frames.append(_rows(strength, correct, scores, ns, plan))
    set_strength(0.0)
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def measure(
    generator: str,
    lora: Path | None,
    strengths: Sequence[float] | None,
    judges: Sequence[str] | None,
    limit: int | None,
    split: str,
    seed: int,
    device: str,
    progress: Progress = lambda *_: None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The drift table of named models (`judges` are NAME or NAME=N), and what it is of. Raises DriftError."""
    from vhsbench import generators, verifiers
    from vhsbench.harness.config.models import load_detector
    from vhsbench.harness.config.run import GeneratorConfig, PromptsConfig, RunConfig
    from vhsbench.harness.sweep.run import load_prompts

    as_device(device)
    if lora is None and generator != "nano":
        raise DriftError(f"no LoRA is bundled for '{generator}': give --lora.")
    if split not in ("train", "validation", "evaluation"):
        raise DriftError(f"the splits are train, validation and evaluation, not '{split}'.")
    ns = dict(_best_of_n(text) for text in judges or ("vhs", "mllm-clip"))
    source = "nano" if generator == "nano" else "geneval"
    config = RunConfig(
        generators=[GeneratorConfig.model_construct(name=generator)],
        prompts=PromptsConfig.model_validate({"source": source, "split": split, "limit": limit}),
        device=device,
    )
    prompts = load_prompts(config)
    plan = DriftPlan(
        prompts, load_detector(config, prompts), strengths or STRENGTHS, ns, seed, max(ns.values())
    )
    host = generators.create(generator, device=device)
    readers = [verifiers.create(name, device=device, generator=generator) for name in ns]
    table = drift_table(host, readers, find_lora(generator, lora or "bundled"), plan, progress)
    about = {"generator": generator, "lora": str(lora or "bundled"), "prompts": len(prompts), "seed": seed}
    return table, about


def _best_of_n(text: str) -> tuple[str, int]:
    name, equals, n = text.partition("=")
    if not equals:
        return name, BEST_OF_N.get(name, 1)
    if not n.isdecimal() or not 1 <= int(n[:9]) <= MOST_CANDIDATES:
        raise DriftError(f"'{text}' is not NAME=N, as in vhs=9, with N from 1 to {MOST_CANDIDATES}.")
    return name, int(n)


def _scored(
    bench: Bench, plan: DriftPlan, progress: Callable[[int, int], None]
) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Verdicts [P, M], and scores [P, M] by verifier."""
    keys = [(p, plan.seed, i) for p in range(len(plan.prompts)) for i in range(plan.size)]
    correct: list[bool] = []
    scores: dict[str, list[float]] = {v.name: [] for v in bench.verifiers}
    for start in range(0, len(keys), plan.batch):
        progress(start, len(keys))
        made = bench.make(keys[start : start + plan.batch])
        correct += bench.judge(made)["correct"].tolist()
        for name, rows in bench.score(made).items():
            scores[name] += rows["score"].tolist()
    progress(len(keys), len(keys))
    shape = (len(plan.prompts), plan.size)
    return np.array(correct).reshape(shape), {k: np.array(s).reshape(shape) for k, s in scores.items()}


def _rows(
    strength: float,
    correct: np.ndarray[Any, Any],
    scores: Mapping[str, np.ndarray[Any, Any]],
    ns: Mapping[str, int],
    plan: DriftPlan,
) -> pd.DataFrame:
    """Each verifier at its own N with the difference to the first at the first's; and all at each other N."""
    curves = {name: 100 * expected_accuracy(s, correct) for name, s in scores.items()}
    tags = np.array([p["tag"] for p in plan.prompts])
    first = next(iter(ns))
    pairs = [(name, ns[name], ns[first]) for name in ns]
    pairs += [(name, n, n) for n in dict.fromkeys(ns.values()) for name in ns if ns[name] != n]
    rows = []
    for name, n, first_n in pairs:
        mine = curves[name][:, n - 1]
        spread = clustered_mean(mine, tasks=tags, most=100)
        row: dict[str, Any] = {
            "strength": strength, "verifier": name, "best_of_n": n, OVERALL: spread.mean[0],
            "low": spread.low[0], "high": spread.high[0],
        } | dict(zip(*_by_task(mine, tags), strict=True))  # fmt: skip
        if name != first:
            apart = largest_difference(scores[first], scores[name], first_n, n)
            gap = paired_difference(curves[first][:, first_n - 1], mine, tasks=tags, largest=100 * apart)
            row |= {"delta": gap.mean[0], "delta_low": gap.low[0], "delta_high": gap.high[0]}
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _by_task(values: np.ndarray[Any, Any], tags: np.ndarray[Any, Any]) -> tuple[list[str], list[float]]:
    return [str(t) for t in np.unique(tags)], average_by_prompt(values[:, None], tags)[:, 0].tolist()


def write(table: pd.DataFrame, out: Path, about: Mapping[str, Any]) -> None:
    """drift.csv, drift.md as the paper's Table 7, and drift.json with what it is of, in `out`."""
    write_output(out / "drift.csv", csv_bytes(table))
    write_output(out / "drift.md", markdown(table))
    write_output(out / "drift.json", as_json(table, about) + "\n")


def as_json(table: pd.DataFrame, about: Mapping[str, Any]) -> str:
    rows = json.loads(table.to_json(orient="records"))  # NaN as null
    return json.dumps({**about, "rows": rows}, indent=1)


def markdown(table: pd.DataFrame) -> str:
    """The table for people: one decimal, a dash where there is no value."""
    names = ["strength", "verifier", "N", *TAGS, "overall [95%]", "delta [95%]"]
    rows = []
    for row in table.to_dict("records"):
        tasks = ["-" if np.isnan(row[t]) else f"{row[t]:.1f}" for t in TAGS]
        overall = f"{row[OVERALL]:.1f}{brackets(row['low'], row['high'])}"
        delta = "-"
        if not np.isnan(row["delta"]):
            delta = f"{row['delta']:+.1f}{brackets(row['delta_low'], row['delta_high'], '+.1f')}"
        rows.append([f"{row['strength']:g}", row["verifier"], row["best_of_n"], *tasks, overall, delta])
    return markdown_table(names, rows)
