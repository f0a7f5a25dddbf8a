"""Pretraining of the language model: it learns, survives a kill, and is loaded by its folder as any Qwen2."""

from __future__ import annotations

import pytest
import torch

from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.nano.models import TEMPLATE, llm_tokenizer
from vhsbench.verifiers.training.build import build
from vhsbench.verifiers.training.llm import _Encoder, right_answers, save_llm, train_llm
from vhsbench.verifiers.training.losses import IGNORED
from vhsbench.verifiers.training.recipe import VerifierRecipe


def texts(step):
    return [("one star describe the image", "a red star"), (f"one {'star' if step % 2 else 'ring'}", "yes")]


def test_only_answers_are_predicted_in_chat_format():
    ids, target = _Encoder(llm_tokenizer())([("one star", "yes")])
    words = llm_tokenizer().convert_ids_to_tokens(ids[0].tolist())
    assert words == ["<|im_start|>", "user", "one", "star", "<|im_end|>", "<|im_start|>", "assistant", "yes"]
    assert (target != IGNORED).sum() == 2
    assert llm_tokenizer().convert_ids_to_tokens(target[0, -2:].tolist()) == ["yes", "<|im_end|>"]


def test_it_learns_and_is_loaded_by_its_folder(tmp_path):
    losses: list[float] = []
    llm, _ = train_llm(
        texts, steps=12, seed=0, state_file=tmp_path / "s", report=lambda p: losses.append(p.loss)
    )
    assert losses[-1] < losses[0]
    assert 0 <= right_answers(llm, texts(0)) <= 1
    before = {k: v.clone() for k, v in llm.state_dict().items()}
    save_llm(tmp_path / "llm", llm)
    recipe = VerifierRecipe(kind="mllm-ae", llm={"name": str(tmp_path / "llm")}, template=TEMPLATE)
    mllm, question = build(recipe, VerifierCard("mllm-ae", "nano", None, 4, 64, TEMPLATE, None), 0)
    assert question.yes == llm_tokenizer().get_vocab()["yes"]
    for name, value in mllm.llm.state_dict().items():
        assert torch.allclose(value, before[name].half().float())


def test_a_killed_pretraining_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    import vhsbench.verifiers.training.llm as module

    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **k: fit(*a, **k, save_every_s=-1))

    def killed(step):
        if step == 4:
            raise KeyboardInterrupt
        return texts(step)

    whole = train_llm(texts, steps=7, seed=0, state_file=tmp_path / "a")[0]
    with pytest.raises(KeyboardInterrupt):
        train_llm(killed, steps=7, seed=0, state_file=tmp_path / "b")
    again = train_llm(texts, steps=7, seed=0, state_file=tmp_path / "b")[0]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
