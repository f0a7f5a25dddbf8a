"""The tables of nano's study, from frames whose answers are known, its arms, and bundled weights as a training."""

from __future__ import annotations

import json
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from vhsbench.harness.common.shown import markdown_table
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.training.nano import train
from vhsbench.harness.training.nano_recipe import VERIFIERS, NanoRecipe
from vhsbench.harness.training.nano_stages import Stages

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from nano_study import (
    ARMS,
    EQUAL_TIME,
    PACKAGES,
    aucs,
    best_of_n,
    bundle,
    bundled_folders,
    equal_time,
    pack,
    profile,
    scored,
    unbundle,
    write_tables,
)

sys.path.pop(0)
POOL = 16


def frame(seed=0, prompts=5):
    """Two in four candidates are right; VHS knows which, CLIP knows nothing, AE has it the wrong way round."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(6 * prompts):
        right = rng.permutation(np.arange(POOL) % 2 == 0)
        rows += [
            {"prompt_id": p, "tag": TAGS[p // prompts], "index": i, "correct": bool(right[i]),
             "vhs": float(right[i]) + i * 1e-6, "mllm-clip": 0.0, "mllm-ae": -float(right[i])}
            for i in range(POOL)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_profile_and_oracle():
    rows = {r["task"]: r["percent"] for r in profile("x", frame())}
    assert rows["single_object"] == rows["overall"] == 50
    assert rows["oracle_16"] == 100
    assert rows["prompts_never_right"] == 0


def test_auc_pooled_and_within_prompts():
    found = {(r["verifier"], r["task"]): r for r in aucs("x", frame())}
    assert found["vhs", "all"]["pooled"] == found["vhs", "counting"]["within_prompts"] == 1
    assert found["mllm-ae", "all"]["within_prompts"] == 0
    assert found["mllm-clip", "all"]["within_prompts"] == 0.5


def test_a_prompts_share_alone_scores_pooled_but_not_within():
    made = frame()
    made.loc[made["prompt_id"] < 15, "correct"] = (made["index"] < 12)[made["prompt_id"] < 15]
    alone = next(r for r in aucs("x", made) if r["verifier"] == "prompt_alone" and r["task"] == "all")
    assert alone["pooled"] > 0.55
    assert alone["within_prompts"] == 0.5


def test_best_of_n_is_exact():
    found = {(r["verifier"], r["n"]): r["percent"] for r in best_of_n("x", frame())}
    assert found["vhs", 1] == pytest.approx(50)
    assert found["mllm-clip", 8] == pytest.approx(50)
    assert found["vhs", 2] == pytest.approx(100 * (1 - 8 * 7 / (16 * 15)))
    assert found["mllm-ae", 16] == pytest.approx(0)


def test_equal_time_of_one_and_of_several_trainings():
    rows = equal_time("x", [frame()])
    first = rows[0]
    assert (first["a"], first["n_a"], first["b"], first["n_b"]) == ("vhs", 4, "mllm-clip", 2)
    assert first["difference"] == pytest.approx(first["a_percent"] - 50)
    assert 0 < first["low"] <= first["difference"] <= first["high"]
    assert len(rows) == 9
    both = equal_time("all", [frame(0), frame(1)])[0]
    assert both["difference"] == pytest.approx(first["difference"])
    assert EQUAL_TIME["vhs"] == (4, 9, 15)


def test_tables_are_written(tmp_path):
    write_tables({"a": frame(0), "b": frame(1)}, tmp_path, together=True)
    assert {f.name for f in tmp_path.iterdir()} == {
        "profile.csv", "auc.csv", "best_of_n.csv", "equal_time.csv",
    }  # fmt: skip
    assert set(pd.read_csv(tmp_path / "equal_time.csv")["training"]) == {"a", "b", "all"}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_another_recipe_of_known_verifiers(arm):
    changed, kinds = ARMS[arm]
    assert replace(NanoRecipe(), **changed) != NanoRecipe()
    assert set(kinds) <= set(VERIFIERS)


def test_packing_leaves_the_data_behind(tmp_path):
    training = tmp_path / "nano-0"
    for name in (
        "weights/vhs/model.safetensors",
        "data/hidden/x.safetensors",
        "vhs/statistics.csv",
        "train.log",
    ):
        (training / name).parent.mkdir(parents=True, exist_ok=True)
        (training / name).write_text("x")
    pack(training, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert sorted(tar.getnames()) == [
            "nano-0/train.log", "nano-0/vhs/statistics.csv", "nano-0/weights/vhs/model.safetensors",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def unbundled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbundled") / "nano-0"
    unbundle(folder)
    return folder


def test_unbundled_verifiers_score_as_the_bundled_ones(unbundled, tmp_path):
    bundled = tmp_path / "bundled" / "weights"
    bundled.mkdir(parents=True)
    for name, folder in bundled_folders(PACKAGES).items():
        (bundled / name).symlink_to(folder)
    found, expected = (scored(f, "cpu", 1, pool=2, per_task=1) for f in (unbundled, bundled.parent))
    assert set(VERIFIERS) < set(found)
    card = json.loads((unbundled / "weights/mllm-clip/verifier.json").read_text(encoding="utf-8"))
    assert card["vision_tower"] == "clip"  # its own, not the package's
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_bundling_again_gives_the_same_files(unbundled, tmp_path):
    bundle(unbundled, tmp_path)
    for old, new in zip(bundled_folders(PACKAGES).values(), bundled_folders(tmp_path).values(), strict=True):
        assert contents(new) == contents(old)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_an_unbundled_training_does_only_what_the_weights_lack(unbundled, tmp_path, monkeypatch):
    table = markdown_table(["recipe", ""], asdict(NanoRecipe()).items())
    assert table in (unbundled / "weights/generator/README.md").read_text(encoding="utf-8")
    done: list[str] = []
    monkeypatch.setattr(Stages, "run", lambda _, name: done.append(name) or {})
    arm = tmp_path / "arm"
    train(arm, replace(NanoRecipe(), finetune_rate=1e-4), threads=1, base=unbundled, kinds=("vhs",))
    assert done == ["autoencoder", "candidates", "vhs"]
    links = {str(f.relative_to(arm)): f.resolve() for f in arm.rglob("*") if f.is_symlink()}
    taken = ("weights/llm", "weights/clip", "weights/generator")  # and no link to what the weights lack
    assert links == {name: (unbundled / name).resolve() for name in taken}
    done.clear()
    train(unbundled, NanoRecipe(), threads=1)
    assert done == ["autoencoder", "candidates", "early"]
    assert json.loads((unbundled / "recipe.json").read_text(encoding="utf-8")) == asdict(NanoRecipe())


def test_unbundling_into_a_folder_with_something_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(typer.BadParameter, match="not an empty folder"):
        unbundle(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]
