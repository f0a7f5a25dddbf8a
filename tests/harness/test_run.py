"""The whole job on a small part of nano: end to end, killed and resumed, and from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import vhsbench.harness.sweep.run
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness import cli
from vhsbench.harness.config.models import load_judges
from vhsbench.harness.config.run import parse
from vhsbench.harness.geneval import prompts as geneval_prompts
from vhsbench.harness.geneval.detector import UnknownClass
from vhsbench.harness.report.build import build
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.run import run

CONFIG = """
name: small
generators: [{name: nano}]
verifiers: [{name: vhs}, {name: mllm-clip}, {name: mllm-ae}]
prompts: {source: nano, split: validation, limit: 24}
pool: 4
batch_size: 16
bootstrap: 50
gallery_prompts: 3
threads: 2
timing: {best_of_n: [1, 2], repeats: 3, warm_up: 1}
"""


def command(*arguments: str, **options) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vhsbench.harness.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


@dataclass
class Resumed:
    """A run whose first process was killed: which shards it had done by then, with their times, and what the second said."""

    folder: Path
    done: dict[Path, int]
    status: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, undrawn):
    """The whole job, with costs and a report, from the command line: the run that all tests here look at."""
    folder = tmp_path_factory.mktemp("run")
    config, out = folder / "small.yaml", folder / "small"
    config.write_text(CONFIG)
    first = command("run", str(config), "--out", str(out))
    shards = out / "shards" / "candidates"
    while not list(shards.glob("[!.]*.parquet")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    status = json.loads((out / "run.json").read_text())["status"]
    done = {f: f.stat().st_mtime_ns for f in shards.glob("[!.]*.parquet")}
    with undrawn(but="png"):
        second = CliRunner().invoke(
            cli.app, ["run", str(config), "--out", str(out), "--json"], catch_exceptions=False
        )
    assert second.exit_code == 0, second.stderr
    return Resumed(out, done, status, json.loads(second.stdout))


@pytest.fixture(scope="module")
def finished(resumed):
    return resumed.folder


VERIFIERS = ("mllm-ae", "mllm-clip", "vhs")


def test_tables_are_whole(finished):
    found = load_run(finished)
    assert len(found.candidates) == 24 * 4
    assert len(found.scores) == 24 * 4 * 3
    assert found.scores["score"].between(-1, 1).all()
    assert set(found.costs["verifier"]) == {"", "vhs", "mllm-clip", "mllm-ae"}
    assert (found.costs["wall_ms"] > 0).all()
    assert found.costs["peak_vram_gb"].isna().all()
    assert set(found.info["checkpoints"]) == {"vhs", "mllm-clip", "mllm-ae"}
    assert found.info["generators"] == {"nano": "bundled"}
    assert [e["packages"]["torch"] for e in found.info["environments"]] == [version("torch")] * 2  # sessions
    assert found.info["detector"] == {"name": "shapes"}


def test_the_detector_fits_the_prompts_or_is_refused():
    star, dog = geneval_prompts.single("star"), geneval_prompts.single("dog")
    assert load_judges(parse(CONFIG, "x"), [star])[0].info() == {"name": "shapes"}
    chosen = parse(
        CONFIG + "detector: {name: mask2former, options: {checkpoint: random, scale: [96, 64]}}\n", "x"
    )
    assert load_judges(chosen, [dog])[0].info()["checkpoint_sha256"] == "random"
    shapes = parse(CONFIG + "detector: {name: shapes}\n", "x")
    with pytest.raises(UnknownClass, match="prompt 0 of nano: class 'dog' is unknown to the detector shapes"):
        load_judges(shapes, [dog])[0]
    elsewhere = "detector: {name: mask2former, options: {checkpoint: random, colors: random, device: cpu}}\n"
    config = parse(CONFIG + elsewhere, "x").model_copy(update={"device": "meta"})
    assert load_judges(config, [dog])[0].detector.model.device.type == "cpu"  # its own device, not the run's
    missing = parse(CONFIG + "detector: {name: mask2former, options: {checkpoint: none.pth}}\n", "x")
    with pytest.raises(ValueError, match=r"detector checkpoint none\.pth does not exist"):
        load_judges(missing, [dog])[0]


def test_the_reports_tables_and_figures_are_of_the_run(finished, resumed):
    summary = resumed.summary
    for name, rows in (
        ("budgets", summary["tables"]["budgets"]),
        *((n, summary[n]) for n in ("latency", "auc")),
    ):
        written = pd.read_csv(finished / "tables" / f"{name}.csv")
        assert set(written.pop("protocol")) == {summary["protocol"]["digest"]}
        pd.testing.assert_frame_equal(written, pd.DataFrame(rows), check_dtype=False)
    ends = pd.DataFrame(summary["latency"]).query("verifier != 'none'").set_index(["verifier", "n"])
    shown = pd.read_csv(finished / "figures" / "accuracy_over_time.csv").set_index(["verifier", "n"])
    assert shown.loc[ends.index, "cost"].tolist() == pytest.approx(ends["predicted_ms"].tolist())
    at = pd.DataFrame(summary["at_n"]).set_index("verifier")["accuracy"]
    assert shown["accuracy"].xs(4, level="n").to_dict() == pytest.approx(at[list(VERIFIERS)].to_dict())
    scores = pd.read_csv(finished / "figures" / "score_distributions.csv")
    assert scores.groupby("verifier").size().to_dict() == dict.fromkeys(VERIFIERS, 24 * 4)
    stages = pd.read_csv(finished / "figures" / "latency_breakdown.csv").groupby("verifier")["wall_ms"].sum()
    assert stages.to_dict() == pytest.approx({v: shown["cost"][v, 1] for v in VERIFIERS})
    clip = [r["best_of_n"] for r in summary["budgets"] if r["verifier"] == "mllm-clip"]
    assert clip == [2, 4, 4]  # the third budget affords 6, the pool holds 4
    shown = {r["verifier"] for r in summary["budgets"]}
    assert shown == {"none", "vhs", "mllm-clip", "mllm-ae"}


def test_deriving_again_gives_the_same_tables(finished, undrawn, tmp_path):
    with undrawn():
        build(finished, out=tmp_path)
    first, again = (
        {f.name: f.read_bytes() for f in (out / "tables").iterdir()} for out in (finished, tmp_path)
    )
    assert first == again


def test_killed_and_resumed_ends_with_the_same_tables(finished, resumed, tmp_path, monkeypatch):
    assert resumed.status == "running"
    assert 0 < len(resumed.done) <= 3
    assert {f: f.stat().st_mtime_ns for f in resumed.done} == resumed.done, "a finished shard was done again"
    assert resumed.summary["prompts"] == 24
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", lambda *_: None)
    again, whole = load_run(finished), load_run(run(parse(CONFIG, "small.yaml"), tmp_path / "whole"))
    pd.testing.assert_frame_equal(again.candidates, whole.candidates)
    pd.testing.assert_frame_equal(again.scores, whole.scores)


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("generators: [{name: nnano}]\n")
    process = command(
        "run", str(config), cwd=tmp_path
    )  # tests/harness/test_cli.py has more, in its own process
    printed, said = process.communicate()
    assert process.returncode == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said + printed


DRIFT = """
generators: [{name: nano}, {name: nano, lora: bundled, lora_strength: 1.0}]
verifiers: [{name: vhs}, {name: mllm-clip}]
prompts: {source: nano, split: validation, limit: 12}
pool: 2
gallery_prompts: 0
"""


def test_a_drifted_generator_stands_beside_the_plain_one(tmp_path, monkeypatch):
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_costs", lambda *_: None)
    found = load_run(run(parse(DRIFT, "drift.yaml"), tmp_path / "drift"))
    assert set(found.candidates["generator"]) == {"nano", "nano+lora-1"}
    assert found.info["generators"]["nano+lora-1"] == "bundled with LoRA bundled at 1"
    correct = found.candidates.groupby("generator")["correct"].mean()
    assert correct["nano+lora-1"] < correct["nano"] - 0.05
    plain, moved = (
        rows.set_index(["prompt_id", "index", "verifier"])["score"]
        for _, rows in found.scores.groupby("generator")
    )
    assert (plain - moved).abs().max() > 0.01


def test_a_lora_that_is_not_there_is_told_before_anything_is_made(tmp_path):
    text = DRIFT.replace("lora: bundled", "lora: not/there")
    with pytest.raises(GeneratorError, match="there are no LoRA weights at 'not/there'"):
        run(parse(text, "x"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
