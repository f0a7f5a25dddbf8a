"""Write tables of docs/performance.md and docs/strategies.md again, from what was measured.

    python benchmarks/measured_pages.py

A table stands between a line `<!-- TABLE: FOLDER -->` and one `<!-- end -->`, as in docs/nano.md (benchmarks/nano_page.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from fast_history import code_of  # noqa: E402
from nano_page import renewed, table  # noqa: E402

from vhsbench.harness.common.atomic import write_output  # noqa: E402
from vhsbench.harness.report.style import label  # noqa: E402
from vhsbench.harness.stats.intervals import brackets  # noqa: E402

PAGES = [ROOT / "docs" / name for name in ("performance.md", "strategies.md")]
COLUMNS = [  # of `fast`: a verifier, and the run that measured it
    ("vhs", "h200b-sana"), ("vhs", "h200c-sana"), ("vhs", "h200d-sana"), ("vhs", "h200d-fp8"),
    ("mllm-clip", "h200d-sana"), ("mllm-ae", "h200d-sana"),
]  # fmt: skip
GOALS = {  # for VHS, by row
    "ms a candidate, `fast`": "3.5", "times the bound": "1.3", "naive : `fast`": "12", "N within": "128",
    "decode, ms an image, `fast`": "20 in batches",
}  # fmt: skip
SHORT = {  # of `fast_others`: what ran, its verifier, and the run
    "PixArt-\N{GREEK SMALL LETTER ALPHA}-DMD, VHS": ("vhs", "h200d-pixart"),
    "FLUX-Schnell, MLLM w/ CLIP": ("mllm-clip", "h200c-flux"),
    "SD3.5-Turbo, MLLM w/ CLIP": ("mllm-clip", "h200c-sd3"),
}
Run = dict[str, Any]


def main() -> None:
    for page in PAGES:
        write_output(page, renewed(page.read_text(encoding="utf-8"), ROOT, TABLES).encode())


def strategies(folder: Path) -> str:
    """Return what stages of each strategy add up to beside whole runs, its FLOPs and peak memory: a row for each."""
    rows = pd.read_csv(folder / "strategies.csv")
    heads = [
        "strategy", "stages, ms [95%]", "whole runs, ms", "stages are off by", "TFLOP", "peak VRAM, GB",
    ]  # fmt: skip
    lines = (
        [f"`{r.strategy}`", f"{r.predicted_ms:.1f}{brackets(r.low, r.high)}", f"{r.measured_ms:.1f}",
         f"{r.off_percent:+.1f}%", f"{r.tflop:.1f}", f"{r.own_vram_gb:.1f}"]
        for r in rows.itertuples()
    )  # fmt: skip
    return table(heads, lines)


def strategies_of_nano(folder: Path) -> str:
    """Return each strategy of the bundled training at each budget, less best-of-N by VHS and by MLLM w/ CLIP."""
    of_seed = [pd.read_csv(folder / f"{name}.csv") for name in ("nano_seeds", "nano_seed_pairs")]
    rows, pairs = (frame[frame["training_seed"] == 0] for frame in of_seed)
    heads = ["budget", "meaning", "setting chosen most", "overall % [95%]", "less VHS", "less MLLM w/ CLIP"]

    def less(row: Any, other: str) -> str:
        if row.strategy == other:
            return ""
        here = pairs[(pairs["budget"] == row.budget) & (pairs["meaning"] == row.meaning)]
        for a, b, sign in ((row.strategy, other, 1), (other, row.strategy, -1)):
            for pair in here[(here["better"] == a) & (here["other"] == b)].itertuples():
                ends = sorted((sign * pair.low, sign * pair.high))
                told = "**" if pair.beats else ""
                return f"{told}{sign * pair.difference:+z.1f}{brackets(*ends)}{told}"
        return "not compared"

    def lines() -> Iterator[list[str]]:
        for row in rows.itertuples():
            if row.meaning == "hard" or row.strategy.startswith("stop:"):  # the others' cost does not vary
                yield [
                    f"{row.budget:g} ms", "every prompt" if row.meaning == "hard" else "on average", f"`{row.setting}`",
                    f"{row.accuracy:.1f}{brackets(row.low, row.high)}",
                    less(row, "best-of-n:vhs"), less(row, "best-of-n:mllm-clip"),
                ]  # fmt: skip

    return table(heads, lines())


def fast(folder: Path) -> str:
    """Return what `fast` reached with SANA-Sprint: a column for each verifier and run, and one of goals."""
    columns = [(verifier, _read(folder, run)) for verifier, run in COLUMNS]
    named = [_column(v, run) for v, run in columns]
    goals_at = [run["settings"]["variant"] for _, run in columns].index("fast-fp8")
    heads = ["", *named[:goals_at], "goal for VHS", *named[goals_at:]]

    def lines() -> Iterator[list[str]]:
        for name, cell in ROWS.items():
            cells = [cell(partial(_part, run, verifier)) for verifier, run in columns]
            goal = next((goal for start, goal in GOALS.items() if name.startswith(start)), "")
            yield [name, *cells[:goals_at], goal, *cells[goals_at:]]

    return table(heads, lines())


def _column(verifier: str, run: Run) -> str:
    variant = run["settings"]["variant"]
    return ", ".join([label(verifier), *([] if variant == "fast" else [f"`{variant}`"]), _commit(run)])


def _commit(run: Run) -> str:
    return str(code_of(run))[:7]


def fast_others(folder: Path) -> str:
    """Return what other pipelines reached: a row for each, with what was measured of it."""
    heads = [
        "pipeline", "batch", "ms a candidate: plain, `fast`", "times the bound",
        "naive, staged, staged in a batch, `fast`, ms", "naive : `fast`", "score, features, image moved by at most",
    ]  # fmt: skip

    def lines() -> Iterator[list[str]]:
        for name, (verifier, run) in SHORT.items():
            known = _read(folder, run)
            of = partial(_part, known, verifier)
            batch = f"batch {known['settings']['batch']}"
            turns, whole = of("candidate_fast"), of("whole")  # plain and fast were timed in the same turns
            candidates = f"{turns[f'plain {batch}']:.2f} / {turns[batch]:.2f}"
            yield [
                name, str(known["settings"]["batch"]), candidates, f"{of('candidate_fast')['to_bound']:.2f}",
                _whole(of), f"{whole['naive_to_fast']:.1f}" if whole else "", _moved(of),
            ]  # fmt: skip

    return table(heads, lines())


def sweep(folder: Path) -> str:
    """Return ms an image of a shard's stages, plain and by `fast`: a row for each, the longest first."""
    runs = [_read(folder, name) for name in ("h200-sweep", "h200-sweep-f92ac4e")]
    ways = [stages for run in runs for stages in run["stages"].values()]
    plain, quick = ways[-2:]
    order = sorted(plain, key=plain.get, reverse=True)
    lines = ([_STAGES.get(s, s), *(f"{way[s]:.1f}" for way in ways), f"{100 * quick[s] / quick['all']:.0f}%"]
             for s in order)  # fmt: skip
    heads = [f"{way}, {_commit(run)}" for run in runs for way in ("plain", "`fast`")]
    return table(["ms an image", *heads, "share of the last"], lines)


_STAGES = {
    "all": "all, one after another", "logits": "the detector's network (part of detect)", "rest": "the rest",
    "score:vhs": "score: VHS", "score:mllm-clip": "score: MLLM w/ CLIP", "name_colors": "colours",
    "pictures": "pictures to the host",
}  # fmt: skip

Of = Callable[[str], Any]  # a part of a run, of one verifier


def _candidate(part: str) -> Callable[[Of], str]:
    def cell(of: Of) -> str:
        one, batch = (of(part)[name] for name in _sizes(of(part)))
        return f"{one:.1f} / {batch:.2f}"

    return cell


def _plain(of: Of) -> str:
    alone, turns = of("candidate"), of("candidate_fast")
    one, batch = _sizes(alone or turns)
    first = f"{alone[one]:.1f}" if alone else "the same"
    ms = turns.get(f"plain {batch}") or alone[batch]  # in the turns of fast, since 51004aa
    return f"{first} / {ms:.2f}" + ("" if batch == "batch 32" else f" ({batch})")


def _sizes(candidate: Run) -> list[str]:
    return [name for name in candidate if name.startswith("batch ")]


def _bound(of: Of) -> str:
    return "{to_bound:.2f} ({bound_ms:.2f})".format(**of("candidate_fast"))


def _whole(of: Of) -> str:
    ways = ("naive", "staged", "batched", "fast")
    return ", ".join(f"{of('whole')[way]:.0f}" for way in ways) if of("whole") else ""


def _within(of: Of) -> str:
    found = of("within")
    ms = {int(n): each for n, each in found["ms"].items()}
    above = min(n for n in ms if n > found["n"])
    batches = "" if found["batch"] == 32 else f", in batches of {found['batch']}"
    return f"{found['n']} ({ms[found['n']]:.0f}; {above}: {ms[above]:.0f}{batches})"


def _decode(way: str) -> Callable[[Of], str]:
    def cell(of: Of) -> str:
        found = of("decode")
        return f"{found[f'{way} 1']:.1f} / {found[f'{way} 8']:.1f}" if found else "the same decoder"

    return cell


def _moved(of: Of) -> str:
    found = of("applied")
    return (
        f"{found['score_difference']:.0e}, {found['features_percent']:.2f}%, {found['image_percent']:.2f}%"
    ).replace("e-0", "e-")


def _seconds(of: Of) -> str:
    eight = (of("decode") or {}).get("first fast 8 s")
    return f"{of('applied')['compile_s']:.0f}, {of('first_batch_s'):.0f}" + (
        f", {eight:.0f}" if eight else ""
    )


ROWS: dict[str, Callable[[Of], str]] = {
    "ms a candidate, plain: one at a time / batch of 32": _plain,
    "ms a candidate, `fast`: one at a time / batch of 32": _candidate("candidate_fast"),
    "times the bound (the bound, ms), batch of 32": _bound,
    "N = 32, ms: naive, staged, staged in batches, `fast`": _whole,
    "naive : `fast`": lambda of: f"{of('whole')['naive_to_fast']:.1f}" if of("whole") else "",
    "N within 550 ms, in batches of 32 (ms; the next: ms)": _within,
    "decode, ms an image, plain: one / eight at once": _decode("plain"),
    "decode, ms an image, `fast`: one / eight at once": _decode("fast"),
    "score, features, image moved by at most": _moved,
    "seconds: first call, first batch, first eight images": _seconds,
}

TABLES: dict[str, Callable[[Path], str]] = {
    f.__name__: f for f in (strategies, strategies_of_nano, fast, fast_others, sweep)
}


def _part(run: Run, verifier: str, part: str) -> Any:
    """Return what a run knows of a verifier's part; None if that was not measured."""
    return run.get(f"{verifier}/{part}")


def _read(folder: Path, name: str) -> Run:
    known: Run = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return known


if __name__ == "__main__":
    main()
