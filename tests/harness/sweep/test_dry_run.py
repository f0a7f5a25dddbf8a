from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vhsbench import generators, verifiers
from vhsbench.harness.cli import app
from vhsbench.harness.config.experiments import bundled
from vhsbench.harness.config.run import load_config, parse
from vhsbench.harness.sweep.dry_run import dry_run

FULL = ("table1", "table5", "table6", "table7", "fig5", "fig6")
GENERATORS = ("sana-sprint", "sana-1.5", "flux-schnell", "sd3.5-turbo")


@pytest.fixture(autouse=True)
def full_size_names(monkeypatch):
    """The names that the sweeps use; a dry run loads none of them."""
    for registry, names in ((generators.REGISTRY, GENERATORS), (verifiers.REGISTRY, ("vhs",))):
        known = {name: registry.target(name) for name in registry.names()}
        monkeypatch.setattr(registry, "_targets", dict.fromkeys(names, "not.to:be_loaded") | known)


def planned(name: str):
    return dry_run(load_config(Path(name)))


def ns(found, generator, steps, verifier):
    cell = next(
        c
        for c in found["cells"]
        if (c["generator"], c["steps"], c["verifier"]) == (generator, steps, verifier)
    )
    return list(cell["n_by_budget"].values())


def test_every_experiment_ships_at_both_sizes():
    assert set(bundled()) == {"nano", *FULL, *(f"nano-{name}" for name in FULL)}
    for name in bundled():
        text = files("vhsbench.harness.config").joinpath(f"bundled/{name}.yaml").read_text()
        assert f"\nname: {name}\n" in text


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_sweep_is_planned_without_a_gpu(name):
    found = planned(name)
    assert found["prompts"] == 553
    assert found["device"] == "cuda"
    assert found["gpu_hours"] > 1
    assert found["disk_gb"] > 0
    assert all(cell["basis"] != "unknown" for cell in found["cells"])


def test_table1_has_the_published_n():
    found = planned("table1")
    assert ns(found, "sana-sprint", 1, "vhs") == [4, 9, 15]
    assert ns(found, "sana-sprint", 1, "mllm-clip") == [2, 4, 6]
    assert ns(found, "sana-sprint", 1, "mllm-ae") == [3, 7, 11]
    assert ns(found, "sana-sprint", 8, "none") == [1, 1, 1]
    assert ns(found, "sana-1.5", 16, "none") == [None, None, 1]


def test_table6_has_the_published_n():
    found = planned("table6")
    for generator, steps in (("flux-schnell", 1), ("sd3.5-turbo", 1), ("flux-schnell", 2)):
        assert ns(found, generator, steps, "mllm-clip") == [1, 2, 3]
    assert ns(found, "sana-sprint", 1, "vhs") == [4, 9, 15]


def test_hours_are_candidates_by_time():
    found = planned("fig6")
    vhs = next(c for c in found["cells"] if c["verifier"] == "vhs")
    assert vhs["candidates"] == 553 * 32
    assert vhs["gpu_hours"] == pytest.approx(553 * 32 * 0.102 / 3600, abs=0.01)


@pytest.mark.parametrize("name", [f"nano-{name}" for name in FULL])
def test_nano_twins_say_that_their_time_is_unknown(name):
    found = planned(name)
    assert found["device"] == "cpu"
    assert found["prompts"] <= 120
    assert found["gpu_hours"] is None


def test_from_the_command_line():
    printed = CliRunner().invoke(app, ["run", "table6", "--dry-run", "--json"])
    assert json.loads(printed.stdout)["name"] == "table6"


@pytest.mark.parametrize("name", bundled())
def test_the_console_table_fits_80_columns(name):
    shown = CliRunner().invoke(app, ["run", name, "--dry-run"], env={"COLUMNS": "80"}).stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    rows = [
        line
        for line in lines
        if line.split()[2:3] and line.split()[2] in ("vhs", "mllm-clip", "mllm-ae", "none")
    ]
    found = planned(name)
    assert [(r.split()[0], r.split()[2]) for r in rows] == [
        (c["generator"], c["verifier"]) for c in found["cells"]
    ]
    if name == "table1":
        assert " 4 / 9 / 15 " in rows[0]
        assert " - / - / 1 " in rows[-1]
        assert "not measured" in shown


def test_a_labelled_verifier_is_planned_as_its_kind():
    text = "generators: [{name: sana-sprint}]\nprompts: {source: geneval}\nbudgets_ms: [550, 1100, 1700]\n"
    text += "verifiers: [{name: vhs, label: new}, {name: vhs, label: old}, {name: mllm-clip}]\n"
    found = dry_run(parse(text, "x.yaml"))
    assert [cell["verifier"] for cell in found["cells"]] == ["new", "old", "mllm-clip"]
    for label in ("new", "old"):
        assert ns(found, "sana-sprint", 1, label) == ns(planned("table1"), "sana-sprint", 1, "vhs")
    assert found["cells"][0]["basis"].startswith("published")


def test_a_wrong_name_is_one_sentence():
    result = CliRunner().invoke(app, ["run", "tabel6", "--dry-run"])
    assert "did you mean 'table6'?" in str(result.exception)


def test_steps_that_are_not_given_are_the_generators_own():
    config = parse("generators: [{name: sana-1.5}]\nprompts: {source: geneval}\n", "x.yaml")
    assert [cell["steps"] for cell in dry_run(config)["cells"]] == [16]


def test_a_dry_run_refuses_what_the_sweep_would(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("generators: [{name: sana-sprint, options: {guidance: 2}}]\n")
    ran = CliRunner().invoke(app, ["run", str(config), "--dry-run"])
    assert str(ran.exception) == (
        f"{config}, line 1, key 'generators.0.options': generator 'sana-sprint' has no option 'guidance'; "
        "did you mean 'guidance_scale'?"
    )
