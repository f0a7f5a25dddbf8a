"""The hub, by its real client: a push is a commit of exactly the files, and a pull takes a commit."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfFileSystem
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.sharing.cards import card
from vhsbench.harness.sharing.kinds import KINDS
from vhsbench.harness.sharing.pull import pull
from vhsbench.harness.sharing.push import push
from vhsbench.harness.sharing.sums import SUMS

MODULE = runpy.run_path(str(Path(__file__).with_name("hub.py")))
TOKEN = MODULE["TOKEN"]
RUN, VERIFIER = KINDS["run"], KINDS["verifier"]
APART = {".gitattributes", "README.md", SUMS}


@pytest.fixture(scope="module")
def cards() -> dict[Any, str]:
    """The cards that were written: the same run is pushed to the same place many times."""
    return {}


@pytest.fixture
def hub(monkeypatch, tmp_path, cards):
    def once(folder: Path, kind: Any, sums: Any, place: str) -> str:
        key = kind.name, sums.sha256, place
        if key not in cards:
            cards[key] = card(folder, kind, sums, place)
        return cards[key]

    monkeypatch.setattr("vhsbench.harness.sharing.push.card", once)
    hub = MODULE["Hub"]()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("vhsbench.generators.hub._known", {})
    HfFileSystem.clear_instance_cache()
    yield hub
    HfFileSystem.clear_instance_cache()
    hub.server.shutdown()
    hub.server.server_close()


def files(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def changed(run: Path) -> None:
    """The same run without its last picture."""
    info = json.loads((run / "run.json").read_text())
    del info["digests"]["images/nano/00000_0001.png"]
    (run / "run.json").write_text(json.dumps(info))


def test_a_push_is_one_commit_of_exactly_its_files_and_a_pull_of_it_is_pinned(hub, finished, run, tmp_path):
    first = push(str(finished), "me/run", RUN)
    repo = hub.repos["datasets/me/run"]
    assert (first.commit, len(repo.commits)) == (repo.head, 2)  # the hub's own, and the push
    assert set(repo.commits[repo.head]) - APART == {
        "run.json",
        *json.loads((finished / "run.json").read_text())["digests"],
    }
    assert "vhsbench run pull me/run run --sha256" in repo.commits[repo.head]["README.md"].decode()
    changed(run)
    second = push(str(run), "me/run", RUN)
    assert set(repo.commits[first.commit]) - set(repo.commits[second.commit]) == {
        "images/nano/00000_0001.png"
    }

    now = pull("me/run", tmp_path / "now", RUN)
    assert (now.commit, now.place) == (second.commit, f"me/run@{second.commit}")
    assert f"# pulled from me/run@{second.commit}, " in (tmp_path / "now" / SUMS).read_text()
    then = pull(first.pull[2], tmp_path / "then", RUN, first.sha256)
    assert then.commit == first.commit
    assert {n: d for n, d in files(tmp_path / "then").items() if n != SUMS} == {
        n: d for n, d in repo.commits[first.commit].items() if n not in APART
    }
    assert push(str(run), "me/run", RUN) == second
    assert len(repo.commits) == 3


def test_an_interrupted_push_shows_nothing_and_goes_on(hub, finished):
    def fault(method: str, path: str) -> int | None:
        uploaded = sum(m == "PUT" for m, _ in hub.asked)
        return 403 if method == "PUT" and uploaded > 3 else None

    hub.fault = fault
    with pytest.raises(
        VhsbenchError, match=r"^'me/run' is not available: your token may not write to it \(403\)"
    ):
        push(str(finished), "me/run", RUN)
    assert set(hub.repos["datasets/me/run"].commits[hub.repos["datasets/me/run"].head]) == {".gitattributes"}
    there = set(hub.large)
    assert there
    hub.fault = lambda method, path: None
    hub.asked.clear()
    made = push(str(finished), "me/run", RUN)
    assert made.commit == hub.repos["datasets/me/run"].head
    assert there.isdisjoint(path.rpartition("/")[2] for method, path in hub.asked if method == "PUT")


def test_many_files_take_several_commits_of_which_the_last_alone_is_whole(
    hub, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr("vhsbench.harness.sharing.hub._MOST", 4)
    made = push(str(finished), "me/run", RUN)
    commits = hub.repos["datasets/me/run"].commits
    assert [SUMS in found for found in commits.values()] == [False, False, False, True]
    assert made.commit == list(commits)[-1]
    with pytest.raises(
        VhsbenchError, match="has no SHA256SUMS: nothing was pushed there, or a push has not ended"
    ):
        pull(f"me/run@{list(commits)[-2]}", tmp_path / "back", RUN)


def test_a_pushed_verifier_is_a_model_that_a_run_downloads(hub, checkpoint, tmp_path):
    made = push(str(checkpoint), "me/vhs", VERIFIER, private=True)
    assert hub.repos["models/me/vhs"].private
    pull(f"me/vhs@{made.commit}", tmp_path / "back", VERIFIER)
    assert {n: d for n, d in files(tmp_path / "back").items() if n != SUMS} == {
        n: d for n, d in files(checkpoint).items() if n != "README.md"
    }
    assert HfFileSystem().cat_file("me/vhs/README.md").decode().startswith("---\nlibrary_name: vhsbench\n")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("scores.parquet", b"other", "me/run@{head}/scores.parquet is damaged: its SHA-256 is not the one in SHA256SUMS."),
        ("scores.parquet", None, "me/run@{head} lacks the file 'scores.parquet', which its SHA256SUMS lists."),
        ("more.py", b"", "me/run@{head} has a file 'more.py' that its SHA256SUMS does not list."),
        (SUMS, b"0  a", "me/run@{head}/SHA256SUMS, line 1, is not a SHA-256, two spaces and the name of a file."),
    ],
)  # fmt: skip
def test_what_someone_changed_on_the_hub_is_named(hub, finished, tmp_path, name, data, said):
    push(str(finished), "me/run", RUN)
    repo = hub.repos["datasets/me/run"]
    found = {n: d for n, d in repo.commits[repo.head].items() if n != name} | (
        {} if data is None else {name: data}
    )
    repo.commit(found | {"README.md": b"edited by hand, which changes nothing"})
    with pytest.raises(VhsbenchError) as error:
        pull("me/run", tmp_path / "back", RUN)
    assert str(error.value) == said.format(head=repo.head)
    assert not (tmp_path / "back").exists()


def test_refusals_are_one_sentence(hub, finished, tmp_path, monkeypatch):
    def refused(do: Any, *args: Any, **how: Any) -> str:
        with pytest.raises(VhsbenchError) as error:
            do(*args, **how)
        assert TOKEN not in str(error.value)
        return str(error.value)

    take = (tmp_path / "back", RUN)
    assert refused(pull, "me/none", *take).startswith("the hub has no repository 'me/none', or it is private")
    push(str(finished), "me/run", RUN)
    assert refused(pull, "me/run@walk", *take) == "'me/run' has no revision 'walk'."
    assert (
        refused(push, str(finished), "me/run@main", RUN)
        == "a push makes a new commit of main; leave out '@main'."
    )
    assert "is there and public; leave out --private" in refused(
        push, str(finished), "me/run", RUN, private=True
    )
    hub.repos["datasets/me/mine"] = type(hub.repos["datasets/me/run"])()
    hub.repos["datasets/me/mine"].commit({"thesis.tex": b""})
    assert "'me/mine' holds files that no push put there, first 'thesis.tex'" in refused(
        push, str(finished), "me/mine", RUN
    )

    def another(method: str, path: str) -> None:
        if path.endswith("/commit/main"):
            hub.repos["datasets/me/run"].commit({})

    hub.fault = another
    other = shutil.copytree(finished, tmp_path / "other")
    changed(other)
    assert (
        refused(push, str(other), "me/run", RUN)
        == "'me/run' got another commit while this was pushed; push again."
    )
    hub.fault = lambda method, path: None
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert (
        refused(push, str(finished), "me/new", RUN)
        == "'me/new' is not available: the hub refused your token (401); log in with 'hf auth login' or set HF_TOKEN."
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert (
        refused(pull, "me/run", *take)
        == "the hub cannot be reached for 'me/run'; connect (without HF_HUB_OFFLINE), or use a URL or folder."
    )


def test_the_command_line_prints_the_pin_and_never_a_token(hub, finished, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    runner = CliRunner()
    pushed = runner.invoke(app, ["run", "push", str(finished), "me/run"])
    head = hub.repos["datasets/me/run"].head
    assert pushed.stdout.splitlines()[1] == f"pull it with: vhsbench run pull me/run@{head} FOLDER"
    pulled = runner.invoke(app, ["run", "pull", f"me/run@{head}", str(tmp_path / "back"), "--json"])
    assert json.loads(pulled.stdout)["commit"] == head
    assert TOKEN not in pushed.output + pulled.output + (tmp_path / "back" / SUMS).read_text() + caplog.text
