"""The table `verdicts` of a run: written with its candidates, or later, by judges that it did not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.common.images import decode_image, pixels_digest
from vhsbench.harness.config.entries import JudgeConfig
from vhsbench.harness.config.models import load_judges
from vhsbench.harness.config.run import RunConfig, recorded_config
from vhsbench.harness.config.yaml_files import check as check_config
from vhsbench.harness.config.yaml_files import parse_entry
from vhsbench.harness.cost.environment import made_by
from vhsbench.harness.inference.bench import verdict_rows
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.keys import CANDIDATE, IN_POOL
from vhsbench.harness.store.parquet import StoreError
from vhsbench.harness.store.tables import RunStore, read_info
from vhsbench.harness.sweep.kept_images import image_name
from vhsbench.harness.sweep.progress import Journal
from vhsbench.harness.sweep.shards import Finished, Shard
from vhsbench.harness.sweep.survey import Expected, check, verdicts_key

Engine = Callable[[RunConfig, Sequence[dict[str, Any]], Sequence[Shard]], Iterator[Finished]]


def with_judges(run: Path | str, named: Sequence[str]) -> RunConfig:
    """Return the configuration of a finished run with more judges, each written as in YAML; those it has stay.

    Raises StoreError for a run that is not finished, unless it is these judges that it lacks, and ConfigError.
    """
    info = read_info(Folder(run))
    if info is None:
        raise StoreError(f"{run} is not a run directory: it has no run.json.")
    config = recorded_config(info, run)
    known = [entry.model_dump(mode="json") for entry in config.judged_by]
    added: list[dict[str, Any]] = []
    for text in named:
        entry = parse_entry(text, "--judge", JudgeConfig).model_dump(mode="json")
        added += [] if entry in (*known, *added) else [entry]
    if added and info["status"] != "complete":
        raise StoreError(f"the run in {run} is not finished; `vhsbench run` with it as --out resumes it.")
    judges = {"judges": [*known, *added]}
    return check_config({**config.model_dump(mode="json"), **judges}, "--judge", RunConfig)


def agreement(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Say of each judge on how many candidates it gave which mean value, and the share that it called right.

    Returns columns judge, candidates, value, right (None of a judge without a threshold).
    """
    rows = []
    for judge, part in verdicts.groupby("judge", sort=False):
        decided = part["correct"].notna().all()
        right = float(part["correct"].astype(bool).mean()) if decided else None
        rows.append((str(judge), len(part), float(part["value"].mean()), right))
    found = pd.DataFrame(rows, columns=["judge", "candidates", "value", "right"])
    return found.astype({"right": object}).where(found.notna(), None)


def write_verdicts(expected: Expected, store: RunStore, finished: Finished, together: str) -> None:
    """Write each judge's verdicts on a shard, with what made them; `together` identifies the shard's candidates."""
    rows = finished.tables["verdicts"]
    for judge in expected.judges:
        made = finished.judged.get(judge) or expected.of_verdicts(finished.shard, judge)
        about = {**made.about(), "made": finished.made, "of": together}
        store.write_shard(
            "verdicts", verdicts_key(finished.shard, judge), rows[rows["judge"] == judge], about
        )


def note_models(store: RunStore, about: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to run.json what made a shard, if it is not there yet."""
    known = {k: v if k == "detector" else store.info.get(k, {}) | v for k, v in about.items()}
    if any(store.info.get(k) != v for k, v in known.items()):
        store.update(**known)


def judge_rest(
    expected: Expected,
    store: RunStore,
    unjudged: Mapping[Shard, Sequence[str]],
    engine: Engine,
    journal: Journal,
) -> None:
    """Let the judges that finished shards lack verdicts of judge their candidates; no other table changes.

    The pictures are those that the run kept, or made again from their seeds by `engine`. Raises StoreError for one
    that is not, bit for bit, what the other judges saw.
    """
    groups: dict[tuple[str, ...], list[Shard]] = {}
    for shard, judges in unjudged.items():
        groups.setdefault(tuple(judges), []).append(shard)
    for judges, shards in groups.items():
        again = _of_judges_alone(expected, judges)
        kept = [shard for shard in shards if _all_kept(expected, store, shard)]
        made = engine(again.config, expected.prompts, [shard for shard in shards if shard not in kept])
        done, what = 0, f"verdicts of {', '.join(judges)}"
        journal.update(what, done, len(shards))
        for finished in _judged_as_kept(again, expected, store, kept):
            _add(again, store, finished)
            journal.update(what, done := done + 1, len(shards))
        for finished in made:
            check(again, finished, {})
            _compare(expected, store, finished)
            _add(again, store, finished)
            journal.update(what, done := done + 1, len(shards))


def _of_judges_alone(expected: Expected, judges: Sequence[str]) -> Expected:
    """Return the run that makes the same candidates and lets these judges alone judge them."""
    config = expected.config
    changes = {
        "judges": [entry for entry in config.judged_by if entry.shown in judges],
        "generators": [e.model_copy(update={"verifiers": None}) for e in config.generators],
        "verifiers": [],
        "strategies": [],
        "gallery_prompts": 0,
    }
    return Expected(config.model_copy(update=changes), expected.prompts)


def _add(again: Expected, store: RunStore, finished: Finished) -> None:
    about = store.about("candidates", finished.shard.key) or {}
    write_verdicts(again, store, finished, about.get("together", ""))
    note_models(store, {"judges": finished.about["judges"]})


def _all_kept(expected: Expected, store: RunStore, shard: Shard) -> bool:
    entry = expected.config.generators[shard.entry]
    rows = store.read_shards("candidates", [shard.key])
    names = {image_name(entry.key, p, i) for p, i in zip(rows["prompt_id"], rows["index"], strict=True)}
    return names <= expected.pictures(shard, ())


def _judged_as_kept(
    again: Expected, expected: Expected, store: RunStore, shards: Sequence[Shard]
) -> Iterator[Finished]:
    """Judge the pictures that a run kept, in batches as large as it made them."""
    config = again.config
    judges = load_judges(config, expected.prompts) if shards else []
    about = {"judges": {judge.name: judge.info() for judge in judges}}
    for shard in shards:
        key = config.generators[shard.entry].key
        rows = store.read_shards("candidates", [shard.key])[CANDIDATE]
        parts = []
        for start in range(0, len(rows), config.batch_size):
            batch = rows.iloc[start : start + config.batch_size]
            names = [image_name(key, p, i) for p, i in zip(batch["prompt_id"], batch["index"], strict=True)]
            images = [decode_image(store.folder.read(name), name) for name in names]
            prompts = [expected.prompts[p] for p in batch["prompt_id"]]
            parts += [verdict_rows(judge, batch, images, prompts) for judge in judges]
        made = made_by(config.device)
        yield Finished(shard, {"verdicts": pd.concat(parts, ignore_index=True)}, {}, about, made=made)


def _compare(expected: Expected, store: RunStore, finished: Finished) -> None:
    """Leave the verdicts on the run's candidates alone; raise StoreError where one was made again otherwise."""
    shard, rows = finished.shard, finished.tables["verdicts"]
    candidates = store.read_shards("candidates", [shard.key])
    then = dict(
        zip(
            _candidates(candidates),
            zip(candidates["correct"], candidates["reason"], strict=True),
            strict=True,
        )
    )
    rows = rows[[candidate in then for candidate in _candidates(rows)]]  # without prompts that failed then
    finished.tables["verdicts"] = rows
    first, known = expected.config.judged_by[0].shown, _pictures(expected, store, shard)
    for candidate, row in zip(_candidates(rows), rows.to_dict("records"), strict=True):
        other = row["judge"] == first and (row["correct"], row["reason"]) != then[candidate]
        if other or known.get(candidate, row["picture"]) != row["picture"]:
            what = "its verdict is another" if other else "its pixels are others"
            raise StoreError(
                f"{store.path}: candidate {row['index']} of prompt {row['prompt_id']}, seed {row['seed']}, made again by "
                f"'{row['generator']}', is not the picture that was judged before ({what}); judge it where the run was "
                "made, or give `vhsbench run` --redo to make it again as a whole."
            )
    for judge, part in rows.groupby("judge"):
        if len(part) != len(candidates):
            raise StoreError(
                f"{store.path}: judge '{judge}' has {len(part)} verdicts on the {len(candidates)} candidates of shard "
                f"{shard.key}, of which some could not be made again; try it again."
            )


def _pictures(expected: Expected, store: RunStore, shard: Shard) -> dict[tuple[int, ...], str]:
    """Return the digests of a shard's pictures by candidate, of those that the run kept or that were judged before."""
    known: dict[tuple[int, ...], str] = {}
    entry = expected.config.generators[shard.entry]
    there = expected.pictures(shard, ())
    for candidate in _candidates(store.read_shards("candidates", [shard.key])):
        name = image_name(entry.key, candidate[0], candidate[2])
        if name in there and store.folder.exists(name):
            known[candidate] = pixels_digest(decode_image(store.folder.read(name), name))
    together = (store.about("candidates", shard.key) or {}).get("together")
    for key in sorted(store.keys("verdicts")):
        if key.startswith(verdicts_key(shard, "")):
            about = store.about("verdicts", key)
            if about is not None and about.get("of") == together:
                rows = store.read_shards("verdicts", [key])
                known |= zip(_candidates(rows), rows["picture"], strict=True)
    return known


def _candidates(rows: pd.DataFrame) -> list[tuple[int, ...]]:
    """List the rows' candidates within their pool."""
    return list(rows[IN_POOL].itertuples(index=False, name=None))
