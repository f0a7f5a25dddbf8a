"""The pictures of any candidates of a finished run: those that it kept, and others made again from their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from vhsbench import generators
from vhsbench.generators.prompts import PromptCache
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.config.entries import GeneratorConfig
from vhsbench.harness.config.models import generator_options
from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.config.yaml_files import ConfigError
from vhsbench.harness.inference.candidates import Rows, encoded, generate
from vhsbench.harness.store.keys import IN_POOL, POOL
from vhsbench.harness.store.tables import Run
from vhsbench.harness.sweep.identity import RESULTS, as_json, device_kind, differences
from vhsbench.harness.sweep.kept_images import Pictures

if TYPE_CHECKING:
    from PIL import Image


# of an identity: by another device or variant the picture differs too little to see
_SAME_TO_THE_EYE = ("devices", "dtype", "variant")


class RemadeError(VhsbenchError):
    """Pictures that cannot be made again; the message is one sentence for a user."""


class AllPictures:
    """A run's pictures: the kept ones, and others made again on `device`, by default the run's."""

    def __init__(self, run: Run, device: str = "") -> None:
        self._run, self._device = run, device
        self._kept = Pictures(run)
        self._makers: dict[tuple[str, int], _Maker] = {}

    def of(self, rows: pd.DataFrame) -> list[Image.Image]:
        """Return the picture of each candidate (a row with its columns).

        Raises RemadeError where one was not kept and its generator is no longer what it was.
        """
        rows = rows.reset_index(drop=True)
        found = {
            place: image
            for place, row in enumerate(rows.to_dict("records"))
            if self._kept.file(row) is not None and (image := self._kept.image(row)) is not None
        }
        for (shown, steps), part in rows.drop(index=list(found)).groupby(POOL, sort=True):
            maker = self._maker(str(shown), int(str(steps)))
            size = maker.config.batch_size
            for batch in (part.iloc[start : start + size] for start in range(0, len(part), size)):
                keys = list(batch[IN_POOL].astype(int).itertuples(index=False, name=None))
                found |= dict(zip(map(int, batch.index), maker.make(keys), strict=True))
        return [found[place] for place in range(len(rows))]

    def _maker(self, shown: str, steps: int) -> _Maker:
        if (shown, steps) not in self._makers:
            self._makers[shown, steps] = _Maker(self._run, shown, steps, self._device)
        return self._makers[shown, steps]


class _Maker:
    """The generator of one of a run's pools, built as it was for the run."""

    def __init__(self, run: Run, shown: str, steps: int, device: str) -> None:
        self.run, self.config = run, kept_config(run)
        entry = entry_of(run, self.config, shown, steps)
        device = device or self.config.device
        _check_same(run, entry, device)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        self._generator = generators.create(entry.name, **generator_options(entry, device))
        self._encode = PromptCache(self._generator).encode
        self._shown = shown

    def make(self, keys: Sequence[tuple[int, int, int]]) -> Sequence[Image.Image]:
        cond = encoded(self._encode, [str(self.run.prompts[prompt_id]["prompt"]) for prompt_id, _, _ in keys])
        return generate(self._generator, cond, Rows(self._shown, cond.prompts, keys), ()).images


def entry_of(run: Run, config: RunConfig, shown: str, steps: int) -> GeneratorConfig:
    """Find the configuration's entry of a pool; among several numbers of steps, the one that names it.

    Raises ConfigError if the configuration lacks it.
    """
    entries = [e for e in config.generators if e.shown == shown]
    if not entries:
        raise ConfigError(
            f"{run.path}/run.json, key 'config.generators': lacks '{shown}', which is in the run's tables."
        )
    return next((e for e in entries if e.options.get("steps") == steps), entries[0])


def _check_same(run: Run, entry: GeneratorConfig, device: str) -> None:
    """Refuse a generator that would make other pictures than the run's; of an earlier version's run, it is not known."""
    made = run.info.get("identity", {}).get("generators", {}).get(entry.key)
    if not made:
        return
    options = generator_options(entry, device_kind(device))
    here = {"key": entry.key, "shown": entry.shown, **generators.REGISTRY.identity(entry.name, **options)}
    then, now = (
        {"results": results, "generator": {k: v for k, v in parts.items() if k not in _SAME_TO_THE_EYE}}
        for results, parts in ((made.get("results"), made.get("generator", {})), (RESULTS, as_json(here)))
    )
    if changed := differences(then, now):
        raise RemadeError(
            f"the pictures of {run.path} cannot be made again, as {', '.join(changed[:3])} changed since; "
            "`vhsbench run` with it as --out makes the run anew."
        )
