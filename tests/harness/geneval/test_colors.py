"""Colours: what CLIP is shown and asked, and that a whole batch is one forward."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from vhsbench.generators.nano.world import PALETTE
from vhsbench.harness.geneval.colors import MODEL, TEMPLATES, ColorModelError, ColorNamer, crop
from vhsbench.harness.geneval.detector import ColorRequest
from vhsbench.harness.geneval.rules import COLORS, Detection


class MeanColor(torch.nn.Module):
    """Embeds a picture as its mean colour, and a text as the colour that it names."""

    def __init__(self, ties: bool = False) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.ties, self.images, self.texts = ties, [], []

    def encode_image(self, pixels):
        self.images.append(len(pixels))
        return pixels.mean((2, 3)) - 0.5

    def encode_text(self, texts):
        self.texts.append(len(texts))
        colors = [COLORS[0] if self.ties else next(c for c in COLORS if f" {c}" in t) for t in self.asked]
        return torch.tensor([PALETTE[c] for c in colors], dtype=torch.float32) - 0.5

    def tokenize(self, texts):
        self.asked = texts
        return torch.zeros(len(texts), 1)


def namer(**options) -> ColorNamer:
    model = MeanColor(**options)

    def transform(image):
        return torch.from_numpy(np.asarray(image.resize((8, 8)), dtype=np.float32) / 255).permute(2, 0, 1)

    return ColorNamer(model, transform, model.tokenize, "mean")


def solid(color: str, size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), tuple(round(255 * x) for x in PALETTE[color]))


def test_names_what_is_in_the_mask_of_each_request_in_one_forward():
    image = solid("blue")
    image.paste(solid("red", 16), (0, 0))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:16, :16] = True
    inside, outside = Detection((0, 0, 16, 16), 0.9, mask), Detection((16, 16, 32, 32), 0.9, ~mask)
    named = namer()
    requests = [ColorRequest(image, "cat", [inside, outside]), ColorRequest(solid("green"), "dog", [outside])]
    assert named.name_colors(requests) == [["red", "blue"], ["green"]]
    assert named.model.images == [3]


def test_text_is_encoded_once_a_class_with_geneval_s_templates():
    named = namer()
    whole = Detection((0, 0, 32, 32), 0.9)
    for name in ("cat", "cat", "dog"):
        named.name_colors([ColorRequest(solid("red"), name, [whole])])
    assert named.model.texts == [len(COLORS) * len(TEMPLATES)] * 2
    assert named.model.asked[:4] == [
        "a photo of a red dog", "a photo of a red-colored dog", "a photo of a red object", "a photo of a orange dog",
    ]  # fmt: skip


def test_the_first_of_equal_colours_wins():
    whole = Detection((0, 0, 32, 32), 0.9)
    assert namer(ties=True).name_colors([ColorRequest(solid("blue"), "cat", [whole])]) == [["red"]]


def test_nothing_asked_runs_nothing():
    named = namer()
    assert named.name_colors([ColorRequest(solid("red"), "cat", [])]) == [[]]
    assert named.model.images == []


def test_a_crop_is_grey_outside_the_mask_and_its_edges_round_half_to_even():
    image = Image.new("RGB", (10, 8), "red")
    mask = np.zeros((8, 10), dtype=bool)
    mask[2:4, 2:6] = True
    cut = crop(image, Detection((1.5, 0.5, 6.5, 4.0), 0.9, mask))
    assert cut.size == (4, 4)  # x 2..6, y 0..4
    pixels = np.asarray(cut)
    assert (pixels[2:4] == [255, 0, 0]).all()
    assert (pixels[:2] == 0x99).all()
    assert crop(image, Detection((0, 0, 3, 3), 0.9)).getpixel((0, 0)) == (255, 0, 0)


@given(
    corner=st.tuples(st.floats(-3, 11), st.floats(-3, 9)),
    size=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    seed=st.integers(0, 99),
)
def test_a_crop_is_that_of_the_whole_image_masked(corner, size, seed):
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    mask = random.random((8, 10)) < 0.5
    box = (*corner, corner[0] + size[0], corner[1] + size[1])
    grey = Image.new("RGB", image.size, "#999")
    whole = Image.composite(image, grey, Image.fromarray(mask)).crop(tuple(map(round, box)))
    for each in (mask, torch.from_numpy(mask)):
        cut = crop(image, Detection(box, 0.9, each))
        assert cut.size == whole.size
        assert cut.tobytes() == whole.tobytes()


@pytest.fixture(scope="module")
def tiny() -> ColorNamer:
    """A real open_clip model, small, with the real transform and tokenizer."""
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=32, image_size=224)
    text = open_clip.CLIPTextCfg(context_length=77, vocab_size=49408, width=32, heads=2, layers=1)
    model = open_clip.CLIP(16, vision, text, quick_gelu=True)
    transform = open_clip.image_transform(224, is_train=False)
    return ColorNamer(model, transform, open_clip.get_tokenizer(MODEL), "tiny")


def test_a_tiny_open_clip_model_agrees_with_one_crop_at_a_time(tiny):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    mask = rng.random((64, 96)) < 0.5
    rows = [Detection((4 * i, i, 40 + 4 * i, 30 + 2 * i), 0.9, mask) for i in range(5)]
    together = tiny.name_colors([ColorRequest(image, "cat", rows[:3]), ColorRequest(image, "tv", rows[3:])])
    texts = tiny.tokenizer([t.format(c=c, name="cat") for c in COLORS for t in TEMPLATES])
    with torch.no_grad():
        features = (
            torch.nn.functional.normalize(tiny.model.encode_text(texts), dim=-1).reshape(10, 3, -1).mean(1)
        )
        features = features / features.norm(dim=-1, keepdim=True)
        for detection, color in zip(rows[:3], together[0], strict=True):
            pixels = tiny.transform(crop(image, detection))[None]
            assert pixels.shape == (1, 3, 224, 224)
            logits = tiny.model.encode_image(pixels) @ features.T
            assert COLORS[int(logits.argmax())] == color
    assert [len(c) for c in together] == [3, 2]


def test_the_transform_cuts_the_ends_off_long_objects(tiny):
    long = Image.new("RGB", (300, 100), "blue")
    long.paste(Image.new("RGB", (100, 100), "red"), (0, 0))
    red, _, blue = tiny.transform(long)[:, 112, 40]
    assert blue > 0 > red


def test_unknown_weights_are_one_sentence():
    with pytest.raises(ColorModelError, match="neither a file, 'random', nor a pretrained tag of ViT-L-14"):
        ColorNamer.load("opanai")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """weights(changes, suffix): a file of weights for the model "tiny", in which some tensors are replaced."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 32, "image_size": 224}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)

    def write(changes=None, suffix=".safetensors"):
        torch.manual_seed(0)
        state = {k: v.clone() for k, v in open_clip.create_model("tiny").state_dict().items()} | (
            changes or {}
        )
        file = tmp_path / f"colors{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
        return str(file)

    return write


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file_are_what_it_holds(weights, suffix):
    proj = torch.full((32, 16), 0.25)
    model = ColorNamer.load(weights({"visual.proj": proj}, suffix), model="tiny").model
    assert torch.equal(model.visual.proj, proj)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.full((32, 16), float("nan")), "holds NaN or infinite numbers"),
        (torch.full((32, 16), float("inf")), "holds NaN or infinite numbers"),
        (torch.ones(32, 16, dtype=torch.int64), "holds (I64|int64), but weights are"),
        (torch.ones(32, 16, dtype=torch.complex64), "holds (C64|complex64), but weights are"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused_by_file_and_key(weights, suffix, wrong, said):
    with pytest.raises(ColorModelError, match=rf"cannot be loaded: .*colors\{suffix}: 'visual\.proj' {said}"):
        ColorNamer.load(weights({"visual.proj": wrong}, suffix), model="tiny")


@pytest.mark.usefixtures("weights")
def test_weights_of_numpy_are_refused(tmp_path):
    (tmp_path / "colors.npz").write_bytes(b"")
    with pytest.raises(ColorModelError, match="is of NumPy; weights are safetensors"):
        ColorNamer.load(str(tmp_path / "colors.npz"), model="tiny")


def test_a_model_from_elsewhere_which_could_bring_code_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "mine.Mine"}})
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path)}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 32, "image_size": 32}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for name in (f"local-dir:{tmp_path}", "hf-hub:someone/model"):
        with pytest.raises(ColorModelError, match=f"'{name}' is no model of open_clip's"):
            ColorNamer.load("random", model=name)
    # one of its own whose text tower is loaded in turn
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "odd", config["model_cfg"])
    with pytest.raises(ColorModelError, match=r"odd \(random\) cannot be loaded: it needs code of its own"):
        ColorNamer.load("random", model="odd")
    assert capfd.readouterr().out == ""
