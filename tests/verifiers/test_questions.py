"""Tokenizers and chat templates of others are tried out in a child process with limits before they are used."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from vhsbench import verifiers
from vhsbench.harness.common.files import ReadError
from vhsbench.verifiers import questions
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.nano.models import TEMPLATE
from vhsbench.verifiers.questions import read_question

CHAT = (WEIGHTS / "vhs/chat_template.jinja").read_text(encoding="utf-8")
VOCABULARY = 76


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files of a tokenizer, with a chat template that nobody knows."""
    for file in (WEIGHTS / "vhs").iterdir():
        if "tokenizer" in file.name:
            shutil.copy(file, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHAT + "{# another #}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def tried_here(monkeypatch):
    """Has the child's program run in this process, without limits: loading torch there takes seconds each time."""

    def run(command, **_):
        folder, template, seconds = command[-3:]
        said = io.StringIO()
        with redirect_stderr(said):
            code = questions.main(Path(folder), template, int(seconds))
        return subprocess.CompletedProcess(command, code, b"", said.getvalue().encode())

    monkeypatch.setattr(questions, "_limit", lambda _: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # as it sets it, but for this test alone


def split_by(folder: Path, pattern: str) -> None:
    file = folder / "tokenizer.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    said["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, said["pre_tokenizer"]]}
    file.write_text(json.dumps(said), encoding="utf-8")


def test_a_stranger_is_tried_out_once_and_asks_as_it_did(folder, monkeypatch):
    started = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: started.append(a) or run(*a, **k))
    bundled = read_question(WEIGHTS / "vhs", TEMPLATE, VOCABULARY)
    assert started == []
    for _ in range(2):
        found = read_question(folder, TEMPLATE, VOCABULARY)
        assert len(started) == 1
        assert found.before_ids == bundled.before_ids
        assert found.after_ids(["a red star"])[0].tolist() == bundled.after_ids(["a red star"])[0].tolist()


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than 2 s"),
        ("{% set x = 'a' * (2 ** 33) %}", "cannot ask the question"),
        ("{{ raise_exception('no') }}", "cannot ask the question: no"),
    ],
)  # fmt: skip
def test_a_hostile_template_is_one_sentence(folder, monkeypatch, chat, said):
    monkeypatch.setattr(questions, "CPU_S", 2)
    refused(folder, chat, said)


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ("{{ messages[0].content }}", r"cannot ask the question: the chat has <image> 2 times, not once"),
        ("{{ messages[0].content.replace('<image>', '') }}", r"the chat has \{prompt\} 2 times after <image>, not once"),
        ("{% for", "cannot ask the question"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_one_sentence(folder, tried_here, chat, said):
    refused(folder, chat, said)


def refused(folder, chat, said):
    """Another template is refused in these words."""
    (folder / "chat_template.jinja").write_text(CHAT + chat, encoding="utf-8")
    with pytest.raises(ReadError, match=said) as error:
        read_question(folder, TEMPLATE, VOCABULARY)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_template_without_the_prompt_is_refused(folder, tried_here):
    (folder / "chat_template.jinja").write_text("<image> what is this?", encoding="utf-8")
    with pytest.raises(ReadError, match=r"the chat has \{prompt\} 0 times after <image>, not once"):
        read_question(folder, TEMPLATE, VOCABULARY)


def test_a_pattern_that_takes_for_ever_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(questions, "CPU_S", 2)
    split_by(folder, r"(\w+\s?)+$")
    with pytest.raises(
        ReadError, match=r"its tokenizer fails on ordinary text: .*[Rr]egex|takes more than 2 s"
    ):
        read_question(folder, TEMPLATE, VOCABULARY)


def test_a_token_beyond_the_embeddings_is_named(folder, tried_here):
    with pytest.raises(
        ReadError, match=r"the token '.+' of its tokenizer is number 75, but its model has 75 embed"
    ):
        read_question(folder, TEMPLATE, VOCABULARY - 1)


def test_a_checkpoint_of_such_a_template_is_refused(folder, tried_here, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "vhs"
    shutil.copytree(WEIGHTS / "vhs", checkpoint)
    (checkpoint / "chat_template.jinja").write_text(CHAT + CHAT, encoding="utf-8")
    with pytest.raises(
        CheckpointError, match="cannot ask the question: the chat has <image> 2 times, not once"
    ):
        verifiers.create("vhs", checkpoint=checkpoint)
