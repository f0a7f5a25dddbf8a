"""Figures of a full-size cost run: `python benchmarks/full_size_figures.py results/h200 [OUT]`."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from vhsbench.harness.cost.sound import sound
from vhsbench.harness.report.style import (
    SCREEN,
    STAGE_COLORS,
    USUAL,
    label,
    save,
)
from vhsbench.harness.store.keys import of_pipeline

NAMES = {"sana-sprint": "SANA-Sprint", "pixart-alpha-dmd": "PixArt-\u03b1-DMD"}
VERIFIERS = ("vhs", "mllm-ae", "mllm-clip")
STAGES = ("encode", "noise", "head", "denoise", "tail", "decode", "score")


def main(run: Path, out: Path) -> None:
    costs = sound(pd.read_parquet(run / "costs.parquet"))
    device = str(costs["device"].dropna().iloc[0])
    out.mkdir(exist_ok=True)
    for name, draw in (("time_over_n", time_over_n), ("stages", stages), ("speedups", speedups)):
        fig, data = draw(costs, device)
        save(fig, out / name, data)


def time_over_n(costs: pd.DataFrame, device: str) -> tuple[Figure, pd.DataFrame]:
    """Draw the measured T(N) of whole runs: one candidate at a time, and four at a time."""
    whole = costs[(costs["stage"] == "end_to_end") & costs["variant"].isin(["", "batched"])]
    whole = whole[whole["generator"].isin(NAMES) & (whole["steps"] == 1) & whole["verifier"].isin(VERIFIERS)]
    keys = ["generator", "verifier", "batch", "n"]
    data = whole.groupby(keys)["wall_ms"].agg(["median", "min", "max"]).reset_index()
    with SCREEN.styled():
        fig = SCREEN.figure(SCREEN.text, 2.9)
        for axes, (generator, title) in zip(fig.subplots(1, 2), NAMES.items(), strict=True):
            for (verifier, batch), part in data[data["generator"] == generator].groupby(
                ["verifier", "batch"]
            ):
                style = USUAL[verifier]
                text = f"{style.label}, {'one' if batch == 1 else batch} at a time"
                axes.plot(part["n"], part["median"], "-" if batch == 1 else "--", color=style.color,
                          marker=style.marker, ms=3, lw=1.2, label=text)  # fmt: skip
                axes.fill_between(part["n"], part["min"], part["max"], color=style.color, alpha=0.12, lw=0)
            axes.set(xscale="log", yscale="log", xlabel="N", ylabel="time of best-of-N (ms)", title=title)
            axes.set_xticks([1, 2, 4, 9, 15, 32], ["1", "2", "4", "9", "15", "32"], minor=False)
            axes.set_xticks([], minor=True)
            axes.set_yticks([100, 200, 500, 1000, 2000, 5000], ["100", "200", "500", "1000", "2000", "5000"])
            axes.set_yticks([], minor=True)
        fig.suptitle(
            f"{device}, random weights, bf16; lines: medians of 6, bands: fastest to slowest", fontsize=8.5
        )
        handles, labels = axes.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig, data


def stages(costs: pd.DataFrame, device: str) -> tuple[Figure, pd.DataFrame]:
    """Draw what each stage takes, once, by pipeline: the fastest of the repeats."""
    rows = costs[(costs["variant"] == "") & costs["generator"].isin(NAMES) & (costs["steps"] == 1)]
    rows = rows[rows["stage"].isin(STAGES) & rows["verifier"].isin(VERIFIERS)]
    data = rows.groupby(["generator", "verifier", "stage"])["wall_ms"].min().reset_index()
    with SCREEN.styled():
        fig = SCREEN.figure(SCREEN.text, 2.4)
        bars = [(g, v) for g in NAMES for v in VERIFIERS][::-1]
        axes = fig.subplots()
        left = dict.fromkeys(bars, 0.0)
        for stage in STAGES:
            part = data[data["stage"] == stage].set_index(["generator", "verifier"])["wall_ms"]
            widths = [float(part.get(bar, 0.0)) for bar in bars]
            axes.barh(range(len(bars)), widths, left=list(left.values()), color=STAGE_COLORS[stage],
                      label=stage, height=0.7)  # fmt: skip
            left = {bar: left[bar] + width for bar, width in zip(bars, widths, strict=True)}
        axes.set_yticks(range(len(bars)), [f"{NAMES[g]}, {label(v)}" for g, v in bars])
        axes.set(
            xlabel="ms, every stage once",
            title=f"Stages of best-of-1: {device}, random weights, bf16, fastest of 6",
        )
        axes.grid(axis="y", visible=False)
        fig.legend(loc="outside lower center", ncols=7, frameon=False)
    return fig, data


def speedups(costs: pd.DataFrame, device: str) -> tuple[Figure, pd.DataFrame]:
    """Draw SANA-Sprint with VHS: the naive loop, the staged one, candidates together, CUDA graphs, compiled."""
    ways = {
        ("naive", 1): ("naive loop", "#999999"),
        ("", 1): ("staged, one at a time", "#D55E00"),
        ("cuda-graphs", 1): ("staged, CUDA graphs (N = 4)", "#CC79A7"),
        ("torch-compile", 1): ("staged, compiled (N = 4)", "#0072B2"),
        ("batched", 4): ("staged, four at a time", "#E69F00"),
        ("staged", None): ("staged, all at once", "#009E73"),
    }
    rows = of_pipeline(costs, "sana-sprint", 1, "vhs")
    rows = rows[(rows["stage"] == "end_to_end") & rows["n"].isin([4, 9, 15])]
    times = rows.groupby(["variant", "batch", "n"])["wall_ms"].agg(["median", "min", "max"]).reset_index()
    parts = []
    with SCREEN.styled():
        fig = SCREEN.figure(SCREEN.column * 1.35, 2.8)
        axes = fig.subplots()
        for i, ((variant, batch), (text, color)) in enumerate(ways.items()):
            part = times[times["variant"] == variant]
            part = part[part["batch"] == (part["n"] if batch is None else batch)].assign(way=text)
            parts.append(part)
            places = [(4, 9, 15).index(n) + 0.14 * (i - 2.5) for n in part["n"]]
            errors = [part["median"] - part["min"], part["max"] - part["median"]]
            axes.bar(places, part["median"], 0.13, yerr=errors, color=color, label=text, error_kw={"lw": 0.6})
        axes.set_xticks(range(3), ["N = 4", "N = 9", "N = 15"])
        axes.grid(axis="x", visible=False)
        axes.set(ylabel="time of best-of-N (ms)")
        axes.set_title(f"SANA-Sprint with VHS: {device}, random weights")
        fig.legend(loc="outside lower center", ncols=2, frameon=False)
    return fig, pd.concat(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else Path(sys.argv[1]) / "figures"))
