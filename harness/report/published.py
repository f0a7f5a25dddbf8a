"""The paper's numbers beside measured ones: rows that say which they are, and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from vhsbench.harness.geneval.rules import TAGS
from vhsbench.harness.report.comparisons import AccuracyTable
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.results import readers

MEASURED, PUBLISHED, DIFFERENCE = "measured here", "published", "difference"
GENERATORS = {
    "SANA-Sprint": "sana-sprint", "SANA-1.5": "sana-1.5", "FLUX-Schnell": "flux-schnell",
    "SD3.5-Turbo": "sd3.5-turbo", "PixArt-alpha-DMD": "pixart-alpha-dmd",
}  # fmt: skip
VERIFIERS = {"VHS": "vhs", "MLLM w/ CLIP": "mllm-clip", "MLLM w/ AE": "mllm-ae"}
_ACCURACIES = dict(zip(readers.PROMPTS, TAGS, strict=True)) | {"overall": OVERALL}
_MATCHED = ("budget_ms", "generator", "steps", "verifier", "scoring", "drift")
# what a table's caption says in place of a column
_IMPLIED: dict[str, Any] = {"generator": "sana-sprint", "steps": 1}


def published_rows(name: str) -> pd.DataFrame:
    """A published table in the names and columns of this harness."""
    rows = readers.table(name).rename(columns={**_ACCURACIES, "lora_epoch_fraction": "drift"})
    for column, value in _IMPLIED.items():
        if column not in rows:
            rows[column] = value
    rows["generator"] = rows["generator"].replace(GENERATORS)
    rows["verifier"] = rows["verifier"].replace(VERIFIERS)
    return rows.assign(place=rows["source"]).drop(columns="source")


def beside(table: AccuracyTable, names: Mapping[str, str]) -> AccuracyTable:
    """The table with each published row under its measured one, and their difference under both.

    names: generator as shown -> its registered name, by which rows are matched (budget, generator,
    steps, verifier and what else the table tells apart). Rows that only one side has stand alone.
    """
    printed = published_rows(table.published)
    measured = table.rows.assign(registered=table.rows["generator"].replace(dict(names)))
    matched = [c for c in _MATCHED if c in measured and c in printed and c != "generator"]
    unused = dict.fromkeys(printed.index)
    parts: list[pd.Series] = []
    for _, row in measured.iterrows():
        parts.append(row.drop("registered").rename(None).pipe(_labelled, MEASURED))
        same = printed["generator"] == row["registered"]
        for column in matched:
            same &= printed[column] == row[column]
        for i in printed.index[same]:
            other = printed.loc[i]
            parts.append(_labelled(other, PUBLISHED))
            parts.append(_labelled(_difference(row, other), DIFFERENCE))
            unused.pop(i, None)
    parts += [_labelled(printed.loc[i], PUBLISHED) for i in unused]
    rows = pd.DataFrame(parts).reindex(columns=[*table.rows.columns, "source"]).reset_index(drop=True)
    rows["best_of_n"] = rows["best_of_n"].astype("Int64")
    return replace(
        table,
        name=f"{table.name}_published",
        title=f"{table.title}, measured here and published",
        rows=rows,
        keys=("source", *table.keys),
        groups=("source", *table.groups),
    )


def headline_beside(headline: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The headline numbers with the published value, and the difference where they are of one generator."""
    claims = readers.claims().set_index("key")["value"]
    frame = headline.assign(published=headline["key"].map(claims))
    same = frame["generator"].replace(dict(names)) == "sana-sprint"
    frame["difference"] = (frame["measured"] - frame["published"]).where(same)
    return frame


def _labelled(row: pd.Series, source: str) -> pd.Series:
    return pd.concat([row, pd.Series({"source": source})])


def _difference(measured: pd.Series, printed: pd.Series) -> pd.Series:
    """Measured less published, of every accuracy that both have."""
    keep = {k: measured[k] for k in _MATCHED if k in measured}
    numbers = {
        c: measured[c] - printed[c] for c in (*TAGS, OVERALL, "delta") if c in measured and c in printed
    }
    return pd.Series(keep | numbers)
