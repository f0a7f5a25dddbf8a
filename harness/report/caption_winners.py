"""Captions of a run's winners by an aligned verifier: the data of the paper's Fig. 7."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vhsbench import generators, verifiers
from vhsbench.generators.checks import as_device
from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.inference.route import route_of
from vhsbench.harness.report.captions_csv import COLUMNS, write_captions
from vhsbench.harness.stats.curves import winners
from vhsbench.harness.store.keys import POOL
from vhsbench.harness.store.tables import Run, load_run
from vhsbench.harness.sweep.kept_images import Pictures
from vhsbench.harness.sweep.remade import entry_of
from vhsbench.verifiers.captioning import CaptionError, captions
from vhsbench.verifiers.checkpoint import kind_of
from vhsbench.verifiers.verifier import MllmVerifier

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator


def caption_winners(
    path: Path,
    aligned: Path,
    n: int = 4,
    device: str = "cpu",
    batch: int = 8,
    progress: Callable[[int, int], None] = lambda *_: None,
    verifier: str | None = None,
) -> pd.DataFrame:
    """Caption a run's winners (best of n) whose picture it kept, and write captions.csv into the run for its report.

    `aligned` is the checkpoint of the first training stage of a verifier that scored the run; the winners are that
    verifier's, whose label is `verifier`, by default the only one of its kind. What the model reads is computed again from each candidate's seed. Raises CaptionError, ConfigError
    for a run.json that this version cannot read, or CheckpointError for a folder that is not a checkpoint.
    """
    as_device(device)
    run = load_run(path)
    kind = _kind(aligned)
    config = kept_config(run)
    picks = _picks(run, _label(run, config, kind, verifier), n)
    rows: list[pd.DataFrame] = []
    progress(0, len(picks))
    for (shown, steps), part in picks.groupby(POOL, sort=True):
        entry = entry_of(run, config, str(shown), int(str(steps)))
        host = generators.create(entry.name, device=device, **entry.build_options)
        model = verifiers.create(kind, checkpoint=str(aligned), device=device, generator=entry.name)
        model.check_host(host)
        if not isinstance(model, MllmVerifier):
            raise CaptionError(f"'{kind}' is not an MLLM, so it cannot write captions.")
        for start in range(0, len(part), batch):
            rows.append(_captioned(host, model, part.iloc[start : start + batch]))
            progress(sum(map(len, rows)), len(picks))
    table = pd.concat(rows, ignore_index=True)[COLUMNS]
    write_captions(path, table)
    return table


def _kind(aligned: Path) -> str:
    if not (aligned / "config.json").is_file():
        raise CaptionError(f"{aligned} is not a checkpoint of the alignment stage: it has no config.json.")
    return kind_of(aligned)


def _label(run: Run, config: RunConfig, kind: str, chosen: str | None) -> str:
    """Return the label of the verifier of that kind whose winners are captioned."""
    labels = [label for label, its in config.kinds.items() if its == kind]
    if chosen is None and len(labels) > 1:
        raise CaptionError(
            f"the run {run.path} has {len(labels)} verifiers of kind '{kind}'; name one of {', '.join(labels)} "
            "with --verifier."
        )
    if chosen not in (None, *labels) or not labels:
        known = ", ".join(sorted(run.scores["verifier"].unique())) or "none"
        of_kind = f", a verifier of kind '{kind}'" if chosen else ""
        raise CaptionError(
            f"the run {run.path} has no scores by '{chosen or kind}'{of_kind} (it has {known}), so there are no winners "
            "to caption."
        )
    return chosen or labels[0]


def _picks(run: Run, label: str, n: int) -> pd.DataFrame:
    mine = run.scores[run.scores["verifier"] == label]
    if n > (pool := int(mine["index"].max()) + 1):
        raise CaptionError(f"best of {n} needs {n} candidates per prompt, but the run {run.path} has {pool}.")
    picks = Pictures(run).kept(winners(run.candidates, mine, n))
    if picks.empty:
        raise CaptionError(
            f"the run {run.path} kept no pictures of winners; gallery_prompts says how many to keep."
        )
    return picks.assign(prompt=[run.prompts[i]["prompt"] for i in picks["prompt_id"]])


def _captioned(host: Generator, model: MllmVerifier, rows: pd.DataFrame) -> pd.DataFrame:
    seeds = [candidate_seed(int(r["seed"]), int(r["prompt_id"]), int(r["index"])) for _, r in rows.iterrows()]
    route = route_of(model)
    state = route.start(host, host.encode(rows["prompt"].tolist()), seeds)
    found = captions(model, route.reads(state))
    return rows.assign(caption=found, checkpoint=model.checkpoint_sha256)
