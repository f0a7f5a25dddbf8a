"""`vhsbench train verifier` on nano: from nothing to checkpoints that a run reads by path."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.run import parse
from vhsbench.harness.training.ablations import markdown
from vhsbench.harness.training.config import load_train_config
from vhsbench.harness.training.verifier import LaunchError, train
from vhsbench.verifiers.checkpoint import read_card
from vhsbench.verifiers.training.shards import read_data_card

TINY = {
    "data.labels": {"prompts": "nano", "limit": 64, "variants": 1, "validation_share": 0.4, "captions": True},
    "data.clip_score": None,
    "align.steps": 2, "align.batch": 8, "finetune.steps": 4, "finetune.batch": 8, "finetune.validate_every": 2,
    "verifier.llm": {"name": "nano-new", "sizes": {"num_hidden_layers": 1}}, "engine.precision": "fp32", "engine.threads": 1,
    "compare": {"prompts": {"limit": 4}, "pool": 4},
}  # fmt: skip
SETTINGS = [part for key, value in TINY.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A base of block 6, and ablations of the mean of several blocks and of a connector."""
    out = tmp_path_factory.mktemp("swept") / "out"
    chosen = ["--ablation", "mean-3-5-7", "--ablation", "linear-connector"]
    done = CliRunner().invoke(
        app,
        ["train", "verifier", "train-nano-vhs", "--out", str(out), *SETTINGS, *chosen],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return out, done.output


def test_the_ablations_are_trained_and_compared(swept):
    out, printed = swept
    table = pd.read_csv(out / "comparison.csv", keep_default_na=False)
    assert table["training"].tolist() == ["base", "mean-3-5-7", "linear-connector"]
    assert table["changes"].tolist() == ["", "verifier.block=[3, 5, 7]", 'verifier.connector="linear"']
    assert table["checkpoint_sha256"].nunique() == 3
    # any choice of one candidate is as good as any other
    assert table["best_of_1_percent"].nunique() == 1
    assert table["difference_points"][0] == 0
    assert ((table["held_out_auc"] >= 0) & (table["held_out_auc"] <= 1)).all()
    assert (out / "comparison.md").read_text() in printed
    blocks = [
        read_card(out / f / "checkpoint").block
        for f in ("", "ablations/mean-3-5-7", "ablations/linear-connector")
    ]
    assert blocks == [6, (3, 5, 7), 6]
    config = json.loads((out / "ablations/mean-3-5-7/checkpoint/config.json").read_text())
    assert config["mm_vision_select_feature"] == "block_3_5_7"
    card = (out / "ablations/mean-3-5-7/checkpoint/README.md").read_text()
    assert "hidden states of the mean of blocks 3, 5, 7" in card
    made = read_data_card(out / "data-block-3_5_7" / "hidden" / "train")
    assert (made.block, made.rows) == ((3, 5, 7), read_data_card(out / "data" / "hidden" / "train").rows)
    assert not (out / "ablations" / "linear-connector" / "data").exists()


@pytest.mark.parametrize("folder", ["checkpoint", "ablations/mean-3-5-7/checkpoint"])
def test_a_run_reads_a_checkpoint_by_path(swept, folder, tmp_path, monkeypatch):
    from vhsbench.harness.store.tables import load_run
    from vhsbench.harness.sweep import run as sweep

    out, _ = swept
    text = yaml.safe_dump(
        {
            "generators": [{"name": "nano"}],
            "verifiers": [{"name": "vhs", "checkpoint": str(out / folder)}],
            "prompts": {"limit": 2}, "pool": 2, "timing": {"repeats": 1, "warm_up": 0, "best_of_n": [1]},
        }
    )  # fmt: skip
    monkeypatch.setattr(sweep, "measure_costs", lambda *_: None)  # measured elsewhere
    sweep.run(parse(text, "run.yaml"), str(tmp_path / "run"))
    scores = load_run(tmp_path / "run").scores
    assert len(scores) == 4
    assert scores["score"].between(-1, 1).all()


def test_two_processes_of_one_command_give_the_loss_of_one(swept, tmp_path):
    """The engine's `processes` start this command again under torchrun; the data is there already."""
    out, _ = swept
    data = [f"data.{p}={out / 'data' / 'hidden' / p}" for p in ("train", "validation")]
    changes = [*(f"{key}={json.dumps(value)}" for key, value in TINY.items()), *data, "align=null"]
    config = load_train_config(Path("train-nano-vhs"), [*changes, "engine.processes=2"])
    folder = train(config, tmp_path / "two")
    one = train(load_train_config(Path("train-nano-vhs"), changes), tmp_path / "one")
    losses = [
        json.loads((f.parent / "checkpoint.json").read_text())["validation_loss"] for f in (folder, one)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_process_that_fails_is_one_sentence(swept, tmp_path, monkeypatch):
    out, _ = swept
    data = [f"data.{p}={out / 'data' / 'hidden' / p}" for p in ("train", "validation")]
    config = load_train_config(Path("train-nano-vhs"), [*data, "engine.processes=2"])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(LaunchError, match="a training process failed"):
        train(config, tmp_path)


def test_training_processes_end_with_the_command(swept, tmp_path, family):
    out, _ = swept
    data = [f"data.{p}={out / 'data' / 'hidden' / p}" for p in ("train", "validation")]
    sets = [*data, "align=null", "finetune.steps=1000000", "engine.processes=2"]
    changes = [*SETTINGS, *(part for text in sets for part in ("--set", text))]
    command = [sys.executable, "-m", "vhsbench.harness.cli", "train", "verifier", "train-nano-vhs"]
    started = subprocess.Popen(
        [*command, "--out", str(tmp_path / "long"), *changes], env=family.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 240
    while family.at_work(1) < 4:
        assert started.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    started.kill()
    started.wait()
    assert family.left() == []


def test_wrong_shards_are_one_sentence(swept, tmp_path):
    out, _ = swept
    data = [f"data.{p}={out / 'data' / 'hidden' / p}" for p in ("train", "validation")]
    sets = [part for d in data for part in ("--set", d)]
    done = CliRunner().invoke(
        app,
        ["train", "verifier", "train-nano-vhs", "--out", str(tmp_path), *sets, "--set", "verifier.block=3"],
    )
    assert "are of block 6, not of block 3" in str(done.exception)


def test_the_table_for_people_escapes_bars():
    text = markdown(pd.DataFrame([{"training": "a|b", "x": 0.123456, "checkpoint_sha256": "0" * 64}]))
    assert text == "| training | x |\n| --- | --- |\n| a\\|b | 0.1235 |\n"
