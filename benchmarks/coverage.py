"""Simulate how often 95% intervals cover the truth, and how wide they are: the project's, and others.

    python benchmarks/coverage.py [--trials 1000] [--out results/coverage]

Each trial draws prompts from a population whose mean is known. A prompt has its own rate of right candidates (beta
distributed; `icc`, the correlation within a prompt, is 0 where all rates are equal and 1 where they are 0 and 1), a
pool of 16 candidates, and its exact best-of-N by a verifier. Writes cells.csv, a row a setting and method, and
summary.csv, and prints the latter as Markdown. Takes some minutes on one core; the same seeds give the same numbers.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from interval_methods import CANDIDATES, TAIL, Floats, percentile
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binom, binomtest

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.regress.speed import paired_ratio
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.stats.intervals import (
    auc,
    auc_interval,
    clustered_mean,
    paired_difference,
    pooled_share,
)

POOL, POPULATION, SEEDS = 16, 20_000, 5
NS = (1, 4, 16)
RATES, ICCS = (0.5, 0.7, 0.9, 0.99), (0.0, 0.3, 0.8, 1.0)
NEW = "new"
TASKS = np.array([1.5, 0.7, 0.3, 0.0, -0.6, -1.4])  # how much easier or harder six tasks are, in logits
UNEVEN, GENEVAL = (4, 14, 12, 40, 64, 64), (80, 99, 80, 94, 100, 100)
# name -> prompts of each task, and whether tasks count alike
DESIGNS: dict[str, tuple[tuple[int, ...], bool]] = {
    **{str(n): ((n,), False) for n in (2, 4, 8, 24, 60, 198, 553)},
    **{f"{6 * k} in 6 tasks": ((k,) * 6, False) for k in (1, 2, 4, 10)},
    "198 in uneven tasks": (UNEVEN, False), "198 in uneven tasks, mean of tasks": (UNEVEN, True),
    "553 in GenEval's tasks": (GENEVAL, False), "553 in GenEval's tasks, mean of tasks": (GENEVAL, True),
    "24 in 1, 1, 2, 4, 8, 8": ((1, 1, 2, 4, 8, 8), False),
    "24 in 1, 1, 2, 4, 8, 8, mean of tasks": ((1, 1, 2, 4, 8, 8), True),
}  # fmt: skip
Row = dict[str, Any]


def rates_of_prompts(rng: np.random.Generator, rate: float, icc: float, size: int = POPULATION) -> Floats:
    """Draw rates [size] of right candidates of this mean and correlation within a prompt."""
    if icc == 0 or rate == 1:
        return np.full(size, rate)
    if icc == 1:
        return (rng.random(size) < rate).astype(float)
    return rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, size)


@functools.cache
def verdicts(rate: float, icc: float, salt: int = 0) -> tuple[Floats, Floats]:
    """Draw (right, noise), each [POPULATION, POOL]: noise is of scores."""
    rng = np.random.default_rng([salt, int(1e4 * rate), int(10 * icc)])
    right = rng.random((POPULATION, POOL)) < rates_of_prompts(rng, rate, icc)[:, None]
    return right.astype(float), rng.standard_normal(right.shape)


@functools.cache
def accuracies(rate: float, icc: float, salt: int = 0, skill: float = 1.5) -> Floats:
    """Return the exact best-of-N of each prompt, [POPULATION, len(NS)], scores being skill x right + noise."""
    right, noise = verdicts(rate, icc, salt)
    return expected_accuracy(skill * right + noise, right)[:, [n - 1 for n in NS]]


def rates_of_tasks(rate: float, tasks: int) -> list[float]:
    """Return the rates of so many tasks, easier and harder ones, whose mean is `rate`."""
    if tasks == 1 or rate == 1:
        return [rate] * tasks
    shift = brentq(lambda s: expit(logit(rate) + s + TASKS).mean() - rate, -9, 9)
    return [float(r) for r in expit(logit(rate) + shift + TASKS)]


def draws(sizes: Sequence[int], trials: int, cell: int) -> list[Any]:
    """Draw indices of prompts [size, trials] for each task, by several seeds."""
    parts = [
        [np.random.default_rng([seed, cell, task]).integers(0, POPULATION, (size, trials // SEEDS))
         for task, size in enumerate(sizes)]
        for seed in range(SEEDS)
    ]  # fmt: skip
    return [np.concatenate(p, axis=1) for p in zip(*parts, strict=True)]


def judged(ends: tuple[Floats, Floats], truth: float) -> Row:
    """Return coverage and mean width."""
    low, high = (np.asarray(e, dtype=float) for e in ends)
    covered = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
    return {"coverage": covered.mean(), "width": (high - low).mean()}


def settings() -> Iterator[tuple[float, float, int]]:
    """Yield (rate, icc, column of NS) unless N makes no difference: all right, or a prompt's candidates alike."""
    for rate in RATES:
        for icc in ICCS:
            for column in range(len(NS)) if icc < 1 else (0,):
                yield rate, icc, column
    yield 1.0, 1.0, 0


def accuracy(trials: int, designs: Sequence[str] = tuple(DESIGNS)) -> Iterator[Row]:
    """Cover best-of-N accuracies by every method."""
    for cell, (design, (rate, icc, column)) in enumerate((d, s) for d in designs for s in settings()):
        sizes, by_task = DESIGNS[design]
        tasks = np.repeat(np.arange(len(sizes)), sizes)
        share = np.full(len(sizes), 1 / len(sizes)) if by_task else np.array(sizes) / len(tasks)
        weights = (share / np.array(sizes))[tasks]
        worlds = [
            accuracies(r, icc, salt)[:, column] for salt, r in enumerate(rates_of_tasks(rate, len(sizes)))
        ]
        truth = float(sum(s * w.mean() for s, w in zip(share, worlds, strict=True)))
        indices = draws(sizes, trials, cell)
        values = np.concatenate([w[i] for w, i in zip(worlds, indices, strict=True)])
        about = {"quantity": "accuracy", "design": design, "rate": rate, "icc": icc, "n": NS[column]}
        found = clustered_mean(values, tasks=tasks, by_task=by_task)
        yield {**about, "method": NEW, **judged((found.low, found.high), truth)}
        for name, method in CANDIDATES.items():
            yield {**about, "method": name, **judged(method(values, weights, tasks), truth)}


def exact(numbers: Sequence[int] = (2, 3, 4, 8, 12, 24, 60, 198, 553)) -> Iterator[Row]:
    """Find the lowest coverage of accuracy over all populations of two values on a grid, computed and not drawn."""
    for n in numbers:
        grid = np.linspace(0, 1, 21 if n < 100 else 11)
        k = np.arange(n + 1)
        worst: Row = {"coverage": 1.0}
        for i, a in enumerate(grid):
            for b in grid[i + 1 :]:
                found = clustered_mean(np.where(np.arange(n)[:, None] < k, b, a))
                # between two ends coverage is smooth; it is lowest beside one
                ends = (np.concatenate([found.low - 1e-9, found.high + 1e-9]) - a) / (b - a)
                p = np.unique(np.clip(np.concatenate([ends, np.linspace(0, 1, 41)]), 0, 1))
                truth = (a + (b - a) * p)[:, None]
                chance = binom.pmf(k, n, p[:, None])
                covered = ((found.low <= truth) & (truth <= found.high)) * chance
                lowest = int(covered.sum(1).argmin())
                if covered[lowest].sum() < worst["coverage"]:
                    width = float((found.high - found.low) @ chance[lowest])
                    worst = {"coverage": float(covered[lowest].sum()), "width": width}
        yield {"quantity": "accuracy, worst of two values", "design": str(n), "method": NEW, **worst}


def differences(trials: int) -> Iterator[Row]:
    """Cover paired differences of best-of-4 and best-of-16, old and new: alike, better and nearly alike verifiers."""
    pairs = {"alike": (1.5, 1.5, 0.5), "better": (1.5, 2.5, 0.5), "nearly alike": (3.0, 3.3, 0.9)}
    names = ["2", "4", "8", "24", "60", "198", "553", "12 in 6 tasks", "24 in 6 tasks", "198 in uneven tasks"]
    cell = 0
    for rate, icc in ((r, i) for r in (0.5, 0.9, 0.99) for i in (0.0, 0.3, 0.8)):
        for pair, (skill, other, shared) in pairs.items():
            for tasks_of, chosen in ((1, names[:7]), (6, names[7:])):
                worlds = [
                    _gains(r, icc, salt, skill, other, shared)
                    for salt, r in enumerate(rates_of_tasks(rate, tasks_of))
                ]
                for name, column in ((name, c) for name in chosen for c in range(2)):
                    cell += 1
                    sizes = DESIGNS[name][0]
                    about = {"quantity": "difference", "design": name, "rate": rate, "icc": icc,
                             "n": NS[1 + column], "case": pair}  # fmt: skip
                    yield from _paired(about, [w[:, column] for w in worlds], sizes, trials, 10_000 + cell)


def _gains(rate: float, icc: float, salt: int, skill: float, other: float, shared: float) -> Floats:
    right, noise = verdicts(rate, icc, salt)
    own = np.random.default_rng([salt, 7]).standard_normal((2, *right.shape))
    common, rest = np.sqrt(shared) * noise, np.sqrt(1 - shared) * own
    columns = [n - 1 for n in NS[1:]]
    a, b = (
        expected_accuracy(s * right + common + r, right) for s, r in zip((skill, other), rest, strict=True)
    )
    return (b - a)[:, columns]


def _paired(about: Row, worlds: list[Floats], sizes: Sequence[int], trials: int, cell: int) -> Iterator[Row]:
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    values = np.concatenate([w[i] for w, i in zip(worlds, draws(sizes, trials, cell), strict=True)])
    truth = float(np.average([w.mean() for w in worlds], weights=sizes))
    found = paired_difference(values, np.zeros_like(values), tasks=tasks)
    yield {**about, "method": NEW, **judged((found.low, found.high), truth)}
    old = percentile(values, np.full(len(tasks), 1 / len(tasks)), tasks)
    yield {**about, "method": "percentile bootstrap (old)", **judged(old, truth)}


def rare_losses(trials: int) -> Iterator[Row]:
    """Cover paired differences where they fail: 1% of prompts are lost altogether, all others differ slightly."""
    rng = np.random.default_rng(3)
    world = np.where(rng.random(POPULATION) < 0.01, -1.0, np.clip(rng.normal(0, 0.03, POPULATION), -1, 1))
    for cell, name in enumerate(("24", "60", "198", "553")):
        about = {"quantity": "difference, rare losses", "design": name}
        yield from _paired(about, [world], DESIGNS[name][0], trials, 20_000 + cell)


def separations(trials: int) -> Iterator[Row]:
    """Cover AUC, which had no interval: the new one, beside the clusters' standard error taken as normal."""
    grid = ((r, i, s) for r in (0.5, 0.9, 0.99) for i in (0.0, 0.3, 0.8) for s in (1.0, 2.5, 5.0))
    for cell, (rate, icc, skill) in enumerate(grid):
        right, noise = verdicts(rate, icc)
        shift = np.random.default_rng(cell).standard_normal((POPULATION, 1))
        scores = skill * right + noise + shift
        truth = auc(scores.ravel(), right.ravel())
        for name in ("2", "4", "8", "24", "60", "198"):
            size = int(name)
            found = []
            for index in draws([size], trials, 30_000 + 10 * cell)[0].T:
                prompts = np.repeat(np.arange(size), POOL)
                found.append(auc_interval(scores[index].ravel(), right[index].ravel(), prompts))
            ends = np.array([(f.low[0], f.high[0]) for f in found if not np.isnan(f.low[0])])
            if len(ends) >= trials / 4:  # one class is empty in the others
                about = {"quantity": "AUC", "design": name, "rate": rate, "icc": icc, "n": skill}
                yield {**about, "method": NEW, **judged((ends[:, 0], ends[:, 1]), truth)}


def shares(trials: int) -> Iterator[Row]:
    """Cover the share of right candidates in a bin of P(yes), whose prompts give none, some or all of theirs."""
    grid = ((r, i, f) for r in (0.05, 0.3, 0.7, 0.95) for i in (0.0, 0.3, 0.8) for f in (0.05, 0.3, 0.9))
    for cell, (rate, icc, inside) in enumerate(grid):
        rng = np.random.default_rng([5, cell])
        rows = rng.binomial(POOL, rng.beta(2 * inside, 2 - 2 * inside, POPULATION))
        right = rng.binomial(rows, rates_of_prompts(rng, rate, icc))
        truth = right.sum() / rows.sum()
        for name in ("4", "8", "24", "60", "198", "553"):
            ends: dict[str, list[Any]] = {NEW: [], "Wilson by candidate (old)": []}
            for index in draws([int(name)], trials, 40_000 + 10 * cell)[0].T:
                k, m = right[index], rows[index]
                if (m > 0).sum() < 2:
                    continue
                prompts = np.repeat(np.arange(len(m)), m)
                verdict = np.concatenate([np.arange(b) < a for a, b in zip(k, m, strict=True)])
                found = pooled_share(verdict, prompts)
                ends[NEW].append((found.low[0], found.high[0]))
                ends["Wilson by candidate (old)"].append(
                    binomtest(int(k.sum()), int(m.sum())).proportion_ci(0.95, method="wilson")
                )
            for method, pairs in ends.items():
                if len(pairs) >= trials / 4:
                    about = {
                        "quantity": "share in a bin",
                        "design": name,
                        "rate": rate,
                        "icc": icc,
                        "n": inside,
                    }
                    low, high = np.array(pairs).T
                    yield {**about, "method": method, **judged((low, high), float(truth))}


def ratios(trials: int) -> Iterator[Row]:
    """Cover the median ratio of two times over rounds, under skewed noise."""
    for cell, rounds in enumerate((6, 10, 30)):
        rng = np.random.default_rng([6, cell])
        times = 1 + 0.05 * rng.exponential(size=(trials, 2, rounds))
        new = np.array([paired_ratio(a, b)[1:] for a, b in times])
        drawn = [np.median(rng.choice(b / a, (2000, rounds)), axis=1) for a, b in times]
        old = np.quantile(drawn, [TAIL, 1 - TAIL], axis=1).T
        for method, ends in ((NEW, new), ("percentile bootstrap (old)", old)):
            about = {"quantity": "median ratio of times", "design": f"{rounds} rounds", "method": method}
            yield {**about, **judged((ends[:, 0], ends[:, 1]), 1.0)}


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise by quantity, design and method: lowest and mean coverage over the settings, mean width."""
    groups = cells.groupby(["quantity", "design", "method"], sort=False)
    found = groups.agg(
        settings=("coverage", "size"), lowest_coverage=("coverage", "min"),
        mean_coverage=("coverage", "mean"), mean_width=("width", "mean"),
    )  # fmt: skip
    return found.reset_index().round(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help="of each setting; a multiple of 5")
    parser.add_argument("--out", type=Path, default=Path("results/coverage"))
    options = parser.parse_args()
    trials, few = options.trials, max(SEEDS, options.trials // 5)
    rows: list[Row] = []
    for name, part in (
        ("accuracy", accuracy(trials)), ("exact", exact()), ("differences", differences(trials)),
        ("rare losses", rare_losses(trials)), ("AUC", separations(few)), ("shares", shares(few)),
        ("ratios", ratios(few)),
    ):  # fmt: skip
        started = time.process_time()
        rows += part
        print(f"{name}: {time.process_time() - started:.0f} s of CPU", flush=True)
    cells = pd.DataFrame(rows)
    for name, table in (("cells", cells.round(4)), ("summary", summary(cells))):
        write_output(options.out / f"{name}.csv", csv_bytes(table))
    with pd.option_context("display.width", 200, "display.max_rows", None):
        print(summary(cells).to_string(index=False))


if __name__ == "__main__":
    main()
