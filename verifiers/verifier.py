"""The three verifiers: VHS on hidden states, MLLM w/ AE on latents, MLLM w/ CLIP on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from verifiers.features import Normalize, flatten_latents, load_clip
from verifiers.mllm import (
    CheckpointError,
    Mllm,
    Question,
    VerifierCard,
    answer_scores,
    checkpoint_sha256,
    load_checkpoint,
)
from verifiers.protocol import Needs, Scores, VerifierInfo

NEEDS: dict[str, Needs] = {"vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images"}


class MllmVerifier:
    """A checkpoint that scores features: one forward a batch, the answer position's logits alone."""

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
        if len(prompts) != len(features):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(features)} features.")
        visual = self.tokens(features)
        if visual.shape[-1] != self.card.feature_width:
            raise ValueError(
                f"verifier '{self.name}' reads features of width {self.card.feature_width}, "
                f"but was given {list(visual.shape)}."
            )
        before = torch.tensor(self.question.before_ids, device=self.device)
        after, lengths = self.question.after_ids(prompts)
        weight = self.model.connector[0].weight
        states = self.model.states(before, visual.to(weight), after.to(self.device))
        start = len(before) + visual.shape[1] - 1
        last = states[torch.arange(len(prompts)), start + lengths]
        return answer_scores(self.model.logits(last), self.question)

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


def load_verifier(
    name: str,
    folder: Path,
    *,
    clip_folder: Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    source: str = "",
) -> MllmVerifier:
    """The verifier in `folder`. Raises CheckpointError if it is not one of kind `name`."""
    device = torch.device(device)
    model, question, card = load_checkpoint(folder, device, dtype)
    if card.kind != name:
        raise CheckpointError(f"checkpoint {folder} holds a '{card.kind}' verifier, not '{name}'.")
    extra = 0
    tokens: Callable[[Any], torch.Tensor]
    if card.kind == "vhs":
        statistics = folder / "normalization.safetensors"
        if not statistics.is_file():
            raise CheckpointError(f"VHS checkpoint {folder} has no normalization.safetensors.")
        tensors = load_file(statistics)
        tokens = Normalize(tensors["mean"], tensors["variance"]).to(device)
    elif card.kind == "mllm-ae":
        tokens = flatten_latents
    else:
        if clip_folder is None:
            raise CheckpointError(f"verifier '{name}' needs a CLIP model, and none was given.")
        tokens = load_clip(clip_folder, device)
        extra = sum(p.numel() for p in tokens.model.visual.parameters())
    return MllmVerifier(
        name, model, question, card, tokens,
        checkpoint_sha256=checkpoint_sha256(folder), extra_parameters=extra, source=source,
    )  # fmt: skip
