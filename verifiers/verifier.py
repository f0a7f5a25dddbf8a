"""The three verifiers: VHS on hidden states, MLLM w/ AE on latents, MLLM w/ CLIP on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vhsbench.generators.protocol import blocks_of
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.mllm import Mllm, Question, answer_scores
from vhsbench.verifiers.protocol import Needs, QuestionTokens, Scores, VerifierInfo

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator

NEEDS: dict[str, Needs] = {"vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images"}
_AXES = {"hidden": 3, "latents": 4}
Text = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # see MllmVerifier.text


class HostError(VhsbenchError):
    """A generator that a verifier was not made for; the message is one sentence for a user."""


class FeatureError(VhsbenchError):
    """Features that a verifier cannot read; the message is one sentence for a user."""


class MllmVerifier:
    """A model that scores features: one forward a batch, the answer position's logits alone.

    `tokens` turns what the verifier reads into visual tokens [B, T, C]: normalisation, flattening or CLIP, whose
    module is named by `reads_with`.
    """

    threshold: float | None = 0.5  # what it says yes to

    def __init__(
        self,
        name: str,
        model: Mllm,
        question: Question,
        card: VerifierCard,
        tokens: Callable[[Any], torch.Tensor],
        *,
        checkpoint_sha256: str = "",
        reads_with: Mapping[str, nn.Module] | None = None,
        source: str = "",
    ) -> None:
        self.name = name
        self.needs = NEEDS[card.kind]
        self.block = card.block if card.kind == "vhs" else None
        self.card = card
        self.model, self.question, self.tokens = model, question, tokens
        self.checkpoint_sha256 = checkpoint_sha256
        self._reads_with, self._source = dict(reads_with or {}), source

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def prepare(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """See Verifier.prepare: the text of prompts is all that it reads."""

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """See Verifier.score. A row's score does not depend on the other rows."""
        projected = self.model.connector(self.visual(prompts, features))
        return answer_scores(self._logits(self.text(prompts), projected), self.question)

    def _logits(self, text: Text, projected: torch.Tensor) -> torch.Tensor:
        """Compute the answers' logits [B, V]."""
        before, after, lengths = text
        states = self.model.read(before, projected, after)
        start = states.shape[1] - after.shape[1] - 1  # of the image's last token
        return self.model.logits(states[torch.arange(len(states), device=self.device), start + lengths])

    @torch.inference_mode()
    def parts(self, prompts: Sequence[str], features: Any) -> dict[str, Callable[[], object]]:
        """See Verifier.parts: CLIP where there is one, the connector, the LLM."""
        visual, text = self.visual(prompts, features), self.text(prompts)
        projected = self.model.connector(visual)
        calls: dict[str, Callable[[], object]] = {
            "clip": lambda: self.tokens(features),
            "connector": lambda: self.model.connector(visual),
            "llm": lambda: self._logits(text, projected),
        }
        return {name: torch.inference_mode()(call) for name, call in calls.items() if name in self.modules()}

    def modules(self) -> dict[str, nn.Module]:
        """See Verifier.modules."""
        return {"connector": self.model.connector, "llm": self.model.llm, **self._reads_with}

    def question_tokens(self, prompt: str) -> QuestionTokens:
        """See Verifier.question_tokens."""
        return self.question.tokens(prompt)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: a score is -1, a sure no, to 1, a sure yes."""
        return (score + 1) / 2

    def visual(self, prompts: Sequence[str], features: Any) -> torch.Tensor:
        """Return checked visual tokens [B, T, C] in the model's dtype, on its device. Raises FeatureError."""
        if not prompts or len(prompts) != len(features):
            raise FeatureError(f"{len(prompts)} prompts do not fit {len(features)} features.")
        if isinstance(features, torch.Tensor):
            if features.dim() != _AXES.get(self.needs):
                raise FeatureError(
                    f"verifier '{self.name}' reads {self.needs}, not a tensor {list(features.shape)}."
                )
            channels = features.shape[1 if self.needs == "latents" else -1]
            if channels != self.card.feature_width:
                raise FeatureError(
                    f"verifier '{self.name}' reads features of width {self.card.feature_width}, "
                    f"but was given {list(features.shape)}."
                )
            features = features.to(self.device)
        return self.tokens(features).to(next(self.model.connector.parameters()))

    def text(self, prompts: Sequence[str]) -> Text:
        """Return ids [b] before the image, ids [B, a] after it, and the latter's lengths [B] without padding."""
        after, lengths = self.question.after_ids(prompts)
        before = torch.tensor(self.question.before_ids, device=self.device)
        return before, after.to(self.device), lengths.to(self.device)

    def check_host(self, generator: Generator) -> None:
        """Refuse a generator whose features this verifier does not read (D). Raises HostError."""
        if self.needs != "hidden":
            return
        assert self.block is not None
        if generator.steps != 1:
            raise HostError(
                f"verifier '{self.name}' reads hidden states of one-step generation, "
                f"but '{generator.name}' takes {generator.steps} steps."
            )
        if generator.name != self.card.generator:
            raise HostError(
                f"verifier '{self.name}' reads hidden states of '{self.card.generator}' (block {self.block}, "
                f"width {self.card.feature_width}), not of '{generator.name}': a VHS is trained for one generator."
            )
        if blocks_of(self.block)[-1] >= generator.blocks:
            raise HostError(
                f"verifier '{self.name}' reads block {self.block}, "
                f"but '{generator.name}' has blocks 0 to {generator.blocks - 1}."
            )

    def info(self) -> VerifierInfo:
        return VerifierInfo(
            name=self.name,
            needs=self.needs,
            block=self.block,
            parameters=sum(p.numel() for module in self.modules().values() for p in module.parameters()),
            tokens=self.card.visual_tokens,
            feature_width=self.card.feature_width,
            generator=self.card.generator,
            source=self._source,
        )
