"""ImageReward equals its package on a small model, read from a file as it is published."""

from __future__ import annotations

import pytest
import torch

from vhsbench import verifiers
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.scorers import reward

PROMPTS = ["a red circle", "two dogs, left of a cat", "a red circle", "5 blue vases?"]
# image-reward 1.5's ImageReward.score, with BLIP_Pretrain of the fixture's sizes, weights and words
IMAGE_REWARD = [-0.17529605, 0.35734361, -0.07423183, -0.10196812]


def test_image_reward_is_the_package(reward_folder, pictures):
    scorer = verifiers.create("image-reward", checkpoint=reward_folder)
    scores = scorer.score(PROMPTS, pictures)
    torch.testing.assert_close(scores.score, torch.tensor(IMAGE_REWARD), atol=2e-6, rtol=1e-5)
    assert (scores.p_yes, scores.p_no) == (None, None)
    known = verifiers.REGISTRY.identity("image-reward", checkpoint=reward_folder)
    assert known["checkpoint"] == scorer.checkpoint_sha256
    (reward_folder / "vocab.txt").write_text("[PAD]\n")
    assert verifiers.REGISTRY.identity("image-reward", checkpoint=reward_folder) != known


def test_its_value_is_the_share_of_a_normal_distribution_below_it(reward_folder):
    scorer = verifiers.create("image-reward", checkpoint=reward_folder)
    values = scorer.value(torch.tensor([-1.959964, 0.0, 1.959964]))
    torch.testing.assert_close(values, torch.tensor([0.025, 0.5, 0.975]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("mlp.layers.7.bias"), "holds no ImageReward: it lacks the key 'head.4.bias'"),
        (lambda t: t.pop("blip.visual_encoder.cls_token"),
         "it lacks the key 'visual_encoder.embeddings.class_embedding'"),
        (lambda t: t.update({"mlp.layers.0.weight": torch.zeros(1024, 65)}), "'head.0.weight' has shape [1024, 65], not [1024, 64]"),
        (lambda t: t.update({"mlp.layers.7.bias": torch.tensor([torch.nan])}), "holds NaN or infinite numbers"),
        (lambda t: t.clear(), "holds no ImageReward"),
        (lambda t: t.update({"blip.visual_encoder.blocks.987654321.norm1.bias": torch.zeros(1)}),
         "it lacks the key 'visual_encoder.encoder.layers.2"),
        (lambda t: t.update({"blip.visual_encoder.patch_embed.proj.weight": torch.tensor(1.0)}), "holds no ImageReward: "),
        (lambda t: t.update({"blip.text_encoder.embeddings.word_embeddings.weight": torch.zeros(9, 0)}),
         "holds no ImageReward: "),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(reward_folder, change, said):
    tensors = torch.load(reward_folder / "ImageReward.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, reward_folder / "ImageReward.pt")
    with pytest.raises(CheckpointError) as raised:
        verifiers.create("image-reward", checkpoint=reward_folder)
    assert said in str(raised.value)


def test_words_beyond_the_embeddings_are_refused(reward_folder):
    with (reward_folder / "vocab.txt").open("a") as file:
        file.write("more\nthan\nthree\n")
    with pytest.raises(
        CheckpointError, match=r"vocab.txt: a token of its tokenizer is number \d+, but its model has"
    ):
        verifiers.create("image-reward", checkpoint=reward_folder)


def test_the_published_one_is_pinned_and_its_cost_needs_no_hub(pictures):
    listed = verifiers.describe("image-reward")
    assert (
        listed.parameters == 446_206_689
    )  # of its file's 446,665,953 less two projections that it does not use
    assert listed.source.startswith("zai-org/ImageReward@5736be03")
    with pytest.raises(
        CheckpointError, match=r"'zai-org/ImageReward' \(revision '5736be03\w+'\) is not in the hub"
    ):
        verifiers.create("image-reward")
    sizes = {"vision": reward.LARGE["vision"] | {"num_hidden_layers": 1},
             "text": reward.LARGE["text"] | {"num_hidden_layers": 1}}  # fmt: skip
    for device in ("cpu", "meta"):
        model = reward.random_reward(torch.device(device), torch.float32, sizes)
        assert reward.ImageReward("x", model).score(PROMPTS, pictures).score.shape == (4,)


def test_the_words_are_berts_where_a_folder_has_none(reward_folder):
    (reward_folder / "vocab.txt").unlink()
    with pytest.raises(
        CheckpointError, match=r"'google-bert/bert-base-uncased' \(revision '86b5e093\w+'\) is not in"
    ):
        verifiers.create("image-reward", checkpoint=reward_folder)
