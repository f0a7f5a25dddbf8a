"""Peak memory of strategies: of all their models together, measured with a run's costs, and in its tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.cost.process import Failure
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.report.derived import derive
from vhsbench.harness.store.tables import RunStore, StoreError, load_run
from vhsbench.harness.strategies.cascade import Cascade
from vhsbench.harness.strategies.memory import Models, largest, peaks
from vhsbench.harness.strategies.refine import Refine
from vhsbench.harness.strategies.registry import parse
from vhsbench.harness.sweep import memory
from vhsbench.harness.sweep.progress import Journal
from vhsbench.harness.sweep.survey import Expected

PROMPTS = [
    {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}
]
CONFIG = {
    "generators": [{"name": "nano"}, {"name": "nano", "options": {"steps": 2}, "verifiers": []}],
    "verifiers": [{"name": "vhs"}, {"name": "mllm-ae"}, {"name": "mllm-clip"}],
    "pool": 6,
    "strategies": ["cascade:vhs>mllm-ae", "stop:vhs", "ensemble:vhs+mllm-ae,n=3", "refine:vhs",
                   "cascade:vhs>mllm-clip,n=7"],
}  # fmt: skip


def test_models_are_loaded_together_in_a_process_of_their_own():
    judges = {"vhs": ("vhs", {"generator": "nano"}), "second": ("mllm-ae", {"generator": "nano"})}
    strategies = {"one": Cascade(("vhs", "second"), 2, 2), "other": Refine(("vhs",), 2, 2)}
    found = peaks(Models("nano", {}, judges, strategies, "a photo of a star", TimingConfig(), 1))
    assert list(found) == ["one", "other"]
    assert 0.1 < found["one"]["peak_rss_gb"] <= found["other"]["peak_rss_gb"]  # of the process so far


@pytest.mark.parametrize(
    ("text", "again", "found"),
    [
        ("cascade:vhs>mllm-ae", (), Cascade(("vhs", "mllm-ae"), 6, 6)),
        ("cascade:vhs>mllm-ae,n=4,k=2", (), Cascade(("vhs", "mllm-ae"), 4, 2)),
        ("cascade:vhs>mllm-ae,n=7", (), None),
        ("refine:vhs", (2,), Refine(("vhs",), 6, 2)),
        ("refine:vhs", (), None),
    ],
)
def test_the_largest_setting(text, again, found):
    assert largest(parse(text), 6, again) == found


def test_a_run_measures_what_no_pipeline_has(tmp_path, monkeypatch):
    asked = []

    def fake(models, place):
        asked.append((models.generator_options.get("steps"), dict(models.verifiers), dict(models.strategies)))
        if len(asked) == 2:
            raise Failure("oom", "no memory left")
        return {text: {"peak_vram_gb": 2.0, "peak_rss_gb": None} for text in models.strategies}

    monkeypatch.setattr(memory, "peaks", fake)
    config = RunConfig.model_validate(CONFIG)
    with RunStore(tmp_path / "run", config.model_dump(mode="json")) as store:
        memory.measure_memory(Expected(config, PROMPTS), store, Journal(store.folder, lambda *_: None))
        rows = store.info["strategy_memory"]
    assert [(steps, sorted(verifiers), list(strategies)) for steps, verifiers, strategies in asked] == [
        (None, ["mllm-ae", "vhs"], ["cascade:vhs>mllm-ae", "ensemble:vhs+mllm-ae,n=3"]),
        (None, ["vhs"], ["refine:vhs"]),  # stop:vhs is its pipeline, and seven candidates are no pool of six
    ]
    assert rows == [
        {"generator": "nano", "steps": 1, "strategy": text, "peak_vram_gb": 2.0, "peak_rss_gb": None}
        for text in ("cascade:vhs>mllm-ae", "ensemble:vhs+mllm-ae,n=3")
    ]


def test_tables_have_it_where_it_is_known(tmp_path, change_json):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parents[1] / "report"), *sys.path])
        from conftest import write_run
    texts = ["cascade:vhs>mllm-clip", "ensemble:vhs+mllm-ae", "stop:mllm-clip"]
    folder = write_run(tmp_path / "run", strategies=texts, budgets=["300ms"], vram=True)
    row = {"generator": "nano", "steps": 1, "strategy": texts[0], "peak_vram_gb": 3.5, "peak_rss_gb": None}
    change_json(folder / "run.json", strategy_memory=[row, row | {"steps": 2, "peak_vram_gb": 9}])
    table, _ = derive(load_run(folder)).strategies
    known = dict(table[["strategy", "peak_gb"]].itertuples(index=False, name=None))
    assert np.isnan(known.pop("ensemble:vhs+mllm-ae"))  # nobody measured it
    assert known == {
        texts[0]: 3.5, "stop:mllm-clip": 2.0, "best-of-n:vhs": 1.5, "best-of-n:mllm-clip": 2.0, "best-of-n:mllm-ae": 1.6,
    }  # fmt: skip
    change_json(folder / "run.json", strategy_memory=7)
    with pytest.raises(StoreError, match=r"run\.json is damaged: strategy_memory is not a list of rows"):
        derive(load_run(folder)).strategies  # noqa: B018
