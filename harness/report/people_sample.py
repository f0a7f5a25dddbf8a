"""The sample of candidates that people judge: the verifiers' picks, in strata, in the order in which they are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, ReadError, read_bytes, read_errors_as
from vhsbench.harness.common.limits import LARGEST_SEED
from vhsbench.harness.common.text import decode, parse_json_lines
from vhsbench.harness.config.run import kept_config
from vhsbench.harness.stats.curves import winners
from vhsbench.harness.stats.stratified import FEWEST
from vhsbench.harness.store.keys import CANDIDATE, DRAW, POOL, distinct, of_pool
from vhsbench.harness.store.parquet import sha256
from vhsbench.harness.store.tables import Run, StoreError

FOLDER = "people"  # in a run
FILE = f"{FOLDER}/sample.jsonl"
NONE = "none"  # whose pick is the first candidate: no verifier
STRATUM = [*POOL, "disputed", "tag", "correct"]
_DISPUTED_RATE = 2  # how much likelier a disputed pick is drawn than another
_COLUMNS: dict[str, type] = {
    "generator": str, "steps": int, "prompt_id": int, "seed": int, "index": int,
    "disputed": bool, "tag": str, "correct": bool,
}  # fmt: skip


class LabelError(VhsbenchError):
    """A sample or answers that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Drawn:
    """All candidates that a verifier picks of `best_of`, in the order in which people see them.

    rows: a candidate's columns, disputed (verifiers or judges part over it), tag and correct (the judge's verdict when it
    was drawn). Any number of rows from the first on are, within each stratum, a random sample of it. `candidates` is the
    digest of the table that it was drawn from.
    """

    best_of: int
    candidates: str
    rows: pd.DataFrame

    @cached_property
    def data(self) -> bytes:
        """The sample as JSON lines, the first of which says what it is of."""
        head = {"best_of": self.best_of, "candidates": self.candidates}
        lines = [head, *self.rows.to_dict("records")]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    @property
    def name(self) -> str:
        """What answers name it by."""
        return sha256(self.data)[:16]

    @property
    def strata(self) -> NDArray[np.intp]:
        """The number of each row's stratum."""
        return np.asarray(self.rows.groupby(STRATUM, sort=True).ngroup(), dtype=np.intp)


def verdicts(run: Run) -> dict[str, pd.DataFrame]:
    """Collect each judge's verdicts on candidates by its name, the primary one first: CANDIDATE, value (0 to 1), correct.

    correct is empty where a judge has no threshold.
    """
    judges = [judge.shown for judge in kept_config(run).judged_by]
    given = dict(iter(run.verdicts.groupby("judge", sort=True)))
    first = [judge for judge in judges if judge in given]
    return {
        str(judge): given[judge][[*CANDIDATE, "value", "correct"]].astype({"correct": "boolean"})
        for judge in [*first, *(judge for judge in given if judge not in first)]
    }


def picks(run: Run, best_of: int) -> pd.DataFrame:
    """Select what each verifier, and none, picks of a prompt's first candidates: CANDIDATE, verifier.

    A smaller pool is picked from as a whole.
    """
    found = [run.candidates[run.candidates["index"] == 0][CANDIDATE].assign(verifier=NONE)]
    for pool in distinct(run.scores, POOL):
        found.append(winners(of_pool(run.candidates, *pool), of_pool(run.scores, *pool), best_of))
    return pd.concat([part[[*CANDIDATE, "verifier"]] for part in found], ignore_index=True)


def draw(run: Run, best_of: int) -> Drawn:
    """Draw the order in which people see the picks of a run; the same tables give the same.

    Each stratum (pool, disputed or not, task, verdict) is in random order. Strata take turns: the first two of each,
    which an estimate needs, then each by its size, disputed picks at twice the rate; in a turn disputed ones come first.
    """
    found = picks(run, best_of)
    by_verifier = found[found["verifier"] != NONE]
    of_draw = by_verifier.groupby([*POOL, *DRAW])["verifier"].size()
    chosen_by = by_verifier.groupby(CANDIDATE)["verifier"].size()
    rows = found[CANDIDATE].drop_duplicates().sort_values(CANDIDATE, ignore_index=True)
    chosen = chosen_by.reindex(pd.MultiIndex.from_frame(rows[CANDIDATE])).fillna(0).to_numpy()
    all_of = of_draw.reindex(pd.MultiIndex.from_frame(rows[[*POOL, *DRAW]])).fillna(0).to_numpy()
    parted = (chosen > 0) & (chosen < all_of) | _judges_part(run, rows)
    known = run.candidates[[*CANDIDATE, "tag", "correct"]]
    rows = rows.assign(disputed=parted).merge(known, on=CANDIDATE, validate="one_to_one")
    whole = {name: "int64" for name, kind in _COLUMNS.items() if kind is int}
    return Drawn(best_of, _digest(run), _in_turns(rows[list(_COLUMNS)].astype(whole)))


def _judges_part(run: Run, rows: pd.DataFrame) -> Any:
    """Tell of each row whether two judges' verdicts differ on it."""
    given = [
        rows.merge(found, on=CANDIDATE, how="left")["correct"].dropna() for found in verdicts(run).values()
    ]
    together = pd.concat(given, axis=1)
    return (together.nunique(axis=1) > 1).reindex(rows.index, fill_value=False).to_numpy()


def _in_turns(rows: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    turn = np.zeros(len(rows))
    for _, place in rows.groupby(STRATUM, sort=True).indices.items():
        at = rng.permutation(place)
        rate = _DISPUTED_RATE if rows["disputed"].iloc[at[0]] else 1
        turn[at] = np.maximum(0, np.arange(len(at)) - FEWEST + 1) / (rate * len(at))
    order = np.lexsort((rng.random(len(rows)), ~rows["disputed"].to_numpy(bool), turn))
    return rows.iloc[order].reset_index(drop=True)


def _digest(run: Run) -> str:
    return str(run.info.get("digests", {}).get("candidates.parquet", ""))


def is_of(drawn: Drawn, run: Run) -> bool:
    """Tell whether a sample is of the candidates that a run has now."""
    return drawn.candidates == _digest(run)


def write_sample(run: Path, drawn: Drawn) -> None:
    """Write the sample into a run."""
    write_output(run / FILE, drawn.data)


def read_sample(run: Path) -> Drawn | None:
    """Read the sample of a run; None if it has none. Raises StoreError if the file is damaged."""
    file = run / FILE
    if not file.exists():
        return None
    with read_errors_as(StoreError):
        try:
            lines = parse_json_lines(decode(read_bytes(file, LARGE), str(file)), str(file))
        except ReadError as error:
            raise ReadError(f"{error} Remove {run / FOLDER} to begin anew.") from error
    if not lines:
        raise StoreError(f"{file} is damaged: it is empty.")
    head, rows = lines[0][1], lines[1:]
    if not (_is(head.get("best_of"), int) and head["best_of"] > 0 and _is(head.get("candidates"), str)):
        raise StoreError(f"{file}, line 1: it does not say what the sample is of (best_of, candidates).")
    for number, row in rows:
        if odd := _odd(row):
            raise StoreError(f"{file}, line {number}: '{odd}' is missing or of the wrong kind.")
    frame = pd.DataFrame([row for _, row in rows], columns=list(_COLUMNS))
    if frame.duplicated(CANDIDATE).any():
        raise StoreError(f"{file} is damaged: it has a candidate twice.")
    return Drawn(head["best_of"], head["candidates"], frame)


def _odd(row: Mapping[str, Any]) -> str:
    """Return the first column of a row that is no candidate's, or ""."""
    wrong = (name for name, kind in _COLUMNS.items() if not _is(row.get(name), kind))
    return next(wrong, "")


def _is(value: Any, kind: type) -> bool:
    if kind is int and isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value <= LARGEST_SEED
    return isinstance(value, kind)
