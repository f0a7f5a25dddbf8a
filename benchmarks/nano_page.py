"""Write the tables of docs/nano.md again, from the CSV files of benchmarks/nano_study.py.

    python benchmarks/nano_page.py

A table stands between a line `<!-- TABLE: results/nano -->` and one `<!-- end -->`; all else is left as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vhsbench.harness.common.atomic import write_output  # noqa: E402
from vhsbench.harness.common.shown import markdown_table  # noqa: E402
from vhsbench.harness.report.style import label  # noqa: E402
from vhsbench.harness.stats.intervals import brackets  # noqa: E402
from vhsbench.harness.training.nano_profile import PROFILE  # noqa: E402

PAGE = ROOT / "docs/nano.md"
_OWN = {"vhs-early": "VHS, block 3", "prompt_alone": "the prompt alone"}  # names of this study alone
_OF_BASE = {3: ("base", "vhs-early"), 6: ("base", "vhs")}  # blocks that the base's own VHS read
TASKS = {
    "single_object": "single", "two_object": "two", "counting": "counting", "colors": "colors",
    "position": "position", "color_attr": "attribution",
}  # fmt: skip
_PLACE = re.compile(r"(<!-- (\w+): (\S+) -->\n).*?(<!-- end -->)", re.S)


def main() -> None:
    write_output(PAGE, renewed(PAGE.read_text(encoding="utf-8"), ROOT, TABLES).encode())


def renewed(page: str, root: Path, tables: Mapping[str, Callable[[Path], str]]) -> str:
    """Return a page with each of its tables made again from the folder that its mark names, below `root`."""
    return _PLACE.sub(lambda found: f"{found[1]}{tables[found[2]](root / found[3])}\n{found[4]}", page)


def equal_time(folder: Path) -> str:
    """Return the paired differences at equal times: a row for each pair at each time, a column for each training."""
    rows = _read(folder, "equal_time")
    names = _names(rows)
    heads = ["equal time: N", "", *(_named(n) for n in names)]

    def lines() -> Iterator[list[str]]:
        for (_, a, b), part in rows.groupby(["budget", "a", "b"], sort=False):
            by_name = part.set_index("training")
            yield [
                f"{part['n_a'].iloc[0]} and {part['n_b'].iloc[0]}", f"{_label(a)} - {_label(b)}",
                *(_difference(by_name.loc[n]) for n in names),
            ]  # fmt: skip

    return table(heads, lines())


def best_of_n(folder: Path) -> str:
    """Return best-of-N in percent: a row for each verifier of each training, a column for each N."""
    rows = _read(folder, "best_of_n")
    wide = rows.pivot(index=["verifier", "training"], columns="n", values="percent")
    lines = (
        [_label(v), t.removeprefix("nano-"), *(f"{value:.1f}" for value in wide.loc[(v, t)])]
        for v in dict.fromkeys(rows["verifier"])
        for t in _names(rows)
        if (v, t) in wide.index
    )
    return table(["best of (percent)", "seed", *map(str, wide.columns)], lines)


def auc(folder: Path) -> str:
    """Return the area under the ROC curve, pooled and within prompts: a row for each verifier, a column for each training."""
    rows = _read(folder, "auc")
    rows = rows[rows["task"] == "all"].set_index(["verifier", "training"])
    names = _names(rows.reset_index())
    lines = (
        [_label(v), *("{pooled:.3f} / {within_prompts:.3f}".format(**rows.loc[(v, n)]) for n in names)]
        for v in dict.fromkeys(rows.index.get_level_values("verifier"))
    )
    return table(["AUC, pooled / within prompts", *(_named(n) for n in names)], lines)


def profile(folder: Path) -> str:
    """Return the share of right images by task beside the published one: a row for each training."""
    rows = _read(folder, "profile")
    wide = rows.pivot(index="training", columns="task", values="percent")
    heads = [f"{short} {PROFILE[task]:g}" for task, short in TASKS.items()]
    lines = (
        [_named(name), *(f"{wide.loc[name, c]:.1f}" for c in (*TASKS, "overall", "oracle_16"))]
        for name in _names(rows)
    )
    return table(["training", *heads, "overall 71.6", "oracle of 16"], lines)


def arms(folder: Path) -> str:
    """Return what each arm of the study did: overall, AUC within prompts, and the differences at equal times."""
    found, within = _read(folder, "equal_time"), _read(folder, "auc")
    within = within[within["task"] == "all"].set_index(["training", "verifier"])["within_prompts"]
    overall = _read(folder, "profile").query("task == 'overall'").set_index("training")["percent"]
    pairs = list(dict.fromkeys(zip(found["a"], found["b"], strict=True)))
    heads = ["arm", "one image %", *(f"AUC {_label(v)}" for v in ("vhs", "mllm-clip", "mllm-ae"))]
    heads += [f"{_label(a)} - {_label(b)}, budgets 1 / 2 / 3" for a, b in pairs]

    def lines() -> Iterator[list[str]]:
        for name in _names(found):
            of = found[found["training"] == name].set_index(["a", "b", "budget"])
            marks = [within.get((name, v)) for v in ("vhs", "mllm-clip", "mllm-ae")]
            yield [
                name, f"{overall[name]:.1f}", *("" if m is None else f"{m:.3f}" for m in marks),
                *(" / ".join(_difference(of.loc[(a, b, k)]) for k in (1, 2, 3) if (a, b, k) in of.index)
                  for a, b in pairs),
            ]  # fmt: skip

    return table(heads, lines())


def depth(folder: Path) -> str:
    """Return how well VHS reads each block: AUC, and best-of-N in percent."""
    aucs, best = _read(folder, "auc"), _read(folder, "best_of_n")
    aucs = aucs[aucs["task"] == "all"].set_index(["training", "verifier"])
    numbers = sorted(set(best["n"]) - {1})
    best = best.set_index(["training", "verifier", "n"])["percent"]

    def lines() -> Iterator[list[str]]:
        for block in range(1, 8):
            of = _OF_BASE.get(block, (f"block-{block}", "vhs-early"))
            marks = "{pooled:.3f} / {within_prompts:.3f}".format(**aucs.loc[of])
            yield [str(block), marks, *(f"{best[(*of, n)]:.1f}" for n in numbers)]

    return table(["block", "AUC pooled / within prompts", *(f"best of {n}" for n in numbers)], lines())


TABLES: dict[str, Callable[[Path], str]] = {
    f.__name__: f for f in (equal_time, best_of_n, auc, profile, arms, depth)
}


def _read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def _names(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["training"]))


def _label(verifier: str) -> str:
    return _OWN.get(verifier) or label(verifier)


def _named(training: str) -> str:
    return "all three" if training == "all" else training.replace("nano-", "seed ")


def _difference(row: pd.Series) -> str:
    return f"{row['difference']:+z.1f}{brackets(row['low'], row['high'])}"


def table(heads: list[str], lines: Iterator[list[str]]) -> str:
    """Return a table in Markdown, without the end of its last line."""
    return markdown_table(heads, lines).rstrip("\n")


if __name__ == "__main__":
    main()
