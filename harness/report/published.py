"""The paper's numbers beside measured ones, each row labelled, with their difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.report.comparisons import AccuracyTable
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.store.keys import PIPELINE
from vhsbench.results import readers

MEASURED, PUBLISHED, DIFFERENCE = "measured here", "published", "difference"
_MATCHED = ("budget_ms", *PIPELINE, "scoring", "drift")


def beside(table: AccuracyTable, names: Mapping[str, str], kinds: Mapping[str, str]) -> AccuracyTable:
    """Add to a table each published row below its measured one, and their difference below both.

    names: generator as shown -> its registered name; kinds: a verifier's label -> its kind. Rows are matched by those,
    by budget, steps and the table's other keys. Rows that only one side has are kept.
    """
    printed = readers.published_rows(table.published)
    measured = table.rows.replace({"generator": dict(names), "verifier": dict(kinds)})
    matched = [c for c in _MATCHED if c in measured and c in printed]
    unused = dict.fromkeys(printed.index)
    parts: list[pd.Series] = []
    for (_, row), (_, registered) in zip(table.rows.iterrows(), measured.iterrows(), strict=True):
        parts.append(row.rename(None).pipe(_labelled, MEASURED))
        same = pd.Series(True, index=printed.index)
        for column in matched:
            same &= printed[column] == registered[column]
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
    """Add to the headline numbers the published values, and the difference if they are of the same generator."""
    claims = readers.claims().set_index("key")["value"]
    frame = headline.assign(published=headline["key"].map(claims))
    same = frame["generator"].replace(dict(names)) == "sana-sprint"
    frame["difference"] = (frame["measured"] - frame["published"]).where(same)
    return frame


def _labelled(row: pd.Series, source: str) -> pd.Series:
    return pd.concat([row, pd.Series({"source": source})])


def _difference(measured: pd.Series, printed: pd.Series) -> pd.Series:
    """Subtract published from measured in every accuracy that both have."""
    keep = {k: measured[k] for k in _MATCHED if k in measured}
    numbers = {
        c: measured[c] - printed[c] for c in (*TAGS, OVERALL, "delta") if c in measured and c in printed
    }
    return pd.Series(keep | numbers)
