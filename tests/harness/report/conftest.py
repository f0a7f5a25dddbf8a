"""Finished runs made without a model: random verdicts, scores that follow them, and costs like nano's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.report.build import build
from vhsbench.harness.store.tables import SCHEMAS, RunStore, load_run
from vhsbench.harness.sweep.kept_images import gallery_prompts, image_file

NEEDS = {"vhs": "hidden", "mllm-clip": "images", "mllm-ae": "latents"}
STAGES_MS = {
    "hidden": {"encode": 8, "noise": 0.5, "head": 10, "tail": 14, "decode": 30, "score": 9},
    "latents": {"encode": 8, "noise": 0.5, "denoise": 22, "decode": 30, "score": 9},
    "images": {"encode": 8, "noise": 0.5, "denoise": 22, "decode": 30, "score": 12},
    None: {"encode": 8, "noise": 0.5, "denoise": 22, "decode": 30},
}
PER_CANDIDATE_MS = {"hidden": 19.5, "latents": 31.5, "images": 64.5, None: 60.5}
SHARPNESS = {"vhs": 1.2, "mllm-clip": 0.9, "mllm-ae": 0.3}


def write_run(
    folder: Path, *, marked: str = "", vram: bool = False, device: str = "test", prompts: int = 24,
    correct: float = 0.6, tied: bool = False, silent: tuple[str, ...] = (), tasks: Sequence[str] = TAGS, **changes: Any,
) -> Path:  # fmt: skip
    """A finished run in `folder`. `changes` are keys of its configuration; `marked` goes into a prompt;
    `correct` is the share of right candidates, and `tied` gives all the same score. Verifiers that are `silent` give no
    P(yes), but scores from 20 to 30."""
    config = RunConfig.model_validate(
        {"name": "made", "generators": [{"name": "nano"}], "pool": 8, "bootstrap": 50, "seeds": [0],
         "verifiers": [{"name": v} for v in NEEDS], "gallery_prompts": 6} | changes
    )  # fmt: skip
    texts = [
        {"tag": tag, "prompt": f"a photo of {tag.replace('_', ' ')} number {i}{marked if i == 0 else ''}"}
        for tag in tasks
        for i in range(4)
    ][:prompts]
    with RunStore(folder, config.model_dump(mode="json")) as store:
        store.write_prompts(texts)
        for number, entry in enumerate(config.generators):
            rng = np.random.default_rng([number, *config.seeds])
            _write_entry(store, config, entry, texts, rng, vram, device, correct, tied, silent)
        store.consolidate()
        store.update(
            status="complete", needs=NEEDS | {v: NEEDS[kind] for v, kind in config.kinds.items()}, environments=[{"cpu": device, "python": "3"}],
            checkpoints={v: f"sha of {v}" for v in config.kinds},
            digests=store.digests | {str(f.relative_to(folder)): sha(f) for f in folder.rglob("images/**/*.png")},
        )  # fmt: skip
    return folder


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_entry(store, config, entry, prompts, rng, vram, device, share, tied, silent) -> None:
    steps = int(entry.options.get("steps", 1))
    pool, mine = config.pool_of(entry), {v.shown: v.name for v in config.verifiers_of(entry)}
    index = pd.MultiIndex.from_product(
        [range(len(prompts)), config.seeds, range(pool)], names=["prompt_id", "seed", "index"]
    )
    base = index.to_frame(index=False).assign(generator=entry.shown, steps=steps)
    correct = rng.random(len(base)) < share
    tags = [prompts[p]["tag"] for p in base["prompt_id"]]
    reasons = np.where(correct, "", "it is not")
    store.write_shard(
        "candidates",
        entry.key,
        base.assign(tag=tags, correct=correct, reason=reasons),
    )
    verdicts = base.assign(
        judge="geneval", value=correct.astype(float), correct=correct, reason=reasons, picture=""
    )
    store.write_shard("verdicts", f"{entry.key}_judge=geneval", verdicts)
    scores = []
    for verifier, kind in mine.items():
        p_yes = 1 / (1 + np.exp(-(SHARPNESS[kind] * (2 * correct - 1) + rng.normal(size=len(base)))))
        p_yes = np.full(len(base), 0.75) if tied else p_yes
        score = np.where(p_yes > 0.5, p_yes, p_yes - 1)
        if verifier in silent:
            p_yes, score = np.full(len(base), np.nan), 20 + 10 * p_yes
        scores.append(base.assign(verifier=verifier, p_yes=p_yes, p_no=1 - p_yes, score=score))
    if scores:
        store.write_shard("scores", entry.key, pd.concat(scores))
    made = [cost_rows(entry.shown, steps, v, NEEDS.get(mine.get(v)), vram, device) for v in (None, *mine)]
    rows = [row for part in made for row in part]
    store.write_shard("costs", entry.key, pd.DataFrame([_unfilled("costs") | row for row in rows]))
    for prompt_id in gallery_prompts(prompts, config.gallery_prompts):
        for i in range(pool):
            file = image_file(store.path, entry.key, prompt_id, i)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)


def _unfilled(table: str) -> dict[str, Any]:
    """What a row has where a made run has nothing to say."""
    fields = SCHEMAS[table]
    texts = {f.name: "" for f in fields if pa.types.is_string(f.type) and not f.nullable}
    return {f.name: None for f in fields} | texts | ({"status": "ok"} if "status" in fields.names else {})


def cost_rows(
    generator: str, steps: int, verifier: str | None, needs: str | None, vram: bool, device: str
) -> list[dict[str, Any]]:
    stages = STAGES_MS[needs]
    fixed = sum(stages.values()) - PER_CANDIDATE_MS[needs]
    cells = [(stage, 1, ms) for stage, ms in stages.items()]
    cells += [
        ("end_to_end", n, fixed + n * PER_CANDIDATE_MS[needs]) for n in ((1, 2, 4) if verifier else (1,))
    ]
    gb = {None: 1.0, "hidden": 1.5, "latents": 1.6, "images": 2.0}[needs]
    return [
        {"generator": generator, "steps": steps, "verifier": verifier or "", "stage": stage, "n": n, "batch": 1,
         "repeat": repeat, "wall_ms": float(ms * steps), "tflop": ms / 1e4, "peak_vram_gb": gb if vram else None,
         "peak_rss_gb": None if vram else gb, "device": device}
        for stage, n, ms in cells
        for repeat in range(3)
    ]  # fmt: skip


def page_data(file: Path) -> dict[str, Any]:
    """What the script of a page reads."""
    page = file.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="session")
def read_data():
    return page_data


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """One such run, of one generator and three verifiers; do not write into it."""
    return write_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def loaded(made):
    return load_run(made)


MARKED = "</script><script>document.title='broken'</script>\"'&<b>"


@pytest.fixture(scope="session")
def marked() -> str:
    """A text that breaks out of a page that does not escape it."""
    return MARKED


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The report of a run of two pools; its first prompt holds MARKED. Made once: drawing takes its time."""
    folder = tmp_path_factory.mktemp("built")
    entries = [{"name": "nano"}, {"name": "nano", "label": "single", "pool": 1, "verifiers": []}]
    run = write_run(folder / "run", generators=entries, marked=MARKED)
    build(run, out=folder / "out", with_published=True)
    return folder / "out"
