"""Pushed to a URL or folder, and pulled: the same files, or one sentence that names what is wrong, and no target."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.locks import hold
from vhsbench.harness.config.run import kept_config, parse
from vhsbench.harness.sharing.kinds import KINDS
from vhsbench.harness.sharing.places import Repository, place
from vhsbench.harness.sharing.pull import pull
from vhsbench.harness.sharing.push import push
from vhsbench.harness.sharing.sums import SUMS, sums_of
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.protocol import of_run

RUN, POOL, VERIFIER = KINDS["run"], KINDS["pool"], KINDS["verifier"]
TABLES = ["candidates", "costs", "incidents", "scores", "verdicts"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    return f"memory://{uuid.uuid4().hex}/it" if request.param == "memory" else f"file://{tmp_path}/there/it"


def test_a_run_comes_back_with_its_tables_and_pictures_and_nothing_derived(finished, url, tmp_path):
    made = push(str(finished), url, RUN)
    back = pull(url, tmp_path / "back", RUN, made.sha256)
    assert (back.sha256, back.commit, made.commit) == (made.sha256, None, None)
    found = bytes_of(tmp_path / "back")
    notes = [line for line in found.pop(SUMS).decode().splitlines() if line.startswith("# ")]
    assert notes[1].startswith(f"# pulled from {url}, ")
    digests = load_run(finished).info["digests"]
    assert found.keys() == {"run.json", *digests}
    assert {name: bytes_of(finished)[name] for name in found} == found
    assert sorted(name for name in found if name.endswith(".parquet")) == [f"{t}.parquet" for t in TABLES]
    assert sum(name.endswith(".png") for name in found) == 2
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["pool", "verifier"])
def test_a_pool_and_a_checkpoint_come_back(kind, pool, checkpoint, tmp_path):
    source = {"pool": pool, "verifier": checkpoint}[kind]
    made = push(str(source), str(tmp_path / "there"), KINDS[kind])
    pull(str(tmp_path / "there"), tmp_path / "back", KINDS[kind])
    found = bytes_of(tmp_path / "back")
    assert set(found) - {SUMS} == set(bytes_of(source)) - {"README.md"}
    assert made.files == len(found) - 1
    assert {name: bytes_of(source)[name] for name in found if name != SUMS} == {
        n: d for n, d in found.items() if n != SUMS
    }


def test_the_card_says_what_was_measured_on_what_and_by_which_configuration(run, tmp_path):
    info = json.loads((run / "run.json").read_text())
    info["environments"] = [{"command": "vhsbench run a.yaml", "git_commit": "0123abc"}]
    (run / "run.json").write_text(json.dumps(info))
    made = push(str(run), str(tmp_path / "there"), RUN)
    _, head, text = (tmp_path / "there" / "README.md").read_text().split("---\n", 2)
    assert "| commit | 0123abc |" in text
    assert "| command | vhsbench run a.yaml |" in text
    configs = yaml.safe_load(head)["configs"]
    assert configs == [{"config_name": t, "data_files": f"{t}.parquet"} for t in TABLES]
    assert "| prompts | 8 |" in text
    assert "| device | test |" in text
    assert "| 140 | nano | 1 | VHS | 2+ | 91 |" in text
    assert f"run pull {tmp_path}/there run --sha256 {made.sha256}" in text
    config = text.split("```yaml\n")[1].split("```")[0]
    assert f"with 95% intervals, protocol `{of_run(load_run(run)).digest}`" in text
    assert parse(config, "card") == kept_config(load_run(run))


def test_a_checkpoints_own_card_is_kept_and_one_without_gets_one(checkpoint, tmp_path):
    push(str(checkpoint), str(tmp_path / "there"), VERIFIER)
    own = (checkpoint / "README.md").read_text().split("---\n", 2)
    _, head, text = (tmp_path / "there" / "README.md").read_text().split("---\n", 2)
    assert text.strip().startswith(own[2].strip())
    assert yaml.safe_load(head) == {
        **yaml.safe_load(own[1]),
        "tags": ["vhsbench", "best-of-n", "text-to-image"],
    }
    bare = shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
    push(str(bare), str(tmp_path / "other"), VERIFIER)
    assert "| generator | nano |" in (tmp_path / "other" / "README.md").read_text()


def damage(folder: Path) -> None:
    data = bytearray((folder / "scores.parquet").read_bytes())
    data[100] ^= 1
    (folder / "scores.parquet").write_bytes(data)


def lose(folder: Path) -> None:
    (folder / "scores.parquet").unlink()


def add(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "file").touch()


def pipe(folder: Path) -> None:
    (folder / "scores.parquet").unlink()
    os.mkfifo(folder / "scores.parquet")


def grow(folder: Path) -> None:
    os.truncate(folder / "scores.parquet", 1 << 20)


def unfinished(folder: Path) -> None:
    (folder / SUMS).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "{there}/scores.parquet is damaged: its SHA-256 is not the one in SHA256SUMS."),
        (lose, "{there} lacks the file 'scores.parquet', which its SHA256SUMS lists."),
        (add, "{there} has a file 'more/file' that its SHA256SUMS does not list."),
        (pipe, "{there}/scores.parquet is a pipe, not a regular file."),
        (grow, "{there}/scores.parquet is damaged: its SHA-256 is not the one in SHA256SUMS."),
        (unfinished, "{there} has no SHA256SUMS: nothing was pushed there, or a push has not ended."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_is_not_as_it_was_pushed_is_named_and_not_taken(finished, tmp_path, change, said):
    there = tmp_path / "there"
    push(str(finished), str(there), RUN)
    change(there)
    with pytest.raises(VhsbenchError) as error:
        pull(str(there), tmp_path / "back", RUN)
    assert str(error.value) == said.format(there=there)
    assert not (tmp_path / "back").exists()


def relisted(there: Path) -> None:
    """List what is there, as someone does who makes up a push."""
    names = [n for n in bytes_of(there) if n not in (SUMS, "README.md")]
    found = {n: hashlib.sha256((there / n).read_bytes()).hexdigest() for n in names}
    (there / SUMS).write_bytes(sums_of(found, "").data())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "{there}/scores.parquet is damaged: its SHA-256 is not the one in run.json"),
        (add, "{there} has a file 'more/file' that is no part of a run."),
        (lambda there: (there / "images/nano/00000_0000.png").write_bytes(b"other"), "{there}/images/nano/00000_0000.png is damaged: its SHA-256 is not the one in run.json."),
        (lambda there: (there / "images/nano/00000_0000.png").unlink(), "{there} lacks the file 'images/nano/00000_0000.png', which its run.json lists."),
    ],
)  # fmt: skip
def test_what_is_listed_anew_must_be_what_the_run_itself_records(finished, tmp_path, change, said):
    there = tmp_path / "there"
    push(str(finished), str(there), RUN)
    change(there)
    relisted(there)
    with pytest.raises(VhsbenchError) as error:
        pull(str(there), tmp_path / "back", RUN)
    assert str(error.value).startswith(said.format(there=there))
    assert not (tmp_path / "back").exists()


def test_an_interrupted_pull_goes_on_with_the_files_that_are_whole(finished, tmp_path, monkeypatch):
    push(str(finished), str(tmp_path / "there"), RUN)
    read, blocks = [], Folder.blocks

    def stopped(self, name, most):
        read.append(name)
        if name == "scores.parquet":
            yield b"the first bytes"
            raise KeyboardInterrupt
        yield from blocks(self, name, most)

    monkeypatch.setattr(Folder, "blocks", stopped)
    with pytest.raises(KeyboardInterrupt):
        pull(str(tmp_path / "there"), tmp_path / "back", RUN)
    assert not (tmp_path / "back").exists()
    stage = tmp_path / ".back.part" / "files"
    kept = {name for name in bytes_of(stage) if name != "scores.parquet"}
    assert kept
    (stage / "stray").write_text("of another pull")
    (stage / "images" / "out").symlink_to(tmp_path)
    monkeypatch.setattr(Folder, "blocks", blocks)
    again = []
    monkeypatch.setattr(
        Folder, "blocks", lambda self, name, most: again.append(name) or blocks(self, name, most)
    )
    pull(str(tmp_path / "there"), tmp_path / "back", RUN)
    assert kept.isdisjoint(again)
    assert "scores.parquet" in again
    assert bytes_of(tmp_path / "back").keys() == {*load_run(finished).info["digests"], "run.json", SUMS}
    assert not (tmp_path / ".back.part").exists()


def test_two_pulls_do_not_mix_and_nothing_is_overwritten(finished, tmp_path):
    there = tmp_path / "there"
    push(str(finished), str(there), RUN)
    (tmp_path / ".back.part").mkdir()
    with hold(tmp_path / ".back.part" / "lock"), pytest.raises(VhsbenchError) as error:
        pull(str(there), tmp_path / "back", RUN)
    assert (
        str(error.value)
        == f"{tmp_path}/back is being pulled by another process (pid {os.getpid()}); wait for it."
    )
    (tmp_path / "back").mkdir()
    with pytest.raises(VhsbenchError, match="back exists already; pull into a new folder"):
        pull(str(there), tmp_path / "back", RUN)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(VhsbenchError, match="link exists already"):
        pull(str(there), tmp_path / "link", RUN)


def test_an_interrupted_push_is_done_again_and_what_is_there_stays(finished, run, tmp_path, monkeypatch):
    there = tmp_path / "there"
    write = Folder.write_blocks

    def stopped(self, name, blocks):
        if name == "scores.parquet":
            raise KeyboardInterrupt
        write(self, name, blocks)

    monkeypatch.setattr(Folder, "write_blocks", stopped)
    with pytest.raises(KeyboardInterrupt):
        push(str(finished), str(there), RUN)
    with pytest.raises(
        VhsbenchError, match="there has no SHA256SUMS: nothing was pushed there, or a push has not ended"
    ):
        pull(str(there), tmp_path / "back", RUN)
    monkeypatch.undo()
    made = push(str(finished), str(there), RUN)
    before = bytes_of(there)
    assert push(str(finished), str(there), RUN) == made
    (run / "run.json").write_text((run / "run.json").read_text().replace('"made"', '"other"'))
    with pytest.raises(
        VhsbenchError, match="there holds another push, which stays as it is; choose another place"
    ):
        push(str(run), str(there), RUN)
    assert bytes_of(there) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(
        VhsbenchError, match=r"mine holds other files, first 'thesis\.tex'; choose an empty place"
    ):
        push(str(finished), str(tmp_path / "mine"), RUN)


def still_running(run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "running"}))


def leads_out(run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    info["digests"]["../secret"] = "0" * 64
    (run / "run.json").write_text(json.dumps(info))


def of_an_earlier_version(run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    del info["digests"]
    (run / "run.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (still_running, "the run in {run} is not finished; "),
        (damage, "{run}/scores.parquet is damaged: its SHA-256 is not the one in run.json"),
        (lambda run: (run / "images/nano/00000_0000.png").write_bytes(b""), "{run}/images/nano/00000_0000.png is damaged"),
        (lambda run: (run / "images/nano/00000_0000.png").unlink(), "the run in {run} lacks its file 'images/nano/00000_0000.png'"),
        (leads_out, "{run} names '../secret', which is not a plain path inside the folder."),
        (of_an_earlier_version, "{run} was finished by an earlier version, which kept no digests"),
    ],
)  # fmt: skip
def test_what_is_not_finished_or_not_whole_is_not_pushed(run, tmp_path, change, said):
    change(run)
    with pytest.raises(VhsbenchError) as error:
        push(str(run), str(tmp_path / "there"), RUN)
    assert str(error.value).startswith(said.format(run=run))
    assert not (tmp_path / "there").exists()


def test_a_file_that_changes_during_the_push_is_not_taken_for_what_was_hashed(run, tmp_path, monkeypatch):
    write = Folder.write_blocks

    def changed(self, name, blocks):
        if name == "scores.parquet":
            damage(run)
        write(self, name, blocks)

    monkeypatch.setattr(Folder, "write_blocks", changed)
    with pytest.raises(VhsbenchError, match=r"run/scores\.parquet changed while it was pushed"):
        push(str(run), str(tmp_path / "there"), RUN)
    assert not (tmp_path / "there" / SUMS).exists()


def test_what_was_not_asked_for_is_refused(finished, tmp_path):
    there = str(tmp_path / "there")
    push(str(finished), there, RUN)
    with pytest.raises(VhsbenchError, match=r"there is not what was asked for: its SHA-256 is .*, not abc"):
        pull(there, tmp_path / "back", RUN, "abc")
    with pytest.raises(VhsbenchError, match="there holds a run: use `vhsbench run pull`"):
        pull(there, tmp_path / "back", POOL)
    with pytest.raises(VhsbenchError, match="is not on the hub, where alone --private means something"):
        push(str(finished), there, RUN, private=True)


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("me/run", RUN, Repository("dataset", "me/run")),
        ("me/run@abc", RUN, Repository("dataset", "me/run", "abc")),
        ("me/v", VERIFIER, Repository("model", "me/v")),
        ("hf://datasets/me/run@refs/pr/1", RUN, Repository("dataset", "me/run", "refs/pr/1")),
        ("hf://me/v", VERIFIER, Repository("model", "me/v")),
        ("./me/run", RUN, "./me/run"),
        ("/me/run", RUN, "/me/run"),
        ("s3://me/run", RUN, "s3://me/run"),
    ],
)
def test_a_place_is_read_one_way(text, kind, found):
    assert place(text, kind) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run", "'run' is no place: give owner/name of a hub repository, a URL, or a folder as ./run."),
        ("a/b/c", "'a/b/c' is no place: give owner/name of a hub repository, a URL, or a folder as ./a/b/c."),
        ("hf://me/run", "'hf://me/run' is a model, but a run is shared as a dataset: hf://datasets/me/run."),
        ("hf://datasets/me/run/tables", "'hf://datasets/me/run/tables' is no hub repository: give owner/name or owner/name@revision."),
    ],
)  # fmt: skip
def test_no_place_is_one_sentence(text, said):
    with pytest.raises(VhsbenchError) as error:
        place(text, RUN)
    assert str(error.value) == said


def test_the_commands_stand_beside_run_and_pool(finished, pool, tmp_path):
    runner = CliRunner()
    for kind, folder in (("run", finished), ("pool", pool)):
        there, back = tmp_path / f"{kind}s", tmp_path / f"{kind}-back"
        pushed = runner.invoke(app, [kind, "push", str(folder), str(there), "--json"])
        said = json.loads(pushed.stdout)
        assert said["pull"] == f"vhsbench {kind} pull {there} FOLDER --sha256 {said['sha256']}"
        command = said["pull"].replace("FOLDER", str(back)).split()[1:]
        assert json.loads(runner.invoke(app, [*command, "--json"]).stdout)["files"] == said["files"]
        assert (back / SUMS).exists()
    lasting = runner.invoke(app, ["run", "push", str(finished), "memory://run"])
    assert "is in this process's memory" in str(lasting.exception)
    assert "no file and no bundled configuration" in str(runner.invoke(app, ["run", "./push"]).exception)
    assert "--engine" in runner.invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).stdout
