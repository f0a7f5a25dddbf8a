from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vhsbench.harness.training.gemma import CAPTION_PROMPT, TAG_PROMPT, Gemma, GemmaError
from vhsbench.verifiers.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def gemma(tiny_gemma):
    return Gemma(str(tiny_gemma), dtype="float32", max_new_tokens=6, batch_size=2)


def pictures(count):
    return [Image.new("RGB", (40 + 8 * i, 32), (60 * i, 90, 200)) for i in range(count)]


def test_it_loads_when_first_asked():
    gemma = Gemma("no/such/folder")  # nothing is read yet
    with pytest.raises(CheckpointError, match="no folder 'no/such/folder'"):
        gemma.tags(["a photo of a cat"])


def test_every_image_gets_one_line(gemma):
    captions = gemma.caption(pictures(3))
    assert len(captions) == 3
    assert all(isinstance(c, str) and c == " ".join(c.split()) for c in captions)
    assert captions == gemma.caption(pictures(3))  # greedy: nothing is drawn


def test_the_answer_depends_on_image_and_text_not_on_the_batch(gemma):
    model, processor = gemma._loaded
    asked = []

    def generate(**inputs):
        asked.append(inputs)
        return torch.cat([inputs["input_ids"], torch.full((len(inputs["input_ids"]), 1), 50)], 1)

    real, model.generate = model.generate, generate
    try:
        gemma.caption(pictures(3))
        gemma.tags(["a photo of a cat", "a photo of three very long dogs"])
    finally:
        model.generate = real
    with_images, _, texts = asked
    assert with_images["pixel_values"].shape == (2, 3, 28, 28)
    image_token = processor.tokenizer.convert_tokens_to_ids("<image_soft_token>")
    assert (with_images["input_ids"] == image_token).sum(1).tolist() == [4, 4]
    said = processor.tokenizer.decode(with_images["input_ids"][0])
    assert CAPTION_PROMPT in said
    assert said.index("<image_soft_token>") < said.index("Describe")
    assert with_images["do_sample"] is False
    assert "pixel_values" not in texts
    assert texts["attention_mask"][0, 0] == 0  # padded on the left: both end where the answer begins
    assert (texts["attention_mask"][:, -1] == 1).all()
    assert "The prompt is a photo of a cat." in processor.tokenizer.decode(texts["input_ids"][0])


def test_left_padding_does_not_change_answers(gemma):
    texts = ["say", "say something about the second picture"]
    together = gemma.answers(texts)
    assert together == [gemma.answers([t])[0] for t in texts]


def test_a_prompt_with_braces_goes_in_as_it_is(gemma):
    assert "{input_prompt}" in TAG_PROMPT
    assert len(gemma.tags(["a photo of {a} cat {input_prompt}"])) == 1


def test_a_folder_of_something_else_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(GemmaError, match="holds no Gemma 3 that can be read"):
        Gemma(str(tmp_path)).tags(["a"])
    with pytest.raises(GemmaError, match="dtype 'half16'"):
        Gemma(dtype="half16")


@pytest.fixture
def copy(tiny_gemma, tmp_path):
    return shutil.copytree(tiny_gemma, tmp_path / "gemma")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json", "processor_config.json"])
def test_code_is_not_run_and_nothing_is_asked(copy, monkeypatch, capfd, file):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    ran = copy / "mine.ran"
    (copy / "mine.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()")
    auto = dict.fromkeys(("AutoConfig", "AutoProcessor"), "mine.Mine") | {
        "AutoTokenizer": ["mine.Mine", None]
    }
    given = json.loads((copy / file).read_text())
    changed = {"tokenizer_class": "Mine", "processor_class": "Mine"} if file != "config.json" else {}
    (copy / file).write_text(json.dumps(given | changed | {"auto_map": auto}))
    gemma = Gemma(str(copy), dtype="float32", max_new_tokens=2)
    if file != "processor_config.json":  # model and tokenizer are transformers' own
        assert len(gemma.tags(["a photo of a cat"])) == 1
    else:
        with pytest.raises(GemmaError, match="holds no Gemma 3 that can be read: it needs code of its own"):
            gemma.tags(["a photo of a cat"])
    assert not ran.exists()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda t: t.fill_(float("nan")), "holds NaN or infinite numbers"),
        (lambda t: t.long(), "holds I64, but weights are"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused(copy, wrong, said):
    tensors = load_file(copy / "model.safetensors")
    key = sorted(tensors)[0]
    save_file(tensors | {key: wrong(tensors[key].clone())}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(GemmaError, match=f"model.safetensors: '{key}' {said}"):
        Gemma(str(copy), dtype="float32").tags(["a photo of a cat"])
