from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from vhsbench import verifiers
from vhsbench.verifiers.checkpoint import CheckpointError, VerifierCard, kind_of, save_checkpoint
from vhsbench.verifiers.mllm import PAPER_TEMPLATE

PROMPTS = ["a photo of a bench", "a photo of two clocks and a red dog", "a photo of <image> {prompt}"]
CLIP = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_feature": "patch"}
LATENTS = {"mm_vision_tower": "dc-ae", "mm_vision_select_feature": "latent"}


def hidden(rows: int = 3, tokens: int = 16) -> torch.Tensor:
    return torch.randn(rows, tokens, 2240, generator=torch.Generator().manual_seed(0))


def by_the_book(folder, tokenizer, visual, prompt):
    """p over the vocabulary by the official recipe in plain transformers, one candidate, no padding."""
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in config.items() if not k.startswith("mm_") and k != "model_type"}
    llm = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
    tensors = {}
    for file in folder.glob("model*.safetensors"):
        tensors |= load_file(file)
    names = {k: v for k, v in tensors.items() if "mm_projector" not in k and "vision_tower" not in k}
    llm.load_state_dict(names, strict=False)
    llm.tie_weights()
    first, second = (
        [tensors[f"model.mm_projector.{i}.{kind}"] for kind in ("weight", "bias")] for i in (0, 2)
    )
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
    projected = linear(gelu(linear(visual, *first)), *second)
    chat = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{PAPER_TEMPLATE}<|im_end|>\n<|im_start|>assistant\n"
    )
    before, after = chat.split("<image>")
    embed = llm.get_input_embeddings()
    before = embed(torch.tensor([tokenizer.encode(before, add_special_tokens=False)]))
    after = embed(
        torch.tensor([tokenizer.encode(after.replace("{prompt}", prompt), add_special_tokens=False)])
    )
    with torch.no_grad():
        logits = llm(inputs_embeds=torch.cat([before, projected[None], after], 1)).logits
    return logits[0, -1].float().softmax(-1)


@pytest.mark.parametrize(("tied", "shards"), [(True, 1), (False, 3)])
def test_scores_are_those_of_the_official_recipe(official, statistics, qwen_tokenizer, tied, shards):
    folder = official(tied=tied, shards=shards)
    verifier = verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    found = verifier.score(PROMPTS, hidden())
    mean, variance = (torch.load(f).float() for f in statistics)
    yes, no = (qwen_tokenizer.encode(word)[0] for word in ("yes", "no"))
    for i, prompt in enumerate(PROMPTS):
        visual = (hidden()[i] - mean) / torch.sqrt(variance + 1e-6)
        p = by_the_book(folder, qwen_tokenizer, visual, prompt)
        top = qwen_tokenizer.decode([int(p.argmax())])
        score = p[yes] if "yes" in top.lower() else -p[no]
        for name, value in (("p_yes", p[yes]), ("p_no", p[no]), ("score", score)):
            torch.testing.assert_close(getattr(found, name)[i], value, rtol=1e-4, atol=1e-7)


def test_what_an_official_folder_is_is_read_off_its_configuration(official, statistics):
    card = verifiers.create("vhs", checkpoint=official(), normalization=statistics).card
    assert (card.generator, card.block, card.feature_width, card.visual_tokens) == (
        "sana-sprint",
        7,
        2240,
        1024,
    )
    latents = verifiers.create("mllm-ae", checkpoint=official(4, LATENTS)).card
    assert (latents.generator, latents.block, latents.visual_tokens) == ("pixart-alpha-dmd", None, 4096)


def test_the_tokens_are_the_official_ones(official, qwen_tokenizer):
    question = verifiers.create("mllm-ae", checkpoint=official(4, LATENTS)).question
    ids, lengths = question.after_ids(["a bench", "a bench and a dog"])
    words = [qwen_tokenizer.decode([i]) for i in question.before_ids]
    assert words[-1] == " "
    assert words[0] == "<|im_start|>"
    assert qwen_tokenizer.decode(question.before_ids).endswith("match the given prompt. ")
    assert qwen_tokenizer.decode(ids[0, :1]) == " The"
    text = qwen_tokenizer.decode(ids[0, : lengths[0]])
    assert text.startswith(" The given prompt is: a bench. Please consider")
    assert text.endswith("with 'yes' or 'no'<|im_end|>\n<|im_start|>assistant\n")
    said = {qwen_tokenizer.decode([i]) for i in question.yes_ids}
    assert "yes" in said
    assert {word.lower().find("yes") >= 0 for word in said} == {True}


def test_a_tokenizer_saved_as_vocabulary_and_merges_gives_the_same_tokens(official):
    folder = official(4, LATENTS)
    first = verifiers.create("mllm-ae", checkpoint=folder).question
    whole = json.loads((folder / "tokenizer.json").read_text())
    model, special = whole["model"], {t["id"]: t for t in whole["added_tokens"]}
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {
        i: {k: v for k, v in t.items() if k != "id"} for i, t in special.items()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    second = verifiers.create("mllm-ae", checkpoint=folder).question
    assert first.before_ids == second.before_ids
    assert torch.equal(first.after_ids(PROMPTS)[0], second.after_ids(PROMPTS)[0])
    assert (first.yes, first.no) == (second.yes, second.no)


def test_a_round_trip_gives_equal_scores_and_opens_by_the_official_recipe(
    official, statistics, tmp_path, qwen_tokenizer
):
    first = verifiers.create("vhs", checkpoint=official(), normalization=statistics)
    pair = (first.tokens.mean, first.tokens.variance)
    copy = tmp_path / "copy"
    save_checkpoint(copy, first.model, first.question.tokenizer, first.card, pair, torch.float32)
    ours = verifiers.create("vhs", checkpoint=copy)
    (copy / "verifier.json").unlink()
    files = (copy / "block_7_mean.pt", copy / "block_7_variance.pt")
    as_official = verifiers.create("vhs", checkpoint=copy, normalization=files)
    for second in (ours, as_official):
        assert second.card == first.card
        assert torch.equal(first.score(PROMPTS, hidden()).score, second.score(PROMPTS, hidden()).score)
    visual = first.tokens(hidden())[0]
    p = by_the_book(copy, qwen_tokenizer, visual, PROMPTS[0])
    found = ours.score(PROMPTS[:1], hidden(1))
    torch.testing.assert_close(found.p_yes[0], p[ours.question.yes], rtol=1e-4, atol=1e-7)
    config = json.loads((copy / "config.json").read_text())
    assert (config["rope_theta"], config["mm_hidden_size"], config["mm_vision_tower"]) == (
        1e6,
        2240,
        "hidden",
    )


def test_rotary_frequencies_stay_float32_in_a_bfloat16_model(official):
    folder = official(4, LATENTS)
    half = verifiers.create("mllm-ae", checkpoint=folder, dtype="bfloat16")
    full = verifiers.create("mllm-ae", checkpoint=folder, dtype=torch.float32)
    weights = {p.dtype for p in half.model.parameters()}
    assert weights == {torch.bfloat16}
    found, exact = (v.model.llm.model.rotary_emb.inv_freq for v in (half, full))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)
    assert not torch.equal(exact, exact.bfloat16().float())
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b = half.score(PROMPTS[:2], latents), full.score(PROMPTS[:2], latents)
    assert a.score.dtype == torch.float32
    torch.testing.assert_close(a.p_yes, b.p_yes, rtol=0.1, atol=2e-3)


class Float32(TorchDispatchMode):
    """Notes the float32 tensors that are made, other than on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32 and made.device.type != "meta":
            self.sizes.append(made.numel())
        return made


def test_loading_makes_no_float32_copy_of_the_weights(official, tmp_path):
    first = verifiers.create("mllm-ae", checkpoint=official(4, LATENTS), dtype="bfloat16")
    save_checkpoint(
        tmp_path / "half", first.model, first.question.tokenizer, first.card, dtype=torch.bfloat16
    )
    with Float32() as made:
        second = verifiers.create("mllm-ae", checkpoint=tmp_path / "half", dtype="bfloat16")
    assert made.sizes  # the rotary frequencies
    assert max(made.sizes) < 64
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_generation_config_does_not_matter(official, statistics):
    folder = official()
    first = verifiers.create("vhs", checkpoint=folder, normalization=statistics).score(PROMPTS, hidden())
    (folder / "generation_config.json").unlink()
    second = verifiers.create("vhs", checkpoint=folder, normalization=statistics).score(PROMPTS, hidden())
    assert torch.equal(first.p_yes, second.p_yes)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("vhs", {"mm_vision_select_feature": "final"}, "'mm_vision_select_feature' is 'final', not 'block_'"),
        ("vhs", {"mm_vision_select_feature": "block_7_3"}, "is 'block_7_3', not 'block_' and a number"),
        ("vhs", {"mm_vision_select_feature": "block_+7"}, "is 'block_\\+7', not 'block_' and a number"),
        ("vhs", {"mm_hidden_size": None}, "no usable 'mm_hidden_size'"),
        ("vhs", {"mm_vision_tower": ""}, "no usable 'mm_vision_tower'"),
        ("vhs", {"mm_projector_type": "resampler"}, "is 'resampler', not 'mlp2x_gelu' or 'linear'"),
        ("vhs", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "full attention"),
        ("vhs", CLIP, "holds a 'mllm-clip' verifier, not 'vhs'"),
        ("mllm-clip", CLIP | {"mm_vision_select_layer": -1}, "layer -1, not 'patch' of layer -2"),
        (
            "vhs",
            {"vocab_size": 600},
            r"'model.embed_tokens.weight' has shape \[640, 64\], .* says \[600, 64\]",
        ),
        ("vhs", {"tie_word_embeddings": False}, r"lacks the key 'lm_head.weight', of shape \[640, 64\]"),
        ("vhs", {"mm_hidden_size": 1152}, r"mm_projector.0.weight' has shape \[64, 2240\], .* \[64, 1152\]"),
    ],
)
def test_an_unfit_configuration_is_refused_in_one_sentence(official, statistics, kind, change, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        verifiers.create(kind, checkpoint=official(config=change), normalization=statistics)
    assert "\n" not in str(caught.value)


def test_a_tied_head_that_differs_is_refused(official, statistics):
    folder = official()
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    tensors["lm_head.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' differs from 'model.embed_tokens.weight'"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)


def test_a_missing_shard_and_damaged_files_are_refused(official, statistics):
    folder = official(shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model-00002-of-00002\.safetensors"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    folder = official()
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)


def test_a_folder_without_a_tokenizer_is_refused(official, statistics):
    folder = official()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer that can be read"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)


def test_a_card_with_an_unknown_key_is_refused(official, statistics):
    folder = official()
    (folder / "verifier.json").write_text(
        json.dumps(vars(VerifierCard("vhs", "nano", 2, 128, 64)) | {"x": 1})
    )
    with pytest.raises(CheckpointError, match="does not describe a verifier"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics)


@pytest.mark.parametrize(
    ("tower", "kind"),
    [
        ("hidden_states", "vhs"),
        ("Hidden", "vhs"),
        ("openai/CLIP-vit-large-patch14", "mllm-clip"),
        ("dc-ae", "mllm-ae"),
        (None, "mllm-ae"),
    ],
)
def test_the_kind_of_an_official_folder_is_that_of_its_vision_tower(tmp_path, tower, kind):
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": tower}))
    assert kind_of(tmp_path) == kind
    (tmp_path / "verifier.json").write_text('{"kind": "mllm-clip"}')
    assert kind_of(tmp_path) == "mllm-clip"


def test_a_kind_that_is_not_registered_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        kind_of(tmp_path)
    (tmp_path / "verifier.json").write_text('{"kind": "mllm-clipp"}')
    with pytest.raises(CheckpointError, match=r"verifier\.json .*'mllm-clipp'.* 'mllm-clip'"):
        kind_of(tmp_path)
    (tmp_path / "verifier.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"verifier\.json .*'None'"):
        kind_of(tmp_path)
