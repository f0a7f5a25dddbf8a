"""Pretrain a small language model on texts, as every verifier's LLM is before it ever sees an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from vhsbench.generators.training import Progress, fit, muon_and_adamw
from vhsbench.verifiers.mllm import pad
from vhsbench.verifiers.nano.models import llm_tokenizer, new_llm
from vhsbench.verifiers.training.losses import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

Dialogue = tuple[str, str]  # what a user says, and the answer
Texts = Callable[[int], Sequence[Dialogue]]  # of a step


def train_llm(
    texts: Texts,
    *,
    steps: int,
    seed: int,
    state_file: Path,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[Qwen2ForCausalLM, float]:
    """Train nano's Qwen2 to answer texts(step), which never come again; return it and the seconds spent."""
    torch.manual_seed(seed)
    encoder = _Encoder(llm_tokenizer())
    llm: Any = new_llm(encoder.tokenizer, {})
    llm.to(device)

    def loss(step: int) -> torch.Tensor:
        ids, target = (t.to(device) for t in encoder(texts(step)))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = _answers(llm, ids, target)
        return F.cross_entropy(logits.float(), target[target != IGNORED])

    seconds = fit("llm", [llm], loss, muon_and_adamw([llm], 4e-3, 2e-3), steps, state_file, report=report)
    return llm, seconds


@torch.inference_mode()
def right_answers(llm: Qwen2ForCausalLM, dialogues: Sequence[Dialogue], device: str = "cpu") -> float:
    """Return the share of tokens of the answers that the model ranks first."""
    ids, target = (t.to(device) for t in _Encoder(llm_tokenizer())(dialogues))
    return float((_answers(llm, ids, target).argmax(-1) == target[target != IGNORED]).float().mean())


def save_llm(folder: Path, llm: Qwen2ForCausalLM) -> None:
    """Write the model in half precision with its tokenizer, as a folder that `verifier.llm.name` reads."""
    model: Any = llm
    model.cpu().half().save_pretrained(folder)
    llm_tokenizer().save_pretrained(folder)


def _answers(llm: Any, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the logits [K, V] of the K tokens in target [B, L] that are not IGNORED."""
    # without a mask SDPA is causal, and what is padded on the right touches nothing before it
    states = llm.model(ids, attention_mask={"full_attention": None}, use_cache=False).last_hidden_state
    logits: torch.Tensor = llm.lm_head(states[target != IGNORED])
    return logits


class _Encoder:
    """Dialogues in chat format as ids [B, L], and the tokens to predict [B, L]: those of the answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._ids = tokenizer.get_vocab()
        chat = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "<said>"}], tokenize=False, add_generation_prompt=True
            )
        )
        self._before, self._after = (part.split() for part in chat.split("<said>"))

    def __call__(self, dialogues: Sequence[Dialogue]) -> tuple[torch.Tensor, torch.Tensor]:
        asked = [self._read([*self._before, *said.split(), *self._after]) for said, _ in dialogues]
        answers = [self._read([*answer.split(), "<|im_end|>"]) for _, answer in dialogues]
        pairs = list(zip(asked, answers, strict=True))
        ids = pad([a + b[:-1] for a, b in pairs], 0)[0]
        target = pad([[IGNORED] * (len(a) - 1) + b for a, b in pairs], IGNORED)[0]
        return ids, target

    def _read(self, words: Sequence[str]) -> list[int]:
        return [self._ids[word] for word in words]
