"""Accepted baselines: copied whole, verified, replaced with a log."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.regress import baselines
from harness.regress.sources import SourceError, resolve


def test_accepted_replaced_and_logged(tmp_path, damaged, pool):
    folder = tmp_path / "baselines"
    first = baselines.accept("vhs", folder=folder, pool=pool.path, note="the bundled one", who="ada")
    assert (first["name"], first["replaces"], first["who"]) == ("vhs", None, "ada")
    second = baselines.accept(str(damaged(0.1)), "vhs", folder, who="grace")
    assert second["replaces"] == first["sha256"] != second["sha256"]
    assert [(e["who"], e["replaces"]) for e in baselines.history(folder)] == [
        ("ada", None), ("grace", first["sha256"]),
    ]  # fmt: skip
    assert [e["sha256"] for e in baselines.listing(folder)] == [second["sha256"]]
    assert not [f for f in folder.iterdir() if f.name.endswith((".new", ".old"))]


def test_an_accepted_name_is_a_source_with_its_own_pool(tmp_path, pool, damaged):
    folder = tmp_path / "baselines"
    baselines.accept(str(damaged(0.1)), "main", folder, pool.path)
    source = resolve("main", folder)
    assert source.verifier == "vhs"
    assert source.load().checkpoint_sha256 != resolve("vhs").load().checkpoint_sha256
    found = baselines.pool_of("main", folder)
    assert found is not None
    assert found.sha256 == pool.sha256
    assert baselines.pool_of("vhs", folder) is None
    manifest = folder / "main" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(pool.sha256, "0" * 64))
    with pytest.raises(SourceError, match="accepted on another pool"):
        baselines.pool_of("main", folder)


def test_baselines_and_their_pools_may_move_together(tmp_path, pool):
    shutil.copytree(pool.path, tmp_path / "here" / "pool")
    folder = tmp_path / "here" / "baselines"
    entry = baselines.accept("vhs", "main", folder, tmp_path / "here" / "pool")
    assert entry["pool"]["path"] == "../pool"
    (tmp_path / "here").rename(tmp_path / "there")
    found = baselines.pool_of("main", tmp_path / "there" / "baselines")
    assert found is not None
    assert found.sha256 == pool.sha256


def test_damage_is_found(tmp_path):
    folder = tmp_path / "baselines"
    baselines.accept("vhs", "main", folder)
    config = folder / "main" / "content" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(SourceError, match=r"config.json is missing or not what was accepted"):
        resolve("main", folder)


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", ""])
def test_a_name_leads_nowhere_else(tmp_path, name):
    if name:
        with pytest.raises(SourceError, match="is no name for a baseline"):
            baselines.accept("vhs", name, tmp_path / "baselines")
    assert not (tmp_path / "up").exists()


def test_the_commands(tmp_path):
    folder = tmp_path / "baselines"
    run = CliRunner()
    said = run.invoke(
        app, ["baseline", "accept", "vhs", "--name", "main", "--dir", str(folder), "--note", "first"]
    )
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("baseline 'main' is vhs (")
    listed = json.loads(run.invoke(app, ["baseline", "list", "--log", "--json", "--dir", str(folder)]).stdout)
    assert [b["name"] for b in listed["baselines"]] == ["main"]
    assert listed["log"][0]["note"] == "first"
    shown = run.invoke(app, ["baseline", "list", "--dir", str(folder)])
    assert "main" in shown.stdout
