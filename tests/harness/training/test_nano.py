"""`train nano` whole, at a size of seconds: from a finished generator to verifiers, side by side, resumed, and its arms."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vhsbench import verifiers
from vhsbench.generators.nano import WEIGHTS
from vhsbench.generators.training import Progress
from vhsbench.harness.training.nano import _take_over, do, train
from vhsbench.harness.training.nano_recipe import LOG, PLANS, VERIFIERS, NanoRecipe, Site, identity
from vhsbench.verifiers.nano import WEIGHTS as BUNDLED_VERIFIERS
from vhsbench.verifiers.training.engine import TrainingError

TINY = NanoRecipe(
    clip_steps=3, llm_steps=3, llm_batch=8, candidates=96, validation_candidates=48, align_steps=3,
    finetune_steps=4, batch=8,
)  # fmt: skip


def prepare(out: Path, recipe: NanoRecipe = TINY) -> Path:
    """Put the bundled generator where the first two stages would leave theirs."""
    shutil.copytree(WEIGHTS, out / "weights" / "generator")
    (out / "autoencoder").mkdir()
    for stage in ("autoencoder", "generator"):
        (out / f"{stage}.json").write_text(json.dumps({"identity": identity(stage, recipe)}))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, what was said) of a training in one process."""
    out, said = prepare(tmp_path_factory.mktemp("nano") / "whole"), []
    train(out, TINY, say=said.append, threads=1)
    return out, said


def test_every_stage_leaves_what_is_loaded_by_path(whole):
    out, said = whole
    weights = out / "weights"
    assert re.fullmatch(r"stage clip: done in 0:\d\d:\d\d; .*retrieval_of_128_percent [\d.]+",
                        next(s for s in said if s.startswith("stage clip: done in")))  # fmt: skip
    for name in VERIFIERS:
        made = verifiers.create(name.removesuffix("-early"), checkpoint=weights / name)
        assert made.block == {"vhs": 6, "vhs-early": 3}.get(name)
        card = (weights / name / "README.md").read_text()
        assert "validation_loss" in card
        assert str(out) not in card
        assert json.loads((out / f"{name}.json").read_text())["aligned_caption_loss"] > 0
    # the CLIP that this training made, not the bundled one
    clip = "clip/open_clip_model.safetensors"
    assert (weights / "mllm-clip" / clip).read_bytes() == (weights / clip).read_bytes()
    assert (weights / clip).read_bytes() != (BUNDLED_VERIFIERS / clip).read_bytes()


def test_the_log_tells_stages_and_progress(whole):
    text = (whole[0] / LOG).read_text()
    for stage in ("llm", "candidates", "vhs"):
        assert re.search(rf"^\d{{4}}-\d\d-\d\d [\d:]+ stage {stage}: done in", text, re.MULTILINE)
    assert re.search(r"llm: 3 of 3 in \d+ s, loss [\d.]+", text)


def test_done_stages_are_not_done_again_and_another_recipe_is_refused(whole):
    out = whole[0]
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.safetensors")}
    said: list[str] = []
    train(out, TINY, say=said.append, threads=1)
    assert said == [f"stage {stage}: done before" for stage in PLANS]
    assert before == {f: f.stat().st_mtime_ns for f in out.rglob("*.safetensors")}
    with pytest.raises(TrainingError, match="another recipe"):
        train(out, NanoRecipe())


def test_side_by_side_the_result_is_the_same(whole, tmp_path):
    out = prepare(tmp_path / "two")
    train(out, TINY, threads=1, processes=2, kinds=("vhs", "vhs-early"))
    assert not (out / "weights" / "mllm-ae").exists()
    for name in ("llm/model.safetensors", "vhs/model.safetensors", "vhs-early/model.safetensors"):
        assert (out / "weights" / name).read_bytes() == (whole[0] / "weights" / name).read_bytes(), name


def test_a_mistake_in_a_process_ends_the_training(tmp_path):
    out = prepare(tmp_path / "bad")
    (out / "weights" / "generator" / "model_index.json").write_text("{}")
    with pytest.raises(Exception, match=r"model_index|generator|pipeline"):
        train(out, TINY, threads=1, processes=2, kinds=("vhs",))


def test_an_arm_takes_over_the_stages_that_it_shares(whole, tmp_path):
    said: list[str] = []
    recipe = replace(TINY, pretrained=False, align="all")
    weights = train(tmp_path / "arm", recipe, say=said.append, threads=1, base=whole[0], kinds=("mllm-ae",))
    done = [s.split()[1].rstrip(":") for s in said if s.endswith("done before")]
    assert done == ["autoencoder", "llm", "clip", "generator", "candidates"]
    assert (weights / "generator").is_symlink()
    assert "nano-new" in (weights / "mllm-ae" / "README.md").read_text()
    assert not (weights / "mllm-ae").is_symlink()


def test_what_a_stage_depends_on():
    base = NanoRecipe()
    changed = {
        name: {s for s in PLANS if identity(s, base) != identity(s, replace(base, **{name: value}))}
        for name, value in {
            "channels": 2,
            "early_block": 4,
            "finetune_rate": 1e-4,
            "candidates": 16_000,
        }.items()
    }
    assert changed["finetune_rate"] == set(VERIFIERS)
    assert changed["early_block"] == {"early", "vhs-early"}
    assert changed["candidates"] == {"candidates", "early", *VERIFIERS}
    assert changed["channels"] == set(PLANS) - {"llm", "clip"}
    assert {s for s in PLANS if identity(s, base) == identity(s, replace(base, seed=1))} == set()


def test_the_generator_ends_by_the_profile_and_the_nearest_look_is_kept(tmp_path, monkeypatch):
    """A real training of some steps, whose looks are pretended."""
    import numpy as np

    from vhsbench.generators.nano.training import train_autoencoder
    from vhsbench.harness.common.tasks import TAGS
    from vhsbench.harness.training import nano_stages
    from vhsbench.harness.training.nano_profile import PROFILE, Teaching

    recipe = replace(TINY, generator_steps=8, generator_batch=6, generator_least_steps=2, generator_check_every=2,
                     generator_check_prompts=6)  # fmt: skip
    train_autoencoder(2, 0, tmp_path, lambda _: None, batch=2)[0].save_pretrained(tmp_path / "autoencoder")
    gaps, seen = iter([-30.0, -9.0, 2.0, 2.0]), []
    monkeypatch.setattr(nano_stages, "verdicts", lambda *_, **__: np.ones((6, 16), dtype=bool))
    monkeypatch.setattr(
        nano_stages, "profile_of", lambda *_: (seen.append(next(gaps)), ({t: PROFILE[t] + seen[-1] for t in TAGS}, 96.0))[1]
    )  # fmt: skip
    said: list[str] = []
    do(Site(tmp_path, recipe, "cpu", 1, lambda _: None, said.append), "generator")
    looks = Teaching(tmp_path / "looks.jsonl").looks
    assert [look.step for look in looks] == [2, 4, 6]  # the third was near enough
    assert json.loads((tmp_path / "generator.json").read_text())["step"] == 6
    assert "SANA-Sprint" in (tmp_path / "weights" / "generator" / "README.md").read_text()
    assert any("furthest 30.0" in s for s in said)


def test_progress_is_logged_from_time_to_time_and_at_the_end(tmp_path):
    site = Site(tmp_path, TINY, "cpu", 1, lambda _: None, lambda _: None)
    for step in range(1, 6):
        site.report(Progress("x", step, 5, float("nan"), 1.0))
    assert [line.split(" ", 2)[2] for line in (tmp_path / LOG).read_text().splitlines()] == [
        "x: 1 of 5 in 1 s",
        "x: 5 of 5 in 1 s",
    ]


def test_what_a_base_lacks_is_not_taken_over(whole, tmp_path):
    """Of a base that was packed, records and weights are left; looks and losses nobody needs."""
    base = tmp_path / "base"
    shutil.copytree(whole[0], base, ignore=shutil.ignore_patterns("data", "vhs"))
    shutil.copytree(whole[0] / "weights/vhs", base / "weights/vhs")
    for stage in PLANS:
        _take_over(stage, base, tmp_path / "arm", TINY)
    taken = {file.stem for file in (tmp_path / "arm").glob("*.json")}
    assert taken == set(PLANS) - {"candidates", "early"}
    assert (tmp_path / "arm/weights/vhs").resolve() == (base / "weights/vhs").resolve()
    assert not (tmp_path / "arm/vhs").is_symlink()
