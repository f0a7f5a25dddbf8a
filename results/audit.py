"""Checks of whether the published numbers agree with each other."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from vhsbench.results.readers import TABLES, claim, recomputed_overall, table

TOLERANCE = 0.15  # printed to one decimal, from accuracies that are themselves rounded to one
_ROUNDING = 0.051


def audit() -> pd.DataFrame:
    """Run all checks, a row each: check, source, what, printed, expected, difference, agrees."""
    rows = [*_overalls(), *_repeated_rows(), *_gains(), _smallest_budget()]
    frame = pd.DataFrame(rows, columns=["check", "source", "what", "printed", "expected", "tolerance"])
    frame["difference"] = (frame["printed"] - frame["expected"]).round(3)
    frame["agrees"] = frame["difference"].abs() <= frame.pop("tolerance")
    return frame


def _overalls() -> list[tuple[Any, ...]]:
    """Check every printed Overall against the prompt-weighted mean of its row."""
    rows: list[tuple[Any, ...]] = []
    for name in TABLES:
        printed = table(name)
        for (_, row), expected in zip(printed.iterrows(), recomputed_overall(printed), strict=True):
            what = f"overall of {_describe(row)}"
            rows.append(("overall", row["source"], what, row["overall"], round(expected, 3), TOLERANCE))
    return rows


def _repeated_rows() -> list[tuple[Any, ...]]:
    """Check that SANA-Sprint's pipelines have the same Overall in other tables as in Table 1."""
    keys = ["budget_ms", "verifier"]
    first = table("table1").query("generator == 'SANA-Sprint' and steps == 1").set_index(keys)["overall"]
    others = [
        table("table5").query("scoring == 'token_probability'"),
        table("table6").query("generator == 'SANA-Sprint' and steps == 1"),
        table("table7").query("lora_epoch_fraction == 0"),
    ]
    return [
        ("same row", row["source"], f"{row['verifier']} at {row['budget_ms']} ms, in Table 1",
         row["overall"], first.loc[(row["budget_ms"], row["verifier"])], _ROUNDING)
        for other in others
        for _, row in other.iterrows()
    ]  # fmt: skip


def _gains() -> list[tuple[Any, ...]]:
    """Check differences that the text or a column states against the printed tables."""
    at = table("table1").query("steps == 1").set_index(["budget_ms", "verifier"])["overall"]
    scoring = table("table5").query("verifier == 'VHS'").set_index("scoring")["overall"]
    rows = [
        ("stated gain", "main paper", "VHS over MLLM w/ CLIP at 550 ms",
         claim("overall_gain"), at[550, "VHS"] - at[550, "MLLM w/ CLIP"], _ROUNDING),
        ("stated gain", "supplement B.2", "VHS with token probability over no scoring",
         claim("scoring_gain"), scoring["token_probability"] - scoring["none"], _ROUNDING),
    ]  # fmt: skip
    for fraction, part in table("table7").groupby("lora_epoch_fraction"):
        overall = part.set_index("verifier")["overall"]
        what = f"VHS over MLLM w/ CLIP after {fraction:.0%} of the LoRA epoch"
        expected = overall["VHS"] - overall["MLLM w/ CLIP"]
        rows.append(("stated gain", "Table 7", what, part["delta"].max(), expected, _ROUNDING))
    return rows


def _smallest_budget() -> tuple[Any, ...]:
    printed, expected = claim("smallest_budget_in_text"), float(table("table6")["budget_ms"].min())
    return ("text and table", "supplement B.3", "smallest budget (ms), in Table 6", printed, expected, 0.0)


def _describe(row: pd.Series) -> str:
    parts = [str(row["verifier"]) if row["verifier"] != "none" else "no verifier"]
    if "generator" in row:
        parts.insert(
            0, f"{row['generator']} ({row['steps']} steps)" if row["steps"] > 1 else row["generator"]
        )
    if "best_of_n" in row and not math.isnan(row["best_of_n"]):
        parts.append(f"best of {row['best_of_n']}")
    if "scoring" in row:
        parts.append(f"scoring {row['scoring']}".replace("_", " "))
    if "lora_epoch_fraction" in row:
        parts.append(f"{row['lora_epoch_fraction']:.0%} LoRA")
    return f"{', '.join(parts)} at {row['budget_ms']} ms"
