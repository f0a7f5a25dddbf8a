"""Captions by a verifier's model after alignment (stage 1, A.3), before it learns to answer yes or no (Fig. 7)."""

from __future__ import annotations

from typing import Any

import torch

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.mllm import Question, StandInQuestion
from vhsbench.verifiers.training.objectives import END
from vhsbench.verifiers.training.recipe import CAPTION_TEMPLATE
from vhsbench.verifiers.verifier import MllmVerifier

LONGEST = 96  # tokens


class CaptionError(VhsbenchError):
    """A model that cannot be asked for a caption; the message is one sentence for a user."""


@torch.inference_mode()
def captions(verifier: MllmVerifier, features: Any, longest: int = LONGEST) -> list[str]:
    """Caption a batch of what `verifier` reads, greedily, with at most `longest` tokens each.

    The question is that of alignment: the checkpoint's own template if it has no prompt in it,
    else CAPTION_TEMPLATE. Raises CaptionError for a model without a tokenizer.
    """
    question = verifier.question
    if isinstance(question, StandInQuestion):
        raise CaptionError(f"verifier '{verifier.name}' has no tokenizer, and so no words to caption with.")
    tokenizer = question.tokenizer
    template = CAPTION_TEMPLATE if "{prompt}" in question.template else question.template
    ask = Question(tokenizer, template)
    visual = verifier.visual([""] * len(features), features)
    model = verifier.model
    llm: Any = model.llm  # some releases of transformers type `generate` for a class of theirs alone
    embed = llm.get_input_embeddings()
    before = torch.tensor(ask.before_ids, device=verifier.device)
    after = ask.after_ids([""])[0].to(verifier.device)
    first, last = (embed(ids).expand(len(visual), -1, -1) for ids in (before, after[0]))
    sequence = torch.cat([first, model.connector(visual), last], dim=1).to(visual.dtype)
    ids = llm.generate(
        inputs_embeds=sequence,
        attention_mask=torch.ones(sequence.shape[:2], dtype=torch.long, device=verifier.device),
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
