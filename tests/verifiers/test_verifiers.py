from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vhsbench import verifiers
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.features import Normalize, flatten_latents
from vhsbench.verifiers.mllm import answer_scores
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.training.statistics import Moments

PROMPTS = ["a photo of a star", "a photo of a red circle and a blue cross", "a photo of two rings"]


def features(nano, kind: str, seeds):
    cond = nano.encode(PROMPTS[: len(seeds)])
    hidden = nano.head(cond, nano.noise(seeds), 2)
    if kind == "vhs":
        return hidden.features
    latents = nano.tail(hidden)
    return latents if kind == "mllm-ae" else nano.decode(latents)


@pytest.mark.parametrize("kind", ["vhs", "mllm-ae", "mllm-clip"])
def test_a_score_does_not_depend_on_the_rest_of_the_batch(nano, kind):
    verifier = verifiers.create(kind)
    read = features(nano, kind, [1, 2, 3])
    together = verifier.score(PROMPTS, read)
    for i, prompt in enumerate(PROMPTS):
        alone = verifier.score([prompt], read[i : i + 1])
        for name in ("p_yes", "p_no", "score"):
            torch.testing.assert_close(
                getattr(alone, name), getattr(together, name)[i : i + 1], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("kind", ["vhs", "mllm-ae", "mllm-clip"])
def test_the_score_is_the_papers(nano, kind):
    found = verifiers.create(kind).score(PROMPTS, features(nano, kind, [1, 2, 3]))
    assert all(t.dtype == torch.float32 and t.shape == (3,) for t in vars(found).values())
    yes = found.score > 0
    assert torch.equal(found.score, torch.where(yes, found.p_yes, -found.p_no))
    assert (found.p_yes > found.p_no)[yes].all()
    assert yes[found.p_yes > 0.5].all()
    assert torch.all(found.p_yes + found.p_no <= 1 + 1e-6)


def test_the_sign_is_that_of_the_most_likely_token_of_all():
    question = verifiers.create("mllm-ae").question
    logits = torch.zeros(4, 200)
    yes, no, other = question.yes, question.no, max(question.yes, question.no) + 1
    logits[0, yes] = 9.0
    logits[1, no] = 9.0
    logits[2, [yes, no]] = torch.tensor([5.0, 4.0])
    logits[3, [yes, no, other]] = torch.tensor([5.0, 4.0, 9.0])  # neither: the score is -p_no
    found = answer_scores(logits, question)
    p = logits.softmax(-1)
    expected = torch.stack([p[0, yes], -p[1, no], p[2, yes], -p[3, no]])
    torch.testing.assert_close(found.score, expected)


def test_a_prompt_that_holds_the_placeholder_breaks_nothing(nano):
    read = features(nano, "vhs", [1])
    found = verifiers.create("vhs").score(["a photo of <image> {prompt}"], read)
    assert torch.isfinite(found.score).all()


def test_features_of_another_width_are_refused():
    verifier = verifiers.create("mllm-ae")
    with pytest.raises(ValueError, match=r"width 4, but was given \[1, 99, 8, 8\]"):
        verifier.score(PROMPTS[:1], torch.zeros(1, 99, 8, 8))


def test_prompts_and_features_must_be_as_many():
    with pytest.raises(ValueError, match="2 prompts do not fit 1 features"):
        verifiers.create("mllm-ae").score(PROMPTS[:2], torch.zeros(1, 4, 8, 8))


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(WEIGHTS / "mllm-ae", tmp_path / "checkpoint")


def test_writing_and_reading_back_gives_equal_scores(tmp_path):
    from vhsbench.verifiers.checkpoint import save_checkpoint

    first = verifiers.create("mllm-ae")
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path / "copy", first.model, first.question.tokenizer, first.card)
    second = verifiers.create("mllm-ae", checkpoint=tmp_path / "copy")
    assert torch.equal(first.score(PROMPTS, latents).score, second.score(PROMPTS, latents).score)


def test_the_layout_is_the_official_one():
    config = json.loads((WEIGHTS / "vhs" / "config.json").read_text())
    assert config["model_type"] == "llava_qwen"
    assert config["mm_vision_select_feature"] == "block_6"
    keys = set(load_file(WEIGHTS / "vhs" / "model.safetensors"))
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias", "model.norm.weight"} <= keys


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.mm_projector.0.weight", None, "lacks the key 'model.mm_projector.0.weight'"),
        ("model.mm_projector.0.weight", (3, 3), r"has shape \[3, 3\], but the configuration says"),
        ("model.extra", (1,), "unknown key 'model.extra'"),
    ],
)
def test_a_wrong_checkpoint_names_the_key(checkpoint, key, value, said):
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(key, None)
    if value is not None:
        tensors[key] = torch.zeros(value)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=said):
        verifiers.create("mllm-ae", checkpoint=checkpoint)


def test_a_checkpoint_of_another_kind_or_without_a_file_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="holds a 'mllm-ae' verifier, not 'vhs'"):
        verifiers.create("vhs", checkpoint=checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        verifiers.create("mllm-ae", checkpoint=checkpoint)


def test_vhs_without_its_statistics_is_refused(tmp_path):
    folder = shutil.copytree(WEIGHTS / "vhs", tmp_path / "vhs")
    (folder / "normalization.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no normalization\.safetensors"):
        verifiers.create("vhs", checkpoint=folder)


def test_moments_of_shifted_features():
    x = 100 + torch.randn(50, 64, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    moments = Moments(8)
    moments.add(x)
    mean, variance = moments.mean.float(), moments.variance.float()
    flat = x.double().flatten(0, 1)
    torch.testing.assert_close(mean.double(), flat.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), flat.var(0, correction=0), rtol=1e-4, atol=1e-6)
    normal = Normalize(mean, variance)(x)
    assert normal.mean().abs() < 1e-4


def test_latents_are_flattened_row_by_row():
    latents = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    assert torch.equal(flatten_latents(latents)[0, 1], latents[0, :, 0, 1])
    assert torch.equal(flatten_latents(latents)[1, 2], latents[1, :, 1, 0])
