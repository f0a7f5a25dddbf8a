"""What a run's pipelines cost: all measured side by side, with the run or again later."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vhsbench.generators.protocol import blocks_of, read_block
from vhsbench.harness.config.models import generator_options, verifier_options
from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.cost.environment import environment
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.reliability import unreliable
from vhsbench.harness.cost.rounds import cell_name, measure_in_turns
from vhsbench.harness.store.tables import RunStore, environments, load_run
from vhsbench.harness.sweep.memory import measure_memory
from vhsbench.harness.sweep.progress import Journal
from vhsbench.harness.sweep.run_log import EVENTS, run_log
from vhsbench.harness.sweep.survey import Expected, Pipeline

_CHECKED = 4  # prompts that a variant is compared on


def measure_again(
    out: Path | str, progress: Callable[[str, int, int], None] = lambda *_: None, command: str = ""
) -> None:
    """Measure the costs of a finished run in `out` once more, in place of those it has; its candidates stay.

    command: the command line that asks for it, for run.json. Raises StoreError for a run that is not finished, and what building its models does.
    """
    run = load_run(out)
    config = kept_config(run)
    if config.threads:
        torch.set_num_threads(config.threads)
    with RunStore(out, run.info["config"], difference=lambda *_: "") as store:
        expected = Expected(config, run.prompts)
        with run_log(store.folder, "costs are measured again"):
            _again(expected, store, Journal(store.folder, progress), command)


def _again(expected: Expected, store: RunStore, journal: Journal, command: str) -> None:
    store.update(environments=[*environments(store.info), opened_here(expected.config, command)])
    keys = measure_costs(expected, store, (), journal)
    store.consolidate({"costs": keys})
    costs = {"costs": expected.record()["costs"]}
    store.update(
        digests=store.info.get("digests", {}) | store.digests,
        **({"identity": store.info["identity"] | costs} if "identity" in store.info else {}),
    )
    journal.close("complete")


def opened_here(config: RunConfig, command: str = "") -> dict[str, Any]:
    """Describe the environment that a run is opened in now, and by which command line, for run.json."""
    threads = config.threads or torch.get_num_threads()
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    return environment(threads) | {"opened": opened, "command": command or None}


def measure_costs(
    expected: Expected, store: RunStore, measured: Collection[str], journal: Journal
) -> list[str]:
    """Measure all pipelines side by side, after all generation: alone on the machine.

    They are measured together or not at all, since times of different hours cannot be compared.
    measured: keys of pipelines that need not be. Returns the keys of all pipelines' shards.
    """
    keys = [pipeline.key for pipeline in expected.pipelines]
    if set(keys) <= set(measured):
        return keys
    torch.cuda.empty_cache()  # what this process keeps would be missing there
    found = measure_in_turns(
        [_cell(expected, pipeline, store.info.get("blocks", {})) for pipeline in expected.pipelines],
        store.measuring,
        lambda done, of: journal.update("costs", done, of),
    )
    expected.check_unchanged()
    cells = dict[str, dict[str, Any]]()
    for pipeline, each in zip(expected.pipelines, found, strict=True):
        shown, verifier = pipeline.entry.shown, pipeline.verifier.shown if pipeline.verifier else ""
        name = cell_name(shown, each.rows[0]["steps"], verifier, pipeline.variant)
        cells[name] = each.about | {"environment": len(store.info["environments"]) - 1}
        rows = pd.DataFrame(each.rows).assign(generator=shown)
        store.write_shard("costs", pipeline.key, rows, pipeline.identity.about())
        EVENTS.info("costs of %s: %d rows", name, len(rows))
    reasons = unreliable(store.read_shards("costs", keys), store.info.get("needs", {}))
    for reason in reasons:
        EVENTS.warning("the times are unreliable: %s", reason)
    store.update(cells=cells, timing="unreliable" if reasons else "reliable", timing_reasons=reasons)
    measure_memory(expected, store, journal)
    return keys


def _cell(expected: Expected, pipeline: Pipeline, blocks: Mapping[str, Any]) -> Cell:
    """Return what is to be measured. blocks: what each verifier that reads hidden states reads, as run.json has it."""
    config, entry, verifier = expected.config, pipeline.entry, pipeline.verifier
    depth = {label: read_block(block) for label, block in blocks.items()}
    mine = depth.get(verifier.shown) if verifier else None
    beside = [v.shown for v in config.verifiers_of(entry)]
    earlier = {
        label: block
        for label, block in depth.items()
        if mine is not None
        and block is not None
        and label in beside
        and blocks_of(block)[-1] < blocks_of(mine)[0]
    }
    return Cell(
        entry.name,
        generator_options(entry, config.device),
        verifier.name if verifier else None,
        verifier_options(verifier, config.device, entry.name) if verifier else {},
        expected.prompts[0]["prompt"],
        config.timing,
        config.timing.threads or config.threads,
        pipeline.variant,
        shares=verifier is not None,
        label=verifier.shown if verifier else "",
        after=earlier,
        metadata=expected.prompts[0],
        checked=_further(expected.prompts) if pipeline.variant else (),
    )


def _further(prompts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return prompts beside the first, spread over all, on which a variant is compared with the plain pipeline."""
    few = min(_CHECKED, len(prompts))
    return [prompts[i * len(prompts) // few] for i in range(1, few)]
