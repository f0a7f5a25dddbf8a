"""Pipelines and LoRAs that others made: what is put on, key by key, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from vhsbench import generators
from vhsbench.generators.lora import find_lora
from vhsbench.generators.protocol import GeneratorError

NAN, INF = float("nan"), float("inf")
LAYERS = {
    "transformer": (".to_q", ".to_v"),
    "text_encoder": (".q_proj", ".fc1"),
    "text_encoder_2": (".q_proj",),
}
COMPONENTS = {
    "sana-sprint": ("transformer",),
    "sana-1.5": ("transformer",),
    "flux-schnell": ("transformer", "text_encoder"),
    "sd3.5-turbo": ("transformer", "text_encoder", "text_encoder_2"),
}


def create(small, name, **options):
    options = {"weights": small(name), "resolution": 32, "dtype": "float32"} | options
    return generators.create(name, **options)


def layers(generator, part):
    modules = getattr(generator.pipeline, part).named_modules()
    return {n: m for n, m in modules if n.endswith(LAYERS[part]) and isinstance(m, torch.nn.Linear)}


def lora(generator, parts, rank=2):
    """Keys as peft and diffusers write them today, for the layers of some components."""
    torch.manual_seed(0)
    tensors = {}
    for part in parts:
        for name, layer in layers(generator, part).items():
            tensors[f"{part}.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features)
            tensors[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank)
    return tensors


def written(tmp_path, tensors, name="mine.safetensors", **metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / name, {"format": "pt"} | metadata)
    return tmp_path / name


# what is put on


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_lora_is_merged_into_every_component_it_is_for(small, tmp_path, name):
    plain = create(small, name)
    tensors = lora(plain, COMPONENTS[name])
    moved = create(small, name, lora=written(tmp_path, tensors), lora_strength=0.5)
    for part in COMPONENTS[name]:
        before, after = layers(plain, part), layers(moved, part)
        assert before
        for layer in before:
            down, up = (tensors[f"{part}.{layer}.lora_{half}.weight"] for half in "AB")
            torch.testing.assert_close(after[layer].weight, before[layer].weight + 0.5 * up @ down)
        assert not any("lora" in n for n, _ in getattr(moved.pipeline, part).named_modules())
    assert moved.info().lora == {part: 2 * len(layers(plain, part)) for part in COMPONENTS[name]}
    assert plain.info().lora == {}


def test_a_lora_of_fluxs_text_encoder_alone_changes_the_text(small, tmp_path):
    plain = create(small, "flux-schnell")
    moved = create(small, "flux-schnell", lora=written(tmp_path, lora(plain, ["text_encoder"])))
    before, after = (g.encode(["a photo of a red circle"]).tensors for g in (plain, moved))
    assert (before["pooled_prompt_embeds"] - after["pooled_prompt_embeds"]).abs().max() > 1e-3
    assert torch.equal(before["prompt_embeds"], after["prompt_embeds"])  # T5's
    assert moved.info().lora == {"text_encoder": 2 * len(layers(plain, "text_encoder"))}
    off = create(small, "flux-schnell", lora=tmp_path / "mine.safetensors", lora_strength=0.0)
    torch.testing.assert_close(
        off.encode(["a photo of a red circle"]).tensors["pooled_prompt_embeds"],
        before["pooled_prompt_embeds"],
    )


def test_older_names_and_scales_of_layers_are_read_too(small, tmp_path):
    plain = create(small, "flux-schnell")
    tensors = lora(plain, ["transformer", "text_encoder"])
    older = {}
    for key, tensor in tensors.items():
        half = "down" if "lora_A" in key else "up"
        name = key.partition(".lora_")[0]
        if key.startswith("text_encoder"):
            name = name.replace("text_encoder.", "text_encoder.text_model.")
            older[f"{name}.lora_linear_layer.{half}.weight"] = tensor
        else:
            older[key] = tensor
            older[f"{name}.alpha"] = torch.tensor(1.0)  # of rank 2: half as strong
    moved = create(small, "flux-schnell", lora=written(tmp_path, older))
    for part, scale in (("transformer", 0.5), ("text_encoder", 1.0)):
        before, after = layers(plain, part), layers(moved, part)
        for layer in before:
            down, up = (tensors[f"{part}.{layer}.lora_{half}.weight"] for half in "AB")
            torch.testing.assert_close(after[layer].weight, before[layer].weight + scale * up @ down)
    assert set(moved.info().lora) == {"transformer", "text_encoder"}


def kohya(tensors_of):
    """A LoRA of FLUX's first block and first CLIP layer as kohya's scripts write it, each of rank 2."""
    torch.manual_seed(0)
    sizes = {"lora_unet_double_blocks_0_img_attn_qkv": (32, 96)} | tensors_of
    tensors = {}
    for name, (inner, outer) in sizes.items():
        tensors |= {
            f"{name}.lora_down.weight": torch.randn(2, inner),
            f"{name}.lora_up.weight": torch.randn(outer, 2),
            f"{name}.alpha": torch.tensor(1.0),
        }
    return tensors


def test_a_lora_of_another_tool_is_converted_with_its_scales(small, tmp_path):
    plain = create(small, "flux-schnell")
    clip = "lora_te1_text_model_encoder_layers_0_self_attn"
    tensors = kohya({f"{clip}_q_proj": (16, 16), f"{clip}_out_proj": (16, 16)})
    moved = create(small, "flux-schnell", lora=written(tmp_path, tensors))
    assert moved.info().lora == {"transformer": 6, "text_encoder": 4}
    down, up = (tensors[f"lora_unet_double_blocks_0_img_attn_qkv.lora_{d}.weight"] for d in ("down", "up"))
    for part, layer in zip((up @ down).chunk(3), ("to_q", "to_k", "to_v"), strict=True):
        before, after = (
            getattr(g.pipeline.transformer.transformer_blocks[0].attn, layer).weight for g in (plain, moved)
        )
        torch.testing.assert_close(after, before + 0.5 * part)
    name = "encoder.layers.0.self_attn.q_proj"
    down, up = (
        tensors[f"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{d}.weight"]
        for d in ("down", "up")
    )
    torch.testing.assert_close(
        layers(moved, "text_encoder")[name].weight,
        layers(plain, "text_encoder")[name].weight + 0.5 * up @ down,
    )


# what is refused


def refused(small, tmp_path, tensors, said, name="flux-schnell", **metadata):
    file = written(tmp_path, tensors, **metadata)
    with pytest.raises(GeneratorError, match=said) as caught:
        create(small, name, lora=file)
    assert str(caught.value).startswith(f"{name}: the LoRA at '{file}' does not fit: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", COMPONENTS)
def test_keys_that_match_nothing_are_named_up_to_three(small, tmp_path, name):
    fitting = lora(create(small, name), COMPONENTS[name])
    strange = {
        f"transformer.no_blocks.{i}.to_q.lora_{half}.weight": torch.ones(2, 2)
        for i in range(3)
        for half in "AB"
    }
    said = r"6 of its 6 keys match nothing in the generator: ('transformer\.no_blocks\.[^']*'(, )?){3}\.$"
    refused(small, tmp_path, strange, said, name)
    said = rf"6 of its {len(fitting) + 6} keys match nothing in the generator: ('transformer\.no_blocks\.[^']*'(, )?){{3}}"
    refused(small, tmp_path, fitting | strange, said, name)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", (2, 32)),  # T5
        ("unet.mid_block.attentions.0.to_q.lora_A.weight", (2, 32)),  # of another pipeline
        ("transformer.transformer_blocks.0.attn.norm_q.weight", (16,)),  # of a control LoRA
        ("transformer.transformer_blocks.9.attn.to_q.alpha", ()),
        ("transformer.transformer_blocks.0.attn.to_q.dora_scale", (32, 1)),
        ("lora_B", (2,)),
    ],
)
def test_a_single_key_that_is_not_applied_is_refused(small, tmp_path, key, shape):
    tensors = lora(create(small, "flux-schnell"), ["transformer"]) | {key: torch.ones(shape)}
    refused(
        small, tmp_path, tensors, rf"1 of its {len(tensors)} keys match nothing in the generator: '{key}'"
    )


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, parts in COMPONENTS.items() for part in parts]
)
@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("larger", [-1, 1])
def test_a_layer_of_another_shape_is_refused(small, tmp_path, name, part, half, larger):
    tensors = lora(create(small, name), COMPONENTS[name])
    key = next(k for k in tensors if k.startswith(f"{part}.") and k.endswith(f"lora_{half}.weight"))
    shape = list(tensors[key].shape)
    wrong = [shape[0], shape[1] + larger] if half == "A" else [shape[0] + larger, shape[1]]
    said = rf"'{key}' has shape \[{wrong[0]}, {wrong[1]}\], but its layer needs \[{shape[0]}, {shape[1]}\]"
    refused(small, tmp_path, tensors | {key: torch.ones(wrong)}, said, name)


@pytest.mark.parametrize(
    "dropped",
    [
        {"lora_te2_encoder_block_0_layer_0_SelfAttention_q": (32, 16)},  # T5
        {"lora_te1_text_projection": (16, 16)},
        {"mystery": (4, 4)},
    ],
)
def test_what_a_conversion_drops_without_a_word_is_refused(small, tmp_path, dropped):
    (name,) = dropped
    said = rf"3 of its 6 keys match nothing in the generator: '{name}\.alpha', '{name}\.lora_down\.weight'"
    refused(small, tmp_path, kohya(dropped), said)


@pytest.mark.parametrize(("half", "other"), ["AB", "BA"])
def test_half_a_layer_is_refused(small, tmp_path, half, other):
    tensors = lora(create(small, "sana-sprint"), ["transformer"])
    key = next(k for k in tensors if f"lora_{half}" in k)
    del tensors[key]
    partner = key.replace(f"lora_{half}", f"lora_{other}")
    refused(small, tmp_path, tensors, rf"'{partner}' has no lora_{half}\.weight beside it", "sana-sprint")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t: t.fill_(NAN), "holds NaN or infinite numbers"),
        (lambda t: t.fill_(-INF), "holds NaN or infinite numbers"),
        (lambda t: t.long(), "holds int64, but weights are"),
        (lambda t: t.to(torch.complex64), "holds complex64, but weights are"),
    ],
)
def test_a_lora_of_other_than_finite_floats_is_refused(small, tmp_path, wrong, said):
    tensors = lora(create(small, "flux-schnell"), ["text_encoder"])
    key = next(iter(tensors))
    refused(small, tmp_path, tensors | {key: wrong(tensors[key])}, f"'{key}' {said}")


def test_a_lora_that_overflows_when_it_is_merged_is_refused(small, tmp_path):
    tensors = {k: 1e3 * v for k, v in lora(create(small, "sana-sprint"), ["transformer"]).items()}
    create(small, "sana-sprint", lora=written(tmp_path, tensors))
    with pytest.raises(GeneratorError, match=r"sana-sprint, transformer: '.*' is not finite as float16"):
        create(small, "sana-sprint", lora=tmp_path / "mine.safetensors", dtype="float16")


def test_nothing_and_metadata_that_imports_are_refused(small, tmp_path):
    refused(small, tmp_path, {}, "it holds no tensors")
    tensors = lora(create(small, "flux-schnell"), ["transformer"])
    metadata = json.dumps(
        {"transformer.megatron_config": {"a": 1}, "transformer.megatron_core": "antigravity"}
    )
    refused(
        small,
        tmp_path,
        tensors,
        "its metadata has 'transformer.megatron_config'",
        lora_adapter_metadata=metadata,
    )
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_is_not_opened_in_a_file_or_a_folder(small, tmp_path, suffix):
    file = tmp_path / f"pytorch_lora_weights{suffix}"
    torch.save(lora(create(small, "flux-schnell"), ["transformer"]), file)
    with pytest.raises(GeneratorError, match="is a pickle; only safetensors are read"):
        create(small, "flux-schnell", lora=file)
    with pytest.raises(GeneratorError, match=r"the folder holds no \.safetensors file"):
        create(small, "flux-schnell", lora=tmp_path)


def test_a_folders_lora_is_the_one_of_diffusers_name_or_the_only_one(tmp_path):
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(GeneratorError, match=r"holds several \.safetensors files, give one of them"):
        find_lora("sana-sprint", tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    assert find_lora("sana-sprint", tmp_path).name == "pytorch_lora_weights.safetensors"
    assert find_lora("sana-sprint", tmp_path / "b.safetensors").name == "b.safetensors"


# pipelines


@pytest.fixture
def pipeline(small, tmp_path):
    """pipeline(name): a copy of a small pipeline's folder, in a folder that has a sibling."""

    def copy(name):
        shutil.copytree(small(name), tmp_path / "models" / name)
        return tmp_path / "models" / name

    return copy


@pytest.mark.parametrize("named", [["mine", "Mine"], ["subprocess", "Popen"], []])
def test_a_component_that_is_code_is_refused(change_json, pipeline, asked, capfd, named):
    folder = pipeline("sana-sprint")
    (folder / "vae" / "mine.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()"
    )
    change_json(folder / "model_index.json", vae=named)
    with pytest.raises(
        GeneratorError, match=r"model_index\.json: 'vae' is .*, and code that comes with a model is never"
    ):
        create(lambda _: folder, "sana-sprint")
    assert (asked, capfd.readouterr().out, list(folder.rglob("*.ran"))) == ([], "", [])


@pytest.mark.parametrize("auto", ["AutoTokenizer", "Gemma3Processor"])
def test_a_tokenizer_that_is_code_is_refused(change_json, pipeline, asked, capfd, auto):
    folder = pipeline("sana-sprint")
    mine = folder / "tokenizer" / "mine.py"
    mine.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()")
    change_json(folder / "model_index.json", tokenizer=["transformers", auto])
    # a processor loads its tokenizer in turn, and says nothing of code
    preprocessor = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 8, "width": 8}}
    (folder / "tokenizer" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    change_json(
        folder / "tokenizer" / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine",
    )  # fmt: skip
    with pytest.raises(GeneratorError, match="cannot be loaded as a SanaSprintPipeline"):
        create(lambda _: folder, "sana-sprint")
    assert (asked, capfd.readouterr().out, list(folder.rglob("*.ran"))) == ([], "", [])


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("place", ["../../outside.safetensors", "{root}/outside.safetensors"])
def test_an_index_that_leads_out_is_refused(pipeline, part, place):
    folder = pipeline("sana-sprint")
    file = next((folder / part).glob("*.safetensors"))
    keys, outside = load_file(file), folder.parent / "outside.safetensors"
    file.rename(outside)
    weight_map = dict.fromkeys(keys, place.format(root=folder.parent))
    file.with_name(f"{file.name}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    with pytest.raises(
        GeneratorError, match=r"index\.json: '.*' names '.*outside\.safetensors', but only files"
    ):
        create(lambda _: folder, "sana-sprint")


@pytest.mark.parametrize("path", ["transformer", "vae/config.json", "text_encoder/model.safetensors"])
def test_a_link_that_leads_out_is_refused(pipeline, path):
    folder = pipeline("sana-sprint")
    (folder / path).rename(folder.parent / "elsewhere")
    (folder / path).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(GeneratorError, match=f"{path} is a link out of its folder"):
        create(lambda _: folder, "sana-sprint")


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t: t.fill_(NAN), "holds NaN or infinite numbers"),
        (lambda t: t.fill_(INF), "holds NaN or infinite numbers"),
        (lambda t: t.long(), "holds I64, but weights are"),
        (lambda t: t.to(torch.complex64), "holds C64, but weights are"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused_by_file_and_key(pipeline, part, wrong, said):
    folder = pipeline("sana-sprint")
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    key = sorted(tensors)[-1]
    save_file(tensors | {key: wrong(tensors[key].clone())}, file, {"format": "pt"})
    with pytest.raises(GeneratorError, match=f"{part}/{file.name}: '{key}' {said}"):
        create(lambda _: folder, "sana-sprint")
