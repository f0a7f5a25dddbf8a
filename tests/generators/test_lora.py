"""A LoRA of a generator: merged into its weights at its strength, or refused in a sentence."""

from __future__ import annotations

import pytest
import torch

from vhsbench import generators
from vhsbench.generators.protocol import GeneratorError

PROMPTS = ["a photo of a red circle", "a photo of two stars"]


def sana(small, **options):
    return generators.create(
        "sana-sprint", weights=small("sana-sprint"), dtype="float32", resolution=32, **options
    )


@pytest.fixture(scope="module")
def lora(small, tmp_path_factory):
    """A LoRA for the small SANA-Sprint that changes its images."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("lora")
    pipeline = sana(small).pipeline
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, parameter in pipeline.transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    pipeline.save_lora_weights(folder, get_peft_model_state_dict(pipeline.transformer))
    return folder


def test_a_lora_is_applied_at_its_strength(small, lora):
    plain = sana(small)
    cond, noise = plain.encode(PROMPTS), plain.noise([3, 4])
    base = plain.denoise(cond, noise)
    off, on = sana(small, lora=lora, lora_strength=0.0), sana(small, lora=lora)
    torch.testing.assert_close(off.denoise(cond, noise), base)
    changed = on.denoise(cond, noise)
    assert (changed - base).abs().max() > 1e-3
    file = sana(small, lora=next(lora.glob("*.safetensors")), lora_strength=1.0)
    assert torch.equal(file.denoise(cond, noise), changed)
    plain.pipeline.load_lora_weights(lora)  # beside the weights, where it is merged into them
    torch.testing.assert_close(plain.denoise(cond, noise), changed, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in on.pipeline.transformer.named_modules())
    assert torch.equal(on.tail(on.head(cond, noise, 1)), changed)


@pytest.mark.parametrize("name", ["flux-schnell", "sd3.5-turbo"])
def test_other_families_take_a_lora_too(small, tmp_path, name):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    options = {"weights": small(name), "resolution": 32, "dtype": "float32"}
    plain = generators.create(name, **options)
    cond, noise = plain.encode(PROMPTS), plain.noise([3, 4])
    base = plain.denoise(cond, noise)
    transformer = plain.pipeline.transformer
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    plain.pipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(transformer))
    moved = generators.create(name, **options, lora=tmp_path)
    changed = moved.denoise(cond, noise)
    assert (changed - base).abs().max() > 1e-3
    torch.testing.assert_close(plain.denoise(cond, noise), changed, atol=1e-4, rtol=1e-3)
    assert torch.equal(moved.tail(moved.head(cond, noise, 1)), changed)


def test_a_lora_that_is_not_there_or_does_not_fit(small, lora, tmp_path):
    with pytest.raises(GeneratorError, match="flux-schnell: no LoRA is bundled for it; give lora a folder"):
        generators.create("flux-schnell", weights=small("flux-schnell"), lora="bundled")
    with pytest.raises(GeneratorError, match="there are no LoRA weights at"):
        sana(small, lora=tmp_path / "none")
    with pytest.raises(GeneratorError, match="diffusers has no LoRA for PixArtAlphaPipeline"):
        generators.create("pixart-alpha-dmd", weights=small("pixart-alpha-dmd"), resolution=32, lora=lora)
    with pytest.raises(GeneratorError, match="does not fit"):
        sana(small, lora=tmp_path)


def test_the_source_says_what_was_loaded(small, lora, nano):
    assert nano.info().source == "bundled"
    assert sana(small).info().source == str(small("sana-sprint"))
    assert sana(small, lora=lora, lora_strength=0.5).info().source.endswith(f" with LoRA {lora} at 0.5")
