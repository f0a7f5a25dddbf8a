"""CLIPScore, PickScore and HPS v2 equal the original packages, offline, on small models of the real classes."""

from __future__ import annotations

import copy
import json
import re
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vhsbench import verifiers
from vhsbench.generators.nano.world import SIZE, Item, render
from vhsbench.harness.common.registry import RegistryError
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.clip import save_clip
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.verifier import FeatureError

PROMPTS = ["a red circle", "two dogs, left of a cat", "a red circle", "5 blue vases?"]
# torchmetrics 1.9.0's clip_score of each pair alone, 100 cos, before its mean and its max with 0
TORCHMETRICS = [43.68720245, -1.16618836, 33.35941697, 18.84696960]
# hpsv2 1.2.0: outputs of its open_clip.CLIP with the fixture's weights, its tokenizer, and its preprocess_val
HPSV2 = [-0.30702883, 0.05252157, -0.26770264, -0.41121697]


def test_clip_score_is_torchmetrics_times_hessels_weight(clip_folder, pictures):
    scorer = verifiers.create("clip-score", checkpoint=clip_folder)
    expected = 2.5 * torch.tensor(TORCHMETRICS).clamp(min=0) / 100
    scores = scorer.score(PROMPTS, pictures)
    torch.testing.assert_close(scores.score, expected, atol=1e-6, rtol=1e-5)
    assert (scores.p_yes, scores.p_no) == (None, None)
    torch.testing.assert_close(scorer.value(scores.score), expected / 2.5)


def test_pick_score_is_the_logit_of_its_model(clip_folder, pictures):
    scorer = verifiers.create("pick-score", checkpoint=clip_folder)
    square = {"height": 28, "width": 28}
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=square), CLIPTokenizer.from_pretrained(clip_folder)
    )  # fmt: skip
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        logits = model(**processor(text=PROMPTS, images=pictures, return_tensors="pt", padding=True))
    expected = logits.logits_per_image.diagonal()
    scores = scorer.score(PROMPTS, pictures).score
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores, np.exp(3) / 100 * torch.tensor(TORCHMETRICS), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        scorer.value(scores), (1 + torch.tensor(TORCHMETRICS) / 100) / 2, atol=1e-6, rtol=1e-5
    )


def test_hps_v2_is_the_original_with_its_own_way_to_prepare_pictures(open_clip_folder, pictures):
    scorer = verifiers.create("hps-v2", checkpoint=open_clip_folder)
    scores = scorer.score(PROMPTS, pictures).score
    torch.testing.assert_close(scores, torch.tensor(HPSV2), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(scorer.value(scores), (1 + torch.tensor(HPSV2)) / 2, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("version", "file"), [(None, "HPS_v2_compressed.pt"), ("2.1", "HPS_v2.1_compressed.pt")]
)
def test_hps_v2_is_read_from_its_published_file(
    monkeypatch, tmp_path, open_clip_small, pictures, version, file
):
    config, model = open_clip_small
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {"ViT-H-14": config}[name])
    weights = {k: v.half().float() for k, v in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / file)
    options = {"version": version} if version else {}
    scorer = verifiers.create("hps-v2", checkpoint=tmp_path, **options)
    torch.testing.assert_close(
        scorer.score(PROMPTS, pictures).score, torch.tensor(HPSV2), atol=2e-6, rtol=1e-5
    )
    known = verifiers.REGISTRY.identity("hps-v2", checkpoint=tmp_path, **options)
    assert known["checkpoint"] == scorer.checkpoint_sha256 != ""
    del weights["logit_scale"]
    torch.save({"state_dict": weights}, tmp_path / file)
    with pytest.raises(
        CheckpointError, match=f"{file} holds no ViT-H-14 of open_clip: it lacks the key 'logit_scale'"
    ):
        verifiers.create("hps-v2", checkpoint=tmp_path, **options)


def test_clip_score_reads_an_open_clip_folder_with_open_clips_own_transform(
    open_clip_folder, open_clip_small, pictures
):
    _, model = open_clip_small
    scorer = verifiers.create("clip-score", checkpoint=open_clip_folder)
    scores = scorer.score(PROMPTS, pictures).score
    model = copy.deepcopy(model).half().float()
    transform = open_clip.image_transform(28, is_train=False)
    with torch.no_grad():
        image = model.encode_image(torch.stack([transform(p) for p in pictures]), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("ViT-H-14")(PROMPTS), normalize=True)
    torch.testing.assert_close(scores, 2.5 * (image * text).sum(-1).clamp(min=0), atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(scorer.embed(pictures), image, atol=1e-6)


def test_nanos_own_clip_knows_its_shapes_and_colours():
    scorer = verifiers.create("clip-score", generator="nano")
    things = [("circle", "red"), ("square", "blue"), ("star", "green")]
    scenes = [(Item(shape, color, SIZE / 2, SIZE / 2, 8),) for shape, color in things]
    images = [Image.fromarray((255 * render(scene)).astype(np.uint8)) for scene in scenes]
    prompts = [f"a photo of a {color} {shape}" for shape, color in things]
    table = torch.stack([scorer.score([prompt] * 3, images).score for prompt in prompts])
    assert table.argmax(1).tolist() == [0, 1, 2]
    assert (scorer.info().source, scorer.needs, scorer.device.type) == ("bundled", "images", "cpu")
    assert list(scorer.modules()) == ["clip"]


def test_what_decides_the_scores_is_known_without_loading(clip_folder):
    known = verifiers.REGISTRY.identity("clip-score", checkpoint=clip_folder, dtype="bfloat16")
    assert (known["dtype"], known["device"]) == ("bfloat16", "cpu")
    assert known["checkpoint"] == verifiers.create("clip-score", checkpoint=clip_folder).checkpoint_sha256
    bundled = verifiers.REGISTRY.identity("clip-score", generator="nano", device="cuda:1")
    assert (bundled["dtype"], bundled["device"]) == ("float32", "cuda")
    assert bundled["checkpoint"] == verifiers.create("clip-score").checkpoint_sha256
    random = verifiers.REGISTRY.identity("pick-score", checkpoint="random", device="cuda")
    assert (random["checkpoint"], random["dtype"]) == ("random", "bfloat16")


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [("clip-score", {"generator": "sana-sprint"}, 427_616_513), ("pick-score", {}, 986_109_441),
     ("hps-v2", {}, 986_109_441)],
)  # fmt: skip
def test_the_published_ones_are_pinned_and_their_costs_need_no_hub(name, options, parameters, pictures):
    with pytest.raises(
        CheckpointError, match=r"'\S+/\S+' \(revision '[0-9a-f]{40}'\) is not in the hub cache"
    ):
        verifiers.create(name, **options)
    if name == "pick-score":  # on nano clip-score's is nano's own
        listed = verifiers.describe(name)
        assert (listed.parameters, listed.needs) == (parameters, "images")
        assert re.fullmatch(r"yuvalkirstain/PickScore_v1@[0-9a-f]{40}", listed.source)
        return
    scorer = verifiers.create(name, checkpoint="random", device="meta", **options)
    assert scorer.info().parameters == parameters
    assert scorer.score(PROMPTS, pictures).score.shape == (4,)


def test_a_weight_that_is_missing_is_not_made_up(tmp_path, clip_folder):
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"its weights lack the key 'visual_projection.weight'"):
        verifiers.create("pick-score", checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("hps-v2", {"version": "3.0"}, CheckpointError, "there is no version '3.0' of HPS v2; did you mean '2.0'?"),
        ("hps-v2", {"checkpoint": WEIGHTS / "vhs"}, CheckpointError, "HPS_v2_compressed.pt"),
        ("clip-score", {"checkpoint": "here"}, CheckpointError, "there is no folder 'here'"),
        ("clip-score", {"version": "2.0"}, RegistryError, "verifier 'clip-score' has no option 'version'"),
        ("clip-score", {"dtype": "float8"}, CheckpointError, "unknown dtype 'float8'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(name, options, error, said):
    with pytest.raises(error) as raised:
        verifiers.create(name, **options)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "statistics", [{"image_mean": [0.5]}, {"image_std": [0.0, 1, 1]}, {"image_mean": "half"}]
)
def test_a_folders_own_mean_and_deviation_are_used_if_they_are_numbers(
    tmp_path, clip_folder, pictures, statistics
):
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.2, 0.3, 0.4], "image_std": [1, 0.5, 0.3]}))
    model = CLIPModel.from_pretrained(clip_folder).eval()
    levels = torch.from_numpy(np.array(picture := pictures[3])).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.2, 0.3, 0.4], [1, 0.5, 0.3]))
    text = CLIPTokenizer.from_pretrained(clip_folder)(PROMPTS[:1], return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=(levels - mean) / std, **text).logits_per_image[0]
    score = verifiers.create("pick-score", checkpoint=tmp_path).score(PROMPTS[:1], [picture]).score
    torch.testing.assert_close(score, logits, atol=1e-5, rtol=1e-5)
    file.write_text(json.dumps(statistics))
    with pytest.raises(
        CheckpointError, match=r"preprocessor_config.json: 'image_\w+' is .*, not three numbers"
    ):
        verifiers.create("pick-score", checkpoint=tmp_path)


def test_an_open_clip_of_other_words_is_refused(tmp_path, open_clip_small):
    config, _ = open_clip_small
    config = config | {"text_cfg": config["text_cfg"] | {"vocab_size": 50}}
    save_clip(tmp_path, open_clip.CLIP(**config), config)
    with pytest.raises(CheckpointError, match="has the 49,408 tokens of CLIP, or nano's 61, not 50"):
        verifiers.create("clip-score", checkpoint=tmp_path)


def test_every_prompt_needs_an_image(pictures):
    with pytest.raises(FeatureError, match="2 prompts do not fit 4 images"):
        verifiers.create("clip-score").score(["a", "b"], pictures)
