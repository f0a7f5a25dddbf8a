"""The gate on real checkpoints: itself, damaged copies, another kind, finished runs; and the command line."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.harness.cli import app
from vhsbench.harness.config.run import parse
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.report import facts, junit, markdown, write
from vhsbench.harness.regress.run import regress
from vhsbench.harness.regress.scores import pool_candidates, score_pool
from vhsbench.harness.regress.sources import SourceError, resolve
from vhsbench.harness.store.tables import RunStore
from vhsbench.harness.sweep.identity import of_entry
from vhsbench.harness.sweep.protocol import protocol
from vhsbench.verifiers.checkpoint import CheckpointError, kind_of

GATE = GateConfig(best_of_n=(2, 4), bootstrap=500, permutations=1999, auc_permutations=399, timing_repeats=0)


@pytest.fixture(scope="module")
def against_itself(pool):
    gate = GATE.model_copy(update={"timing_repeats": 5, "timing_warm_up": 1})
    return regress(resolve("vhs"), resolve("vhs"), pool, gate)


@pytest.fixture(scope="module")
def ruined(pool, damaged):
    return regress(resolve("vhs"), resolve(str(damaged(3.0))), pool, GATE)


def test_against_itself_the_difference_is_exactly_zero(against_itself):
    found = against_itself
    assert found.verdict.outcome == "pass"
    assert found.comparison.identical
    assert found.comparison.changed == []
    for row in found.comparison.differences:
        assert (row.difference, row.low, row.high, row.lost, row.won) == (0.0, 0.0, 0.0, 0, 0)
        assert row.detectable is None
        assert row.p in (None, 1.0)
    for s in found.comparison.separation:
        assert s.baseline == s.candidate or math.isnan(s.baseline)
        assert s.p == 1.0 or math.isnan(s.p)
    assert (found.comparison.drift.ks, found.comparison.drift.wasserstein) == (0.0, 0.0)
    assert found.speed is not None
    assert found.speed.memory_ratio == 1.0
    assert found.speed.time_low <= found.speed.time_ratio <= found.speed.time_high


def test_a_damaged_copy_fails(pool, damaged, ruined):
    little = regress(resolve("vhs"), resolve(str(damaged(1.0))), pool, GATE)
    assert little.verdict.outcome == "fail"
    assert ruined.verdict.outcome == "fail"
    for found in (little, ruined):
        overall = found.comparison.separation[0]
        assert overall.tag == "overall"
        assert overall.candidate < overall.baseline
        assert overall.p_holm <= 0.01
    assert ruined.comparison.drift.spearman_within < little.comparison.drift.spearman_within < 1
    assert ruined.comparison.changed


def test_hardly_any_damage_does_not_fail(pool, damaged):
    found = regress(resolve("vhs"), resolve(str(damaged(0.002))), pool, GATE)
    assert found.verdict.outcome in ("pass", "inconclusive")
    assert found.comparison.drift.spearman > 0.98


def test_another_kind_is_compared_on_the_same_candidates(pool):
    gate = GATE.model_copy(update={"timing_repeats": 3, "max_memory_ratio": 1.2})
    found = regress(resolve("vhs"), resolve("mllm-clip"), pool, gate)
    assert found.speed is not None
    assert found.speed.memory_ratio > 1.2  # CLIP's tower
    assert found.verdict.outcome == "fail"
    assert any(r.startswith("the memory ratio is") for r in found.verdict.reasons)


def test_changed_picks_are_those_of_the_pool(ruined, pool):
    correct = pool_candidates(pool).correct
    for pick in ruined.comparison.changed:
        assert correct[pick.row, pick.baseline_index] == pick.baseline_correct
        assert correct[pick.row, pick.candidate_index] == pick.candidate_correct
        assert pool.prompts[pick.prompt_id]["prompt"] == pick.prompt
    first = ruined.comparison.changed[0]
    assert (first.baseline_correct, first.candidate_correct) == (True, False)


def test_what_is_written(ruined, tmp_path):
    write(ruined, tmp_path)
    said = json.loads((tmp_path / "regression.json").read_text())
    assert (said["verdict"], said["inputs"]["pool"]) == ("fail", ruined.pool.sha256)
    assert said["protocol"][0] == said["protocol"][1]  # the checkpoint is what is compared
    assert said["protocol"][0]["precision"] == {"generators": ["float32"], "verifiers": ["float32"]}
    config = parse("generators: [nano]\nverifiers: [vhs, mllm-ae]\n", "x.yaml")
    prompts = ruined.pool.prompts
    a_run = protocol(prompts, [0], [of_entry(config, prompts, config.generators[0]).inputs])
    assert said["protocol"][0]["digest"] == a_run.digest
    assert facts(ruined)[-1] == f"protocol {a_run.digest}"
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    cases = {c.get("name"): c for c in suite}
    assert int(suite.get("tests")) == len(cases) == 2 * 7 + 7 + 2
    assert int(suite.get("failures")) == sum(c.find("failure") is not None for c in cases.values()) >= 2
    assert cases["verdict"].find("failure") is not None
    assert cases["cost"].find("failure") is None
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("## Verifier regression: fail\n")
    assert "changed_picks.png" in summary
    with Image.open(tmp_path / "changed_picks.png") as picture:
        assert picture.size[0] > 300
    write(ruined, tmp_path)
    assert json.loads((tmp_path / "regression.json").read_text()) == said


def test_what_a_user_wrote_is_escaped(ruined):
    nasty = 'a <b> & "c" | `d` \x00\x1b @team [x](y)\n# no'
    comparison = replace(
        ruined.comparison, candidate=nasty, changed=[replace(ruined.comparison.changed[0], prompt=nasty)]
    )
    found = replace(ruined, comparison=comparison, verdict=replace(ruined.verdict, reasons=(nasty,)))
    suite = ElementTree.fromstring(junit(found))[0]
    assert suite[-1].find("failure").get("message").startswith('a <b> & "c" | `d` \ufffd\ufffd')
    text = markdown(found)
    assert "<b>" not in text
    assert "\n# no" not in text
    assert "@team" not in text
    assert len([line for line in text.splitlines() if "&lt;b>" in line]) == 3


def run_of(pool, path, names):
    """A finished run that holds the pool's candidates and scores."""
    with RunStore(path, {"name": "made"}) as store:
        store.write_prompts(pool.prompts)
        store.write_shard("candidates", "all", pool.candidates)
        keys = pool.candidates[["generator", "steps", "prompt_id", "seed", "index"]]
        frames = []
        for name in names:
            scored = score_pool(verifiers.create(name), name, pool)
            values = {k: getattr(scored, k).ravel() for k in ("p_yes", "p_no", "score")}
            frames.append(keys.assign(verifier=name, **values))
        store.write_shard("scores", "all", pd.concat(frames))
        store.consolidate()
        store.update(status="complete")
    return path


def test_finished_runs(pool, tmp_path, damaged):
    path = run_of(pool, tmp_path / "run", ["vhs", "mllm-ae"])
    with pytest.raises(
        SourceError, match=r"several verifiers; write .*run:VERIFIER with one of mllm-ae, vhs"
    ):
        resolve(str(path))
    with pytest.raises(SourceError, match="has no verifier 'vsh'"):
        resolve(f"{path}:vsh")
    vhs = resolve(f"{path}:vhs")
    same = regress(vhs, vhs, None, GATE)
    assert same.verdict.outcome == "pass"
    assert same.comparison.identical
    two = regress(vhs, resolve(f"{path}:mllm-ae"), None, GATE)
    assert not two.comparison.identical
    mixed = regress(vhs, resolve("vhs"), pool, GATE)  # a run against a checkpoint, on the same candidates
    assert mixed.comparison.drift.wasserstein < 1e-6
    assert mixed.comparison.changed == []
    with pytest.raises(SourceError, match="compared on a frozen pool: give --pool"):
        regress(vhs, resolve("vhs"), None, GATE)
    text = (path / "prompts.jsonl").read_text()
    (path / "prompts.jsonl").write_text(text.replace("a photo of", "a drawing of"))
    with pytest.raises(SourceError, match=r"the run .*run has other candidates"):
        regress(vhs, resolve("vhs"), pool, GATE)


def test_names(tmp_path, damaged):
    folder = damaged(0.5)
    assert kind_of(folder) == "vhs"
    assert resolve(str(folder)).checkpoint == str(folder)
    assert resolve("vhs=owner/name@main").checkpoint == "owner/name@main"
    (folder / "verifier.json").unlink()
    assert kind_of(folder) == "vhs"  # by the official config.json
    (folder / "verifier.json").write_text('{"kind": "vhss"}')
    with pytest.raises(
        CheckpointError, match=r"verifier\.json names no known verifier: 'vhss'; did you mean 'vhs'"
    ):
        kind_of(folder)
    with pytest.raises(SourceError, match="did you mean 'vhs'"):
        resolve("vhss")
    with pytest.raises(SourceError, match="neither a checkpoint"):
        resolve(str(tmp_path))


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_line(pool, damaged, tmp_path):
    gate = tmp_path / "gate.yaml"
    gate.write_text("bootstrap: 200\npermutations: 999\nauc_permutations: 399\ntiming_repeats: 0\n")
    same = invoke("regress", "vhs", "vhs", "--pool", pool.path, "--config", gate, "--json")
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["verdict"] == "pass"
    bad = invoke(
        "regress", "vhs", damaged(3.0), "--pool", pool.path, "--config", gate, "--out", tmp_path / "out"
    )
    assert bad.exit_code == 1, bad.output
    assert "fail" in bad.stdout
    assert "…" not in bad.stdout  # nothing is cut off at 80 columns
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "regression.json", "junit.xml", "summary.md", "changed_picks.png",
    }  # fmt: skip
    unsure = invoke("regress", "mllm-ae", damaged(0.001), "--pool", pool.path, "--config", gate)
    assert unsure.exit_code in (1, 3)
    config = tmp_path / "pool.yaml"
    config.write_text("generators: [{name: nano}]\nverifiers: [{name: vhs}]\n")
    made = invoke("pool", config, "--out", tmp_path / "pool", "--prompts", 2, "--size", 2, "--keep", "hidden")
    assert made.exit_code == 0, made.output
    assert "2 prompts, 4 candidates" in made.stdout
