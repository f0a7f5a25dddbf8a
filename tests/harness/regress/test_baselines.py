"""Accepted baselines: copied whole, verified, replaced with a log."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.regress import baselines
from vhsbench.harness.regress.accept import accept
from vhsbench.harness.regress.baselines import BaselineError
from vhsbench.harness.regress.sources import resolve

ROOT = Path(__file__).parents[3]
LIST = ["baseline", "list", "--json"]


def test_accepted_replaced_and_logged(tmp_path, damaged, pool):
    folder = tmp_path / "baselines"
    first = accept("vhs", folder=folder, pool=pool.path, note="the bundled one", who="ada")
    assert (first["name"], first["replaces"], first["who"]) == ("vhs", None, "ada")
    second = accept(str(damaged(0.1)), "vhs", folder, who="grace")
    assert second["replaces"] == first["sha256"] != second["sha256"]
    assert [(e["who"], e["replaces"]) for e in baselines.history(folder)] == [
        ("ada", None), ("grace", first["sha256"]),
    ]  # fmt: skip
    assert [e["sha256"] for e in baselines.listing(folder)] == [second["sha256"]]
    assert not [f for f in folder.iterdir() if f.name.endswith((".new", ".old"))]
    assert sorted(f.name for f in (folder / "vhs").iterdir()) == [second["content"], "manifest.json"]


@pytest.fixture
def project(tmp_path):
    """A git repository with a folder of accepted baselines, and a folder below it."""
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "results" / "baselines").mkdir(parents=True)
    (tmp_path / "project" / "a" / "b").mkdir(parents=True)
    return tmp_path / "project"


def test_the_projects_baselines_are_found_from_its_folders(project, tmp_path, monkeypatch):
    of_project = project / "results" / "baselines"
    accept("vhs", "main", of_project)
    for folder in (project, project / "a", project / "a" / "b"):
        monkeypatch.chdir(folder)
        assert baselines.found().resolve() == baselines.for_new().resolve() == of_project
        assert resolve("main").verifier == "vhs"
        assert [e["name"] for e in json.loads(CliRunner().invoke(app, LIST).stdout)["baselines"]] == ["main"]
    (project / "a" / ".git").mkdir()  # another repository: its baselines are its own
    assert baselines.for_new() == baselines.BASELINES


def test_the_packages_baselines_are_found_from_elsewhere_and_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "_CHECKOUT", ROOT)  # of an installed package there is none
    before = sorted((ROOT / "results" / "baselines").rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert resolve("nano").verifier == "vhs"
    assert CliRunner().invoke(app, ["baseline", "accept", "vhs", "--name", "mine"]).exit_code == 0
    assert (tmp_path / "results" / "baselines" / "mine" / "manifest.json").is_file()
    assert sorted((ROOT / "results" / "baselines").rglob("*")) == before
    assert baselines.accepted_names(baselines.found()) == ["mine"]


def test_the_gate_is_the_same_from_any_directory(tmp_path, monkeypatch):
    """A baseline, its pool and a gate's file with a relative path, from the repository and from elsewhere."""
    gate = tmp_path / "ci" / "gate.yaml"
    (gate.parent / "costs").mkdir(parents=True)
    gate.write_text(
        "best_of_n: [2]\ncosts: costs\npermutations: 99\nauc_permutations: 99\ntiming_repeats: 0\n"
    )
    monkeypatch.setattr(baselines, "_CHECKOUT", ROOT)
    said = []
    for folder, file in ((ROOT, gate), (tmp_path, "ci/gate.yaml")):
        monkeypatch.chdir(folder)
        done = CliRunner().invoke(app, ["regress", "nano", "vhs", "--json", "--config", str(file)])
        assert done.exit_code == 0, done.output
        said.append(json.loads(done.stdout))
        assert said[-1].pop("when")
    assert said[0]["gate"]["costs"] == str(gate.parent.resolve() / "costs")
    assert said[0] == said[1]


def test_an_accepted_name_is_a_source_with_its_own_pool(tmp_path, pool, damaged):
    folder = tmp_path / "baselines"
    accept(str(damaged(0.1)), "main", folder, pool.path)
    source = resolve("main", folder)
    assert source.verifier == "vhs"
    assert source.load().checkpoint_sha256 != resolve("vhs").load().checkpoint_sha256
    found = baselines.pool_of("main", folder)
    assert found is not None
    assert found.sha256 == pool.sha256
    assert baselines.pool_of("vhs", folder) is None
    manifest = folder / "main" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(pool.sha256, "0" * 64))
    with pytest.raises(BaselineError, match=r"baseline 'main' .* another pool .*--pool"):
        baselines.pool_of("main", folder)


def test_baselines_and_their_pools_may_move_together(tmp_path, pool):
    shutil.copytree(pool.path, tmp_path / "here" / "pool")
    folder = tmp_path / "here" / "baselines"
    entry = accept("vhs", "main", folder, tmp_path / "here" / "pool")
    assert entry["pool"]["path"] == "../pool"
    (tmp_path / "here").rename(tmp_path / "there")
    found = baselines.pool_of("main", tmp_path / "there" / "baselines")
    assert found is not None
    assert found.sha256 == pool.sha256


def test_damage_is_found(tmp_path):
    folder = tmp_path / "baselines"
    accept("vhs", "main", folder)
    config = baselines.content_of("main", folder) / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(BaselineError, match=r"baseline 'main': .*config\.json is missing or has changed"):
        resolve("main", folder)


class Killed(BaseException):
    """What a kill looks like from inside: nothing is tidied up."""


class KilledAt:
    """Ends the process, as it were, at one of the steps that change files below a folder."""

    CHANGES: ClassVar = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open"}

    def __init__(self) -> None:
        self.left, self.below = -1, ""
        sys.addaudithook(self.hook)  # forever: Python has no way to take one away

    def hook(self, event, values):
        if self.left < 0 or event not in self.CHANGES:
            return
        if event == "open" and not (isinstance(values[1], str) and set(values[1]) & set("wax+")):
            return
        if self.below in str(values[0]) or event == "os.remove":  # by a bare name, inside rmtree
            self.left -= 1
            if self.left < 0:
                raise Killed(event)


@pytest.fixture(scope="module")
def kill():
    return KilledAt()


def checkpoint(folder, text):
    """A folder that is taken for a VHS."""
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "verifier.json").write_text('{"kind": "vhs"}')
    (folder / "part" / "note.txt").write_text(text)
    return folder


@pytest.mark.parametrize("legacy", [False, True], ids=["", "content without hash"])
def test_an_acceptance_killed_at_any_step_leaves_the_old_or_the_new(tmp_path, kill, legacy):
    old, new = (checkpoint(tmp_path / name, name) for name in ("old", "new"))
    start, folder = tmp_path / "start", tmp_path / "baselines"
    first = accept(str(old), "main", start)
    if legacy:  # as baselines were before
        (start / "main" / first.pop("content")).rename(start / "main" / "content")
        (start / "main" / "manifest.json").write_text(json.dumps(first))
    found = []
    for step in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        kill.left, kill.below = step, str(folder)
        try:
            accept(str(new), "main", folder)
        except Killed:
            pass
        else:
            break
        finally:
            ended, kill.left = kill.left, -1
        assert ended == -1
        (listed,) = baselines.listing(folder)
        text = (baselines.content_of("main", folder) / "part" / "note.txt").read_text()
        assert (text == "old") == (listed["sha256"] == first["sha256"])
        assert resolve("main", folder).verifier == "vhs"
        found.append(text)
        again = accept(str(new), "main", folder)
        logged = [e["sha256"] for e in baselines.history(folder)]
        assert list(dict.fromkeys(logged)) == [first["sha256"], again["sha256"]]
        assert sorted(f.name for f in (folder / "main").iterdir()) == [again["content"], "manifest.json"]
    assert found == sorted(found, reverse=True)  # the old until one step, the new from then on
    assert set(found) == {"old", "new"}
    assert len(found) > 8


def test_a_baseline_replaced_while_it_is_read_is_the_new_one(tmp_path, monkeypatch):
    old, new = (checkpoint(tmp_path / name, name) for name in ("old", "new"))
    folder = tmp_path / "baselines"
    accept(str(old), "main", folder)
    real, manifests = baselines._manifest, []

    def slow(name, where):
        entry = real(name, where)
        if not manifests:
            manifests.append(entry)
            manifests.append(accept(str(new), "main", folder))
        return entry

    monkeypatch.setattr(baselines, "_manifest", slow)
    assert baselines.read("main", folder) == manifests[1]


def test_the_same_again_keeps_its_content(tmp_path):
    folder = tmp_path / "baselines"
    first, second = (accept("vhs", "main", folder) for _ in range(2))
    assert second["content"] == first["content"]
    assert second["replaces"] == first["sha256"] == second["sha256"]
    assert resolve("main", folder).verifier == "vhs"


@pytest.mark.parametrize("content", ["..", "/", "content/..", "", None, 3])
def test_a_manifest_leads_nowhere_else(tmp_path, content):
    folder = tmp_path / "baselines"
    entry = accept("vhs", "main", folder)
    (folder / "main" / "manifest.json").write_text(json.dumps(entry | {"content": content}))
    with pytest.raises(BaselineError, match=r"manifest\.json is damaged: its 'content'"):
        baselines.read("main", folder)


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", ""])
def test_a_name_leads_nowhere_else(tmp_path, name):
    if name:
        with pytest.raises(BaselineError, match=f"'{re.escape(name)}' is not a valid name"):
            accept("vhs", name, tmp_path / "baselines")
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
