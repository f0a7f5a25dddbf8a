"""The verifier's model: Linear-GELU-Linear connector and a Qwen2 LLM, in the official LLaVA-Qwen2 layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from verifiers.protocol import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE = "<image>"
# The paper's prompt (Fig. 10, 3) as the official release writes it: one line, no final period.
PAPER_TEMPLATE = (
    "You are an AI assistant specializing in image analysis and ranking. Your task is to analyze "
    "and compare image based on how well they match the given prompt. <image> The given prompt is: "
    "{prompt}. Please consider the prompt and the image to make a decision and response directly "
    "with 'yes' or 'no'"
)
_PROJECTOR = "model.mm_projector."
_IGNORED = "model.vision_tower."


class CheckpointError(ValueError):
    """A verifier checkpoint that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class VerifierCard:
    """What a checkpoint says of itself (verifier.json, beside the official files)."""

    kind: str  # "vhs", "mllm-clip" or "mllm-ae"
    generator: str
    block: int | None
    feature_width: int
    visual_tokens: int
    template: str = PAPER_TEMPLATE


class Mllm(nn.Module):
    """Visual features [B, T, C] and a question -> the LLM's state where the answer comes next."""

    def __init__(self, llm: nn.Module, feature_width: int) -> None:
        super().__init__()
        width: int = llm.config.hidden_size  # type: ignore[union-attr,assignment]
        self.llm = llm
        self.connector = nn.Sequential(nn.Linear(feature_width, width), nn.GELU(), nn.Linear(width, width))

    def states(self, before: torch.Tensor, visual: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Hidden states of [before | visual | after]: token ids [b], features [B, T, C], ids [B, a].

        `after` may be padded on the right: attention is causal, so padding touches nothing before it.
        """
        embed = self.llm.get_input_embeddings()  # type: ignore[operator]
        projected = self.connector(visual)
        sequence = torch.cat([embed(before).expand(len(visual), -1, -1), projected, embed(after)], dim=1)
        output = self.llm.model(inputs_embeds=sequence.to(projected.dtype), use_cache=False)  # type: ignore[operator,union-attr]
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits of the given states alone."""
        result: torch.Tensor = self.llm.lm_head(states)  # type: ignore[operator,union-attr]
        return result


class Question:
    """Chat-formatted questions: the text is split at <image>, each part tokenised alone, no BOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.yes, self.no = (self._ids(word)[0] for word in ("yes", "no"))
        before, self._after = self._chat(template).split(IMAGE, 1)
        self.before_ids = self._ids(before)

    def after_ids(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [B, a], padded on the right, and their lengths [B].

        The template is split before the prompt goes in, so a prompt may itself contain "<image>".
        """
        rows = [self._ids(self._after.replace("{prompt}", prompt)) for prompt in prompts]
        return pad(rows, self.tokenizer.pad_token_id or 0)

    def _chat(self, text: str) -> str:
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return str(chat)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, longest], padded on the right, and lengths [B]."""
    lengths = torch.tensor([len(r) for r in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, lengths


def answer_scores(logits: torch.Tensor, question: Question) -> Scores:
    """Logits [B, V] of the answer's position -> the paper's score (A.4)."""
    p = logits.float().softmax(-1)
    p_yes, p_no = p[:, question.yes], p[:, question.no]
    top = p.argmax(-1).tolist()
    says_yes = torch.tensor(["yes" in question.tokenizer.decode([t]).lower() for t in top], device=p.device)
    return Scores(p_yes, p_no, torch.where(says_yes, p_yes, -p_no))


def save_checkpoint(
    folder: Path,
    model: Mllm,
    tokenizer: PreTrainedTokenizerBase,
    card: VerifierCard,
    normalization: tuple[torch.Tensor, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the official layout: config.json, model.safetensors, tokenizer files; and verifier.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PROJECTOR}{k}": v for k, v in model.connector.state_dict().items()}
    llm = model.llm.state_dict()
    if model.llm.config.tie_word_embeddings:  # type: ignore[union-attr]
        llm.pop("lm_head.weight", None)
    tensors |= llm
    save_file(
        {k: v.detach().to(dtype).contiguous() for k, v in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = model.llm.config.to_dict() | {  # type: ignore[union-attr,operator]
        "model_type": "llava_qwen",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": card.feature_width,
        "mm_vision_tower": {"vhs": "hidden", "mllm-ae": "latents"}.get(card.kind, "clip"),
        "mm_vision_select_feature": f"block_{card.block}" if card.block is not None else "patch",
        "mm_vision_select_layer": -2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / "verifier.json").write_text(json.dumps(asdict(card), indent=1) + "\n")
    tokenizer.save_pretrained(folder)
    if normalization is not None:
        mean, variance = (t.detach().float().contiguous() for t in normalization)
        save_file({"mean": mean, "variance": variance}, folder / "normalization.safetensors")


def load_checkpoint(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> tuple[Mllm, Question, VerifierCard]:
    """Read what `save_checkpoint` wrote. Raises CheckpointError naming the file or key at fault."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    for name in ("config.json", "model.safetensors", "verifier.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"verifier checkpoint {folder} has no {name}.")
    card = VerifierCard(**json.loads((folder / "verifier.json").read_text()))
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text())
    raw = {k: v for k, v in raw.items() if not k.startswith("mm_") and k != "model_type"}
    llm = Qwen2ForCausalLM(Qwen2Config(**raw))
    model = Mllm(llm, card.feature_width)
    tensors = load_file(folder / "model.safetensors")
    _fill(model.connector, tensors, _PROJECTOR, folder)
    tensors = {k: v for k, v in tensors.items() if not k.startswith((_PROJECTOR, _IGNORED))}
    if llm.config.tie_word_embeddings:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    _fill(llm, tensors, "", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = model.to(device, dtype).eval().requires_grad_(False)
    # rotary frequencies stay float32 whatever the model's dtype: rounding them moves p by up to 0.05
    for module in llm.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = module.inv_freq.float()
    return model, Question(tokenizer, card.template), card


def _fill(module: nn.Module, tensors: dict[str, torch.Tensor], prefix: str, folder: Path) -> None:
    """Load the tensors under `prefix`, refusing missing and misshapen ones by name."""
    expected = module.state_dict()
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    for key, value in expected.items():
        if key not in given:
            raise CheckpointError(f"{folder}/model.safetensors lacks the key '{prefix}{key}'.")
        if given[key].shape != value.shape:
            raise CheckpointError(
                f"{folder}/model.safetensors: '{prefix}{key}' has shape {list(given[key].shape)}, "
                f"but the configuration says {list(value.shape)}."
            )
    extra = sorted(set(given) - set(expected))
    if extra:
        raise CheckpointError(f"{folder}/model.safetensors has an unknown key '{prefix}{extra[0]}'.")
    module.load_state_dict({k: v.to(expected[k].dtype) for k, v in given.items()})


def checkpoint_sha256(folder: Path) -> str:
    """SHA-256 over the safetensors and JSON files of a folder, by name: a checkpoint's identity."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".json"):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
