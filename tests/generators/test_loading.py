"""What a user can get wrong, and the sentence that comes back; where things are placed."""

from __future__ import annotations

import json

import pytest
import torch

from vhsbench import generators
from vhsbench.generators import SPECS, RegistryError
from vhsbench.generators.checks import as_device, check_memory, needed_bytes
from vhsbench.generators.protocol import GeneratorError

PROMPTS = ["a photo of a red circle", "a photo of two stars"]


def sana(small, **options):
    return generators.create(
        "sana-sprint", weights=small("sana-sprint"), dtype="float32", resolution=32, **options
    )


def test_a_wrong_folder(small, tmp_path):
    with pytest.raises(GeneratorError, match=r"is not a pipeline folder: it has no model_index.json"):
        generators.create("flux-schnell", weights=tmp_path)
    with pytest.raises(GeneratorError, match="holds a SanaPipeline, but a FluxPipeline is needed"):
        generators.create("flux-schnell", weights=small("sana-1.5"))
    with pytest.raises(GeneratorError, match=r"'./nowhere' is no folder here and no hub id"):
        generators.create("flux-schnell", weights="./nowhere")
    (tmp_path / "model_index.json").write_text(json.dumps(
        {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}))  # fmt: skip
    with pytest.raises(GeneratorError, match="cannot be loaded as a FluxPipeline"):
        generators.create("flux-schnell", weights=tmp_path)


def test_a_device_that_is_none_or_not_here(monkeypatch):
    with pytest.raises(GeneratorError, match=r"unknown device 'tpu'; known: cpu, cuda"):
        generators.create("nano", device="tpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert as_device("cuda:1").index == 1
    with pytest.raises(GeneratorError, match=r"no device 'cuda:2' here: torch finds 2 GPUs"):
        generators.create("nano", device="cuda:2")


def test_not_enough_gpu_memory_is_said_before_loading(monkeypatch):
    needed = needed_bytes(SPECS["flux-schnell"], 2)
    assert needed == 2 * SPECS["flux-schnell"].total_parameters
    assert needed_bytes(SPECS["flux-schnell"], 2, text_encoders=False) < needed
    check_memory("flux-schnell", needed, needed)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("vhsbench.generators.loading.free_bytes", lambda device: 24_000_000_000)
    with pytest.raises(GeneratorError, match=r"its weights need 33.7 GB and 24.0 GB are free"):
        generators.create("flux-schnell", device="cuda")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 100}, "a side is a multiple of 32, such as 96 or 128"),
        ({"resolution": 0}, "needs at least 32 pixels"),
        ({"steps": 0}, "steps is 0, but sana-sprint makes an image in 1 to 30 steps"),
        ({"steps": "two"}, "steps is 'two'"),
        ({"steps": True}, "steps is True"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat'; did you mean 'bfloat16'"),
        ({"device": "meta", "weights": None}, "say weights='random'"),
    ],
)
def test_options_out_of_range(options, sentence):
    with pytest.raises(GeneratorError, match=sentence):
        generators.create("sana-sprint", **{"weights": "random", "device": "meta"} | options)


def test_sizes_and_steps_that_a_family_cannot_do(small):
    with pytest.raises(GeneratorError, match="pixart-alpha-dmd makes an image in 1 step only"):
        generators.create("pixart-alpha-dmd", weights="random", steps=2)
    with pytest.raises(GeneratorError, match=r"its positions end at 3072 pixels"):
        generators.create("sd3.5-turbo", weights="random", resolution=4096)
    with pytest.raises(GeneratorError, match=r"its positions end at 64 pixels"):
        generators.create("sd3.5-turbo", weights=small("sd3.5-turbo"), resolution=128)
    with pytest.raises(GeneratorError, match="a side is a multiple of 4"):
        generators.create("flux-schnell", weights=small("flux-schnell"), resolution=34)
    with pytest.raises(GeneratorError, match=r"guidance_scale is at most 1, not 4.5"):
        generators.create("pixart-alpha-dmd", weights="random", device="meta", guidance_scale=4.5)
    with pytest.raises(GeneratorError, match="its weights are bundled"):
        generators.create("nano", weights="random")
    with pytest.raises(RegistryError, match="has no option 'stepps'; did you mean 'steps'"):
        generators.create("flux-schnell", stepps=2)


def test_a_block_out_of_range(small):
    generator = generators.create("flux-schnell", weights=small("flux-schnell"), resolution=32)
    with pytest.raises(GeneratorError, match="block 4 is out of range: the DiT has blocks 0 to 3"):
        generator.head(generator.encode(PROMPTS[:1]), generator.noise([0]), 4)


def test_the_dtype_is_the_models(small):
    generator = generators.create("flux-schnell", weights=small("flux-schnell"), resolution=32)
    assert {p.dtype for p in generator.pipeline.transformer.parameters()} == {torch.bfloat16}
    latents = generator.denoise(generator.encode(PROMPTS), generator.noise([0, 1]))
    assert len(generator.decode(latents)) == 2


def test_freed_text_encoders_leave_what_was_encoded(small):
    generator = sana(small)
    cond, noise = generator.encode(PROMPTS), generator.noise([3, 4])
    before = generator.denoise(cond, noise)
    generator.free_text_encoders()
    assert generator.pipeline.text_encoder is None
    assert torch.equal(generator.denoise(cond, noise), before)
    with pytest.raises(GeneratorError, match="the text encoders were freed"):
        generator.encode(["a blue square"])


def test_text_encoders_elsewhere_are_not_seen_by_the_denoising_pipeline(small):
    here, apart = sana(small), sana(small, text_encoder_device="cpu:0")  # another name counts as elsewhere
    cond, noise = here.encode(PROMPTS), here.noise([3, 4])
    for _ in range(2):
        assert apart.pipeline.text_encoder is None
        other = apart.encode(PROMPTS)
        assert all(torch.equal(t, other.tensors[n]) for n, t in cond.tensors.items())
    assert torch.equal(apart.denoise(other, noise), here.denoise(cond, noise))
