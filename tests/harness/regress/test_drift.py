"""The paper's B.4 in nano: the bundled LoRA, strength by strength."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vhsbench import generators, verifiers
from vhsbench.generators.lora import FILE
from vhsbench.generators.nano import LORA
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.cli import app
from vhsbench.harness.geneval.nano_prompts import balanced, nano_prompts
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.regress.drift import COLUMNS, DriftError, DriftPlan, drift_table, markdown
from vhsbench.verifiers.checks import ScoresError


@pytest.fixture(scope="module")
def moved():
    """A nano of its own, as a LoRA stays attached."""
    generator = generators.create("nano")
    plan = DriftPlan(
        balanced(nano_prompts()["validation"], 36),
        ShapeDetector(),
        (0.0, 1.0),
        {"vhs": 4, "mllm-clip": 2},
        size=4,
    )
    judges = [verifiers.create("vhs"), verifiers.create("mllm-clip")]
    return generator, drift_table(generator, judges, LORA, plan)


def test_the_table(moved):
    table = moved[1]
    assert list(table) == COLUMNS
    own = table.groupby("strength").head(2)
    assert own[["strength", "verifier", "best_of_n"]].to_numpy().tolist() == [
        [0.0, "vhs", 4], [0.0, "mllm-clip", 2], [1.0, "vhs", 4], [1.0, "mllm-clip", 2],
    ]  # fmt: skip
    for _, rows in own.groupby("strength"):
        assert rows["delta"].iloc[1] == pytest.approx(rows["overall"].iloc[0] - rows["overall"].iloc[1])
        assert np.isnan(rows["delta"].iloc[0])
    same_n = table[(table["best_of_n"] == 4) & (table["strength"] == 0.0)].set_index("verifier")
    gap = same_n.loc["vhs", "overall"] - same_n.loc["mllm-clip", "overall"]
    assert same_n.loc["mllm-clip", "delta"] == pytest.approx(gap)
    assert len(markdown(table).splitlines()) == 2 + len(table)


def test_accuracy_falls_with_strength(moved):
    by_strength = moved[1].groupby("strength")["overall"].mean()
    assert by_strength[1.0] < by_strength[0.0] - 3


def test_strength_zero_is_the_generator_itself(moved, nano):
    moved[0].pipeline.set_adapters(["lora"], [0.0])
    cond, noise = nano.encode(["a photo of a red circle"]), nano.noise([1])
    torch.testing.assert_close(moved[0].denoise(cond, noise), nano.denoise(cond, noise), atol=0, rtol=0)
    moved[0].pipeline.set_adapters(["lora"], [1.0])
    assert (moved[0].denoise(cond, noise) - nano.denoise(cond, noise)).abs().max() > 0.01


def test_mistakes(tmp_path):
    with pytest.raises(GeneratorError, match="there are no LoRA weights at"):
        generators.create("nano").add_lora(tmp_path / "none")
    (tmp_path / FILE).write_bytes(b"not safetensors")
    with pytest.raises(GeneratorError, match="does not fit"):
        generators.create("nano").add_lora(tmp_path / FILE)
    plan = DriftPlan(nano_prompts()["validation"][:1], ShapeDetector(), best_of_n={"vhs": 9}, size=2)
    with pytest.raises(DriftError, match="best of 9 needs as many candidates"):
        drift_table(generators.create("nano"), [verifiers.create("vhs")], LORA, plan)
    for arguments in (["--verifier", "vhs=many"], ["--split", "test"], ["--generator", "sana-sprint"]):
        said = CliRunner().invoke(app, ["drift", *arguments])
        assert isinstance(said.exception, DriftError), arguments


def test_the_command(tmp_path):
    arguments = [
        "drift",
        "--prompts",
        "6",
        "--verifier",
        "vhs=2",
        "--verifier",
        "mllm-ae=2",
        "--strength",
        "0.5",
    ]
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--json"])
    assert said.exit_code == 0, said.output
    rows = json.loads(said.stdout)["rows"]
    assert [(r["strength"], r["verifier"]) for r in rows] == [(0.5, "vhs"), (0.5, "mllm-ae")]
    assert {f.name for f in tmp_path.iterdir()} == {"drift.csv", "drift.md", "drift.json"}


def test_a_score_that_is_no_number_is_told_with_its_candidate(monkeypatch):
    plan = DriftPlan(
        balanced(nano_prompts()["validation"], 6), ShapeDetector(), (0.0,), {"vhs": 2}, seed=3, size=2
    )
    verifier = verifiers.create("vhs")
    original = verifier.score

    def spoiled(prompts, features):
        found = original(prompts, features)
        with torch.inference_mode():
            found.score[5] = torch.nan
        return found

    monkeypatch.setattr(verifier, "score", spoiled)
    said = rf"'vhs' gave candidate 1 of prompt 2 \('{plan.prompts[2]['prompt']}'\), seed 3, by generator 'nano' the score nan"
    with pytest.raises(ScoresError, match=said):
        drift_table(generators.create("nano"), [verifier], LORA, plan)


def test_every_strength_encodes_the_prompts_anew_and_each_once(monkeypatch):
    """A LoRA may move the text encoder too."""
    generator, encoded = generators.create("nano"), []
    original = generator.encode
    monkeypatch.setattr(generator, "encode", lambda prompts: (encoded.extend(prompts), original(prompts))[1])
    plan = DriftPlan(
        balanced(nano_prompts()["validation"], 6), ShapeDetector(), (0.0, 1.0), {"vhs": 2}, size=2, batch=5
    )
    drift_table(generator, [verifiers.create("vhs")], LORA, plan)
    assert encoded == 2 * [p["prompt"] for p in plan.prompts]
