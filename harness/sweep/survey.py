"""What a run consists of, and what of it is there when it is opened: whole, and made of what is there now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from vhsbench.harness.config.entries import GeneratorConfig, VerifierConfig
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.store.keys import JUDGED_BY
from vhsbench.harness.store.parquet import StoreError, sha256
from vhsbench.harness.store.tables import RunStore
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.identity import Identity, differences
from vhsbench.harness.sweep.kept_images import gallery_prompts, image_name
from vhsbench.harness.sweep.shards import TABLES, Finished, Shard, failed_prompts, shards


@dataclass(frozen=True)
class Pipeline:
    """A pipeline whose costs are measured, and the key of its shard."""

    key: str
    entry: GeneratorConfig
    verifier: VerifierConfig | None
    variant: str
    identity: Identity


class Expected:
    """All shards and pipelines of a run, each with the identity of what it is to be made of now."""

    def __init__(self, config: RunConfig, prompts: Sequence[dict[str, Any]]) -> None:
        """Hash the models' files. Raises what loading the models would for files that are not there."""
        self.config, self.prompts = config, prompts
        self.entries = [identity.of_entry(config, prompts, entry) for entry in config.generators]
        made = {entry.key: it for entry, it in zip(config.generators, self.entries, strict=True)}
        self.judges = identity.of_judges(config, prompts)
        self.shards = shards(config, len(prompts))
        self.pipelines = [
            Pipeline(
                key, entry, verifier, variant,
                identity.of_costs(config, prompts, made[entry.key], verifier.shown if verifier else None, variant),
            )
            for key, entry, verifier, variant in config.pipelines()
        ]  # fmt: skip
        self._gallery = set(gallery_prompts(prompts, config.gallery_prompts))

    def of(self, shard: Shard) -> Identity:
        return self.entries[shard.entry].of_prompts(self.prompts[shard.start : shard.stop])

    def of_verdicts(self, shard: Shard, judge: str) -> Identity:
        return self.judges[judge].of_prompts(self.prompts[shard.start : shard.stop])

    def record(self) -> dict[str, Any]:
        """Return what all rows of the run are made of, for run.json."""
        keys = [entry.key for entry in self.config.generators]
        return {
            "prompts": identity.prompts_sha256(self.prompts),
            "costs": identity.COSTS,
            "generators": {key: made.inputs for key, made in zip(keys, self.entries, strict=True)},
            "judges": {label: made.inputs for label, made in self.judges.items()},
        }

    def check_unchanged(self) -> None:
        """Raise StoreError, by name, if the models' files are not those that the run was opened with."""
        now = Expected(self.config, self.prompts)
        pairs = [
            *zip(self.entries, now.entries, strict=True),
            *((then, now.judges[label]) for label, then in self.judges.items()),
        ]
        if differing := [said for then, made in pairs for said in then.unlike(made)]:
            raise StoreError(
                f"files changed while the run went on: {', '.join(differing[:3])}; run it again."
            )

    def pictures(self, shard: Shard, failed: Collection[int]) -> set[str]:
        """Return the files of the pictures that a shard keeps; prompts that `failed` have none."""
        if shard.seed != self.config.seeds[0]:
            return set()
        entry = self.config.generators[shard.entry]
        kept = [p for p in range(shard.start, shard.stop) if p in self._gallery and p not in failed]
        return {image_name(entry.key, p, i) for p in kept for i in range(self.config.pool_of(entry))}


@dataclass
class Found:
    """What is there of an expected run. `digests` are those of the pictures that its finished shards kept.

    `unjudged` are the judges that finished shards lack verdicts of.
    """

    done: list[Shard] = field(default_factory=list)
    todo: list[Shard] = field(default_factory=list)
    unjudged: dict[Shard, list[str]] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)  # keys of pipelines
    loaded: dict[int, dict[str, Any]] = field(
        default_factory=dict
    )  # by entry, what its models said of themselves
    digests: dict[str, str] = field(default_factory=dict)


def survey(store: RunStore, expected: Expected, redo: bool) -> Found:
    """Look at every shard and every measured pipeline.

    Raises StoreError, by name of what differs, where one was made of something else than is there now; with
    `redo` it is to be made again. Other versions of libraries, threads or devices make a difference only
    where something is left to do, and rows of two kinds would stand side by side.
    """
    found = Found()
    kept: dict[str, dict[str, Any]] = {}
    there = set.intersection(*(store.keys(table) for table in TABLES))
    for shard in expected.shards:
        about = _whole(store, shard) if shard.key in there else None
        if about is not None:
            kept[shard.key] = about
    if kept and not redo:
        _refuse_other_prompts(store, expected)
    wanted = {shard.key: expected.of(shard) for shard in expected.shards}
    fresh = _fresh(store, wanted, kept, redo, "shards")
    for shard in expected.shards:
        if shard.key in fresh and _pictured(store, expected, shard, kept[shard.key], found.digests):
            found.done.append(shard)
            found.loaded[shard.entry] = fresh[shard.key].loaded or found.loaded.get(shard.entry, {})
        else:
            found.todo.append(shard)
    of_shard = {shard: kept[shard.key].get("together") for shard in found.done}
    for judge in expected.judges:
        for shard in _unjudged(store, expected, judge, of_shard, redo):
            found.unjudged.setdefault(shard, []).append(judge)
    costs = {p.key: p.identity for p in expected.pipelines}
    said = {key: store.about("costs", key) for key in sorted(store.keys("costs") & costs.keys())}
    measured = {key: about for key, about in said.items() if about is not None}
    if measured.keys() == costs.keys():  # else all are measured again, side by side
        found.measured = set(_fresh(store, costs, measured, redo, "measured pipelines"))
    return found


def verdicts_key(shard: Shard, judge: str) -> str:
    """Return the key of the shard of the table `verdicts` that one judge gave on a shard's candidates."""
    return f"{shard.key}{JUDGED_BY}{judge}"


def _unjudged(
    store: RunStore, expected: Expected, judge: str, of_shard: Mapping[Shard, Any], redo: bool
) -> list[Shard]:
    """List the finished shards without this judge's verdicts on the very candidates (`together`) that they have."""
    wanted = {verdicts_key(shard, judge): expected.of_verdicts(shard, judge) for shard in of_shard}
    there = store.keys("verdicts")
    kept: dict[str, dict[str, Any]] = {}
    for shard, together in of_shard.items():
        key = verdicts_key(shard, judge)
        about = store.about("verdicts", key) if key in there else None
        if about is not None and about.get("of") == together:
            kept[key] = about
    fresh = _fresh(store, wanted, kept, redo, f"shards of judge '{judge}'")
    return [shard for shard in of_shard if verdicts_key(shard, judge) not in fresh]


def _refuse_other_prompts(store: RunStore, expected: Expected) -> None:
    """Refuse a run of other prompts.

    Shards know their own prompts; the run, how many there were, and in which order.
    """
    before = store.info.get("identity", {}).get("prompts")
    if before not in (None, expected.record()["prompts"]):
        _refuse(store, ["the prompts"], "it was")


def _whole(store: RunStore, shard: Shard) -> dict[str, Any] | None:
    """Return what a shard says of itself; None unless its tables are whole and were written together."""
    said = [store.about(table, shard.key) for table in TABLES]
    whole = [about for about in said if about is not None]
    together = {about.get("together") for about in whole}
    return whole[-1] if len(whole) == len(TABLES) and len(together) == 1 else None


def _fresh(
    store: RunStore,
    expected: Mapping[str, Identity],
    kept: Mapping[str, Mapping[str, Any]],
    redo: bool,
    what: str,
) -> dict[str, Identity]:
    """Return the identities of what is kept and need not be made again, by key."""
    made = {key: Identity.read(about) for key, about in kept.items()}
    stale: dict[str, list[str]] = {}
    mixed: dict[str, list[str]] = {}
    for key, then in made.items():
        now = expected[key]
        if then is None:
            if not redo:
                _refuse_earlier(store)
            stale[key] = []
        elif found := differences(then.inputs, now.inputs):
            stale[key] = found
        elif found := differences(then.surroundings, now.surroundings):
            mixed[key] = found
    if redo or len(made) - len(stale) < len(expected):
        stale |= mixed
    if stale and not redo:
        first = next(iter(stale))
        _refuse(store, stale[first], f"{len(stale)} of its {len(expected)} {what}, first {first}, were")
    return {key: then for key, then in made.items() if then is not None and key not in stale}


def _refuse(store: RunStore, differing: Sequence[str], what: str) -> NoReturn:
    said = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
    raise StoreError(
        f"{store.path}: {what} not made with what is here now: {said}; bring that back, choose another --out, or "
        "give --redo to make again what differs."
    )


def _refuse_earlier(store: RunStore) -> NoReturn:
    raise StoreError(
        f"{store.path} is by an earlier version of this package, which did not keep what its rows were made of; "
        "`vhsbench report` reads it if it is finished; choose another --out, or give --redo to make it again."
    )


def _pictured(
    store: RunStore, expected: Expected, shard: Shard, about: Mapping[str, Any], digests: dict[str, str]
) -> bool:
    """Return whether the pictures that a shard is to keep are there and whole; add their digests."""
    if not expected.pictures(shard, ()):
        return True
    failed = failed_prompts(store.read_shards("incidents", [shard.key]))
    kept: Mapping[str, str] = about.get("images", {})
    for name in expected.pictures(shard, failed):
        if name not in kept or not _is(store, name, kept[name]):
            return False
    digests |= {name: kept[name] for name in expected.pictures(shard, failed)}
    return True


def is_whole(store: RunStore, expected: Expected) -> bool:
    """Return whether a run that is called complete is: of what is there now, with every table and picture whole.

    Raises StoreError, by name of what differs, for one that was made of something else.
    """
    if store.info["status"] != "complete":
        return False
    then, now, digests = store.info.get("identity"), expected.record(), store.info.get("digests")
    if then is None or digests is None:
        _refuse_earlier(store)
    judged = then.get("judges") or dict.fromkeys([next(iter(now["judges"]))])  # earlier versions had one
    if judged.keys() != now["judges"].keys():
        return False
    differing = [
        said
        for label, inputs in judged.items()
        if inputs is not None
        for said in differences(inputs, now["judges"][label])
    ]
    apart: dict[str, Any] = {"generators": {}, "judges": {}}
    differing += differences({**then, **apart}, {**now, **apart})
    for key, inputs in now["generators"].items():
        differing += differences(then["generators"].get(key, {}), inputs)
    if differing:
        _refuse(store, differing, "it was")
    failed: dict[tuple[Any, ...], set[int]] = {}
    for row in store.info.get("failed_prompts", []):
        failed.setdefault((row["generator"], row["seed"]), set()).add(row["prompt_id"])
    for shard in expected.shards:
        shown = expected.config.generators[shard.entry].shown
        if not expected.pictures(shard, failed.get((shown, shard.seed), set())) <= digests.keys():
            return False
    return all(_is(store, name, digest) for name, digest in digests.items())


def _is(store: RunStore, name: str, digest: str) -> bool:
    return store.folder.exists(name) and sha256(store.folder.read(name)) == digest


def check(expected: Expected, finished: Finished, loaded: dict[int, dict[str, Any]]) -> None:
    """Refuse a shard that was not made of what the run was opened with; `loaded` holds what models said before.

    Raises StoreError naming what differs, and RuntimeError for rows or pictures that are not a shard's.
    """
    shard, now = finished.shard, expected.of(finished.shard)
    made = finished.identity
    if made is not None:
        loaded[shard.entry] = before = loaded.get(shard.entry) or made.loaded
        differing = now.unlike(made) + differences(before, made.loaded)
        for judge, judged in finished.judged.items():
            differing += expected.of_verdicts(shard, judge).unlike(judged)
        if differing:
            raise StoreError(
                f"a worker made shard {shard.key} with other than what this run was opened with: "
                f"{', '.join(differing[:3])}; its files are not this machine's, or changed meanwhile."
            )
    failed = failed_prompts(finished.tables["incidents"])
    config = expected.config
    entry = config.generators[shard.entry]
    rows = {
        (p, i)
        for p in range(shard.start, shard.stop)
        if p not in failed
        for i in range(config.pool_of(entry))
    }
    scores = finished.tables["scores"]
    parts = [finished.tables["candidates"]]
    parts += [scores[scores["verifier"] == v.shown] for v in config.verifiers_of(entry)]
    verdicts = finished.tables["verdicts"]
    parts += [verdicts[verdicts["judge"] == judge] for judge in expected.judges]
    given = [list(zip(part["prompt_id"], part["index"], strict=True)) for part in parts]
    if any(len(pairs) != len(rows) or set(pairs) != rows for pairs in given) or len(scores) + len(
        verdicts
    ) != sum(map(len, given[1:])):
        raise RuntimeError(f"shard {shard.key} came with other rows than its prompts and pool have.")
    if finished.images.keys() != expected.pictures(shard, failed):
        raise RuntimeError(f"shard {shard.key} came with other pictures than the gallery's prompts have.")
