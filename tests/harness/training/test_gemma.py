from __future__ import annotations

import pytest
import torch
from PIL import Image

from harness.training.gemma import CAPTION_PROMPT, TAG_PROMPT, Gemma, GemmaError
from verifiers.checkpoint import CheckpointError


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
