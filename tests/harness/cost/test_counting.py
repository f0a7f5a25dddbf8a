"""`cost`, `plan` and a run count the same thing, and say which prompt it was."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.experiments import bundled
from vhsbench.harness.config.run import load_config
from vhsbench.harness.cost.budgets import fit
from vhsbench.harness.cost.counting import count_pipeline, usual_prompt
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.plan import from_device
from vhsbench.harness.cost.rounds import measure
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.sweep.run import load_prompts

NEEDS = {"vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images"}


def invoke(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_run_measures_what_cost_counts(name):
    config = load_config(Path(name))
    prompt = load_prompts(config)[0]["prompt"]
    assert {usual_prompt(entry.name) for entry in config.generators} == {prompt}


@pytest.mark.parametrize("verifier", NEEDS)
def test_cost_of_nano_is_what_a_run_counts(verifier):
    timing = TimingConfig(best_of_n=(1, 2), repeats=1, warm_up=0)
    prompt = load_prompts(load_config(Path("nano")))[0]["prompt"]
    measured = measure(Cell("nano", {}, verifier, {}, prompt, timing))
    ran = fit(pd.DataFrame(measured.rows), verifier, NEEDS[verifier], "tflop")
    said = json.loads(invoke("cost", "nano", "--verifier", verifier, "--json"))
    assert said["fixed_tflop"] == pytest.approx(ran.fixed, rel=1e-9)
    assert said["per_candidate_tflop"] == pytest.approx(ran.per_candidate, rel=1e-9)
    assert said["prompt"] == measured.about["prompt"] == prompt
    assert said["question_tokens"] == measured.about["question_tokens"] | {"guessed": []}
    (planned,) = (p for p in from_device("h100", ["TFLOP"], ["nano"]) if p.verifier == verifier)
    assert planned.models["TFLOP"].per_candidate == pytest.approx(ran.per_candidate, rel=1e-9)
    assert planned.prompt == prompt


def test_a_prompt_of_ones_own(monkeypatch):
    short, long = "a photo of a star", "a photo of a red heart above a blue square"
    assert (
        count_pipeline("nano", "vhs", prompt=short).tflop.per_candidate
        < count_pipeline("nano", "vhs", prompt=long).tflop.per_candidate
    )
    shown = invoke("cost", "nano", "--verifier", "vhs", "--prompt", long)
    assert f"prompt: {long!r}" in shown
    assert "the verifier's question: 2 + " in shown
    guessed = " ".join(invoke("cost", "sana-sprint", "--verifier", "vhs", "--prompt", "a dirigible").split())
    assert "55 + 35 text tokens; guessed, not counted: ' dirigible'" in guessed
    planned = json.loads(
        invoke(
            "plan",
            "--device",
            "h100",
            "--generator",
            "nano",
            "--prompt",
            long,
            "--budget",
            "1TFLOP",
            "--json",
        )
    )
    assert planned["prompts"] == [long]
    both = CliRunner().invoke(app, ["plan", "--costs", "results/h200", "--prompt", long, "--budget", "1s"])
    assert str(both.exception) == "give --prompt or --costs, not both: a run measured its own first prompt."


def test_a_guessed_length_is_noted_in_every_row(monkeypatch):
    from vhsbench.harness.cost import measure as measuring
    from vhsbench.verifiers.mllm import QuestionTokens

    monkeypatch.setattr(measuring, "question_tokens", lambda *_: QuestionTokens(55, 38, (" dirigible",)))
    timing = TimingConfig(best_of_n=(1,), repeats=1, warm_up=0)
    rows = measure(Cell("nano", {}, "vhs", {}, "a photo of a star", timing)).rows
    assert all("the length of the verifier's question is guessed in ' dirigible'" in r["note"] for r in rows)
