"""The history of benchmarks/fast.py: a line a run in a CSV, and its figure.

python benchmarks/fast_history.py results/performance/history.csv docs/images/performance
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.report.style import SCREEN, USUAL, save

VERIFIERS = ("vhs", "mllm-clip", "mllm-ae")
# columns of each verifier: where its figure is in a run's file
FIGURES = {
    "tflop": ("tflop",),
    "candidate_plain_1_ms": ("candidate", "batch 1"),
    "candidate_plain_batch_ms": ("candidate", "batch"),
    "candidate_1_ms": ("candidate_fast", "batch 1"),
    "candidate_batch_ms": ("candidate_fast", "batch"),
    "bound_ms": ("candidate_fast", "bound_ms"),
    "to_bound": ("candidate_fast", "to_bound"),
    "naive_ms": ("whole", "naive"),
    "staged_ms": ("whole", "staged"),
    "batched_ms": ("whole", "batched"),
    "fast_ms": ("whole", "fast"),
    "naive_to_fast": ("whole", "naive_to_fast"),
    "n_within_550ms": ("within", "n"),
    "decode_plain_1_ms": ("decode", "plain 1"),
    "decode_plain_group_ms": ("decode", "plain 8"),
    "decode_1_ms": ("decode", "fast 1"),
    "decode_group_ms": ("decode", "fast 8"),
    "compile_s": ("applied", "compile_s"),
    "first_batch_s": ("first_batch_s",),
    "features_percent": ("applied", "features_percent"),
    "score_difference": ("applied", "score_difference"),
    "image_percent": ("applied", "image_percent"),
    "peak_gb": ("peak_gb",),
}
_PANELS = {
    "to_bound": "a candidate's time over its bound",
    "n_within_550ms": "N within 550 ms",
    "naive_to_fast": "times the naive loop",
}


def code_of(known: dict[str, Any]) -> str | None:
    """Return the commit of the code that ran: `code_commit` where someone noted that the checkout's was another."""
    commit: str | None = known.get("code_commit") or known["environment"].get("git_commit")
    return commit


def line(known: dict[str, Any]) -> dict[str, Any]:
    """Return a run's line; what was not measured is empty. `known` is the file that benchmarks/fast.py writes."""
    settings, env = known["settings"], known["environment"]
    found = {
        "started": known["started"], "commit": code_of(known),
        "versions": "; ".join(f"{k} {v}" for k, v in sorted(env.get("packages", {}).items())),
        **settings, "device": known["device"], "matmul_tflops": known.get("matmul_tflops"),
    }  # fmt: skip
    for kind in VERIFIERS:
        for name, (part, *inner) in FIGURES.items():
            value = known.get(f"{kind}/{part}")
            if inner and isinstance(value, dict):
                batch = next((name for name in value if name.startswith("batch ") and name != "batch 1"), "")
                value = value.get(batch if inner == ["batch"] else inner[0])
            found[f"{kind}:{name}"] = value
    return found


def record(history: Path, known: dict[str, Any]) -> None:
    """Write a run's line at the end of the history, in the place of one that the same run wrote before."""
    this = line(known)
    before = pd.read_csv(history) if history.exists() else pd.DataFrame()
    if len(before):
        before = before[before["started"] != this["started"]]
    rows = [*before.to_dict("records"), this]
    write_output(history, csv_bytes(pd.DataFrame(rows, columns=list(dict.fromkeys([*before, *this])))))


def draw(history: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw what each run reached, a panel a figure; runs of one device, generator and variant share a line.

    A run that reached none of these figures is left out.
    """
    columns = [f"{kind}:{name}" for name in _PANELS for kind in VERIFIERS]
    history = history[history[columns].notna().any(axis=1)]
    history = history.assign(run=range(len(history)))
    with SCREEN.styled():
        fig = SCREEN.figure(SCREEN.text, 3.0)
        for axes, (name, title) in zip(fig.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
            for kind in VERIFIERS:
                style = USUAL[kind]
                for _, part in history.groupby(["device", "generator", "variant", "shapes"], sort=False):
                    axes.plot(
                        part["run"],
                        part[f"{kind}:{name}"],
                        color=style.color,
                        marker=style.marker,
                        ms=3,
                        lw=1,
                    )
                axes.plot([], [], color=style.color, marker=style.marker, ms=3, lw=1, label=style.label)
            names = [_named(row, history) for row in history.itertuples()]
            axes.set_xticks(history["run"], names, fontsize=5, rotation=90)
            axes.set(title=title)
            axes.set_ylim(0, 1.15 * axes.dataLim.ymax)
        handles, names = axes.get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return fig, history[["started", "device", "generator", "variant", *columns]]


def _named(run: Any, every: pd.DataFrame) -> str:
    """Name a run in one line, by what tells it from others."""
    variant = run.variant if run.shapes == "dynamic" else f"{run.variant} ({run.shapes})"
    parts = [run.generator, variant, str(run.commit)[:7]]
    if every["device"].nunique() > 1:
        parts.append(run.device.split(" CPU")[0].removeprefix("NVIDIA ")[-18:])
    return ", ".join(parts)


def main(history: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    fig, data = draw(pd.read_csv(history))
    save(fig, out / "fast", data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
