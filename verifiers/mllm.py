"""The verifier's model (Linear-GELU-Linear connector and a Qwen2 LLM), its question, and the paper's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from vhsbench.verifiers.protocol import QuestionTokens, Scores
from vhsbench.verifiers.qwen import KnownPieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

IMAGE, PROMPT = "<image>", "{prompt}"
# The paper's prompt (Fig. 10, 3) as the official release writes it: one line, no final period.
PAPER_TEMPLATE = (
    "You are an AI assistant specializing in image analysis and ranking. Your task is to analyze "
    "and compare image based on how well they match the given prompt. <image> The given prompt is: "
    "{prompt}. Please consider the prompt and the image to make a decision and response directly "
    "with 'yes' or 'no'"
)


MLP2X = "mlp2x_gelu"  # LLaVA's name for the paper's connector: Linear, GELU, Linear
CONNECTORS = (MLP2X, "linear")


class Mllm(nn.Module):
    """Maps visual features [B, T, C] and a question to the LLM's state where the answer comes next.

    `projector` names the connector as LLaVA's mm_projector_type does: one of CONNECTORS.
    """

    def __init__(self, llm: Qwen2ForCausalLM, feature_width: int, projector: str = MLP2X) -> None:
        super().__init__()
        if projector not in CONNECTORS:
            raise ValueError(f"a connector is {' or '.join(CONNECTORS)}, not '{projector}'.")
        width = llm.config.hidden_size
        self.llm = llm
        self.projector = projector
        first = nn.Linear(feature_width, width)
        self.connector: nn.Module = first
        if projector == MLP2X:
            self.connector = nn.Sequential(first, nn.GELU(), nn.Linear(width, width))

    def states(self, before: torch.Tensor, visual: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Compute hidden states of [before | connector(visual) | after]; see `read`."""
        return self.read(before, self.connector(visual), after)

    def read(self, before: torch.Tensor, projected: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Compute the LLM's hidden states [B, b + T + a, H] of token ids [b], visual tokens [B, T, H], ids [B, a].

        `after` may be padded on the right: attention is causal, so padding touches nothing before it.
        """
        embed = self.llm.get_input_embeddings()
        sequence = torch.cat([embed(before).expand(len(projected), -1, -1), projected, embed(after)], dim=1)
        # without a mask SDPA is causal; to decide so, transformers would look at a mask's values
        output = self.llm.model(
            inputs_embeds=sequence.to(projected.dtype),
            attention_mask={"full_attention": None},
            use_cache=False,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Compute the vocabulary logits of the given states."""
        result: torch.Tensor = self.llm.lm_head(states)
        return result


class Question:
    """Questions in chat format: the text is split at <image>, each part is tokenised alone, without BOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.yes, self.no = (self._ids(word)[0] for word in ("yes", "no"))
        self.yes_ids = tuple(i for t, i in tokenizer.get_vocab().items() if "yes" in t.lower())
        chat = self._chat(template)
        if chat.count(IMAGE) != 1:
            raise ValueError(f"the chat has {IMAGE} {chat.count(IMAGE)} times, not once")
        before, self._after = chat.split(IMAGE)
        self.before_ids = self._ids(before)

    def check(self) -> None:
        """Refuse a template in which the prompt does not come once, after the image; one for captions has none.

        Raises ValueError.
        """
        wanted = min(1, self.template.count(PROMPT))
        if (times := self._after.count(PROMPT)) != wanted:
            raise ValueError(
                f"the chat has {PROMPT} {times} times after {IMAGE}, not {'once' if wanted else 'never'}"
            )

    def after_ids(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokenise the parts after the image: ids [B, a], padded on the right, and their lengths [B].

        The template is split before the prompt goes in, so a prompt may itself contain "<image>".
        """
        rows = [self._ids(self._after.replace("{prompt}", prompt)) for prompt in prompts]
        return pad(rows, self.tokenizer.pad_token_id or 0)

    def tokens(self, prompt: str) -> QuestionTokens:
        """Count the tokens of this prompt's question."""
        return QuestionTokens(len(self.before_ids), int(self.after_ids([prompt])[1]))

    def _chat(self, text: str) -> str:
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return str(chat)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


class StandInQuestion(Question):
    """The question of a random model, which has no tokenizer: Qwen2.5-Instruct's, at its true length.

    Exact for prompts of known words, such as GenEval's; see `verifiers.qwen`.
    """

    def __init__(self) -> None:
        self._known = KnownPieces()
        super().__init__(cast("PreTrainedTokenizerBase", self._known), PAPER_TEMPLATE)

    def tokens(self, prompt: str) -> QuestionTokens:
        guessed = self._known.unknown(self._after.replace("{prompt}", prompt))
        return replace(super().tokens(prompt), guessed=tuple(guessed))


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ids on the right: [B, longest], and lengths [B]."""
    lengths = torch.tensor([len(r) for r in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, lengths


def answer_scores(logits: torch.Tensor, question: Question) -> Scores:
    """Compute the paper's score (A.4) from logits [B, V] at the answer's position.

    The most likely token says yes if its text contains "yes" in any case; of equal logits the first counts.
    """
    p = logits.float().softmax(-1)
    p_yes, p_no = p[:, question.yes], p[:, question.no]
    says_yes = (logits.argmax(-1, keepdim=True) == _ids_on(p.device, question.yes_ids)).any(-1)
    return Scores(p_yes, p_no, torch.where(says_yes, p_yes, -p_no))


@lru_cache
def _ids_on(device: torch.device, ids: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(ids, device=device)  # once: the copy waits for all that the device has yet to do
