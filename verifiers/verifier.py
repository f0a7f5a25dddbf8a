"""The three verifiers: VHS on hidden states, MLLM w/ AE on latents, MLLM w/ CLIP on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.generators.protocol import blocks_of
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.checkpoint import VerifierCard
from vhsbench.verifiers.mllm import Mllm, Question, answer_scores
from vhsbench.verifiers.protocol import Needs, Scores, VerifierInfo

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator

NEEDS: dict[str, Needs] = {"vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images"}
_AXES = {"hidden": 3, "latents": 4}


class HostError(VhsbenchError):
    """A verifier asked to read a generator that it was not made for; one sentence for a user."""


class FeatureError(VhsbenchError):
    """Features that a verifier cannot read; the message is one sentence for a user."""


class MllmVerifier:
    """A model that scores features: one forward a batch, the answer position's logits alone.

    `tokens` turns what the verifier reads into visual tokens [B, T, C]: normalisation, flattening or CLIP.
    """

    def __init__(
        self,
        name: str,
        model: Mllm,
        question: Question,
        card: VerifierCard,
        tokens: Callable[[Any], torch.Tensor],
        *,
        checkpoint_sha256: str = "",
        extra_parameters: int = 0,
        source: str = "",
    ) -> None:
        self.name = name
        self.needs = NEEDS[card.kind]
        self.block = card.block
        self.card = card
        self.model, self.question, self.tokens = model, question, tokens
        self.checkpoint_sha256 = checkpoint_sha256
        self._extra_parameters, self._source = extra_parameters, source

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """See Verifier.score. A row's score does not depend on the other rows."""
        visual = self.visual(prompts, features)
        before, after, lengths = self.text(prompts)
        states = self.model.states(before, visual, after)
        start = len(before) + visual.shape[1] - 1
        last = states[torch.arange(len(prompts), device=self.device), start + lengths]
        return answer_scores(self.model.logits(last), self.question)

    def visual(self, prompts: Sequence[str], features: Any) -> torch.Tensor:
        """Visual tokens [B, T, C] in the model's dtype and on its device, checked."""
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

    def text(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids [b] before the image, ids [B, a] after it, and the latter's lengths [B] without padding."""
        after, lengths = self.question.after_ids(prompts)
        before = torch.tensor(self.question.before_ids, device=self.device)
        return before, after.to(self.device), lengths.to(self.device)

    def check_host(self, generator: Generator) -> None:
        """Raise HostError where the features of `generator` are not those this verifier reads (D)."""
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
            parameters=self._extra_parameters + sum(p.numel() for p in self.model.parameters()),
            tokens=self.card.visual_tokens,
            feature_width=self.card.feature_width,
            generator=self.card.generator,
            source=self._source,
        )
