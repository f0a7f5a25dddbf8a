from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from PIL import Image

from vhsbench import verifiers
from vhsbench.generators import specs
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.verifiers.checkpoint import CheckpointError, save_checkpoint
from vhsbench.verifiers.verifier import HostError

LATENTS = {"mm_vision_tower": "vae", "mm_vision_select_feature": "latent"}


@pytest.mark.parametrize(
    ("kind", "generator", "width", "tokens", "connector"),
    [
        ("vhs", "sana-sprint", 2240, 1024, 2240 * 896 + 896 + 896 * 896 + 896),
        ("vhs", "pixart-alpha-dmd", 1152, 1024, 1152 * 896 + 896 + 896 * 896 + 896),
        ("vhs", "flux-schnell", 3072, 4096, 3072 * 896 + 896 + 896 * 896 + 896),
        ("mllm-ae", "sana-sprint", 32, 1024, 32 * 896 + 896 + 896 * 896 + 896),
        ("mllm-ae", "pixart-alpha-dmd", 4, 4096, 4 * 896 + 896 + 896 * 896 + 896),
    ],
)
def test_the_full_size_model_on_meta(kind, generator, width, tokens, connector):
    verifier = verifiers.create(kind, checkpoint="random", generator=generator, device="meta")
    info = verifier.info()
    assert (info.feature_width, info.tokens, info.generator) == (width, tokens, generator)
    assert info.block == (7 if kind == "vhs" else None)
    assert info.parameters == 494_032_768 + connector  # Qwen2.5-0.5B's own count, embeddings tied
    side = int(tokens**0.5)
    shape = (2, tokens, width) if kind == "vhs" else (2, width, side, side)
    found = verifier.score(["a", "b"], torch.empty(shape, dtype=torch.bfloat16, device="meta"))
    assert (found.score.shape, found.score.device.type) == ((2,), "meta")


@pytest.mark.parametrize("block", ["five", [], [7, 3], [5, 5], 5.0, True, -1])
def test_what_is_no_block_is_one_sentence(block):
    with pytest.raises(CheckpointError, match="a block, 0-based, or several in ascending order, not"):
        verifiers.create("vhs", checkpoint="random", generator="sana-sprint", device="meta", block=block)


def test_the_full_size_clip_on_meta():
    verifier = verifiers.create("mllm-clip", checkpoint="random", generator="sana-sprint", device="meta")
    assert (verifier.info().tokens, verifier.info().feature_width) == (576, 1024)
    assert {p.dtype for p in verifier.tokens.model.parameters()} == {torch.bfloat16}
    assert verifier.tokens([Image.new("RGB", (400, 500))]).shape == (1, 576, 1024)
    assert verifier.score(["a"], [Image.new("RGB", (1024, 1024))]).score.shape == (1,)


def test_a_random_vhs_reads_the_block_of_the_real_one():
    made = verifiers.create("vhs", checkpoint="random", generator="nano", device="meta")
    assert made.block == verifiers.create("vhs").block == 6
    assert verifiers.create("vhs", checkpoint="random", generator="sana-sprint", device="meta").block == 7


def test_an_unknown_generator_block_or_dtype_is_refused():
    with pytest.raises(RegistryError, match="did you mean 'sana-sprint'"):
        verifiers.create("vhs", checkpoint="random", generator="sana-sprnt", device="meta")
    with pytest.raises(CheckpointError, match="'sana-sprint' has blocks 0 to 19, not block 20"):
        verifiers.create("vhs", checkpoint="random", generator="sana-sprint", block=20, device="meta")
    with pytest.raises(CheckpointError, match="did you mean 'bfloat16'"):
        verifiers.create("vhs", checkpoint="random", dtype="bloat16", device="meta")


def test_nano_has_two_vhs_by_their_block():
    early, late = verifiers.create("vhs", block=3), verifiers.create("vhs", block=6)
    assert (early.block, late.block, verifiers.create("vhs").block) == (3, 6, 6)
    assert early.checkpoint_sha256 != late.checkpoint_sha256 == verifiers.create("vhs").checkpoint_sha256
    with pytest.raises(CheckpointError, match="reads block 6, not block 2"):
        verifiers.create("vhs", block=2)


def test_a_width_that_does_not_fit_the_generator_is_refused(official, statistics):
    folder = official()
    with pytest.raises(
        CheckpointError,
        match=r"mm_projector.0.weight' has shape \[H, 2240\], but generator 'pixart-alpha-dmd' needs \[H, 1152\]",
    ):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics, generator="pixart-alpha-dmd")
    with pytest.raises(CheckpointError, match="reads block 7, not block 3"):
        verifiers.create("vhs", checkpoint=folder, normalization=statistics, block=3)
    with pytest.raises(CheckpointError, match=r"has no normalization\.safetensors; give normalization="):
        verifiers.create("vhs", checkpoint=folder)


def test_a_width_that_fits_several_generators_or_none_needs_a_name(official):
    folder = official(16, LATENTS)
    with pytest.raises(CheckpointError, match=r"fits 'flux-schnell', 'sd3.5-turbo': give generator="):
        verifiers.create("mllm-ae", checkpoint=folder)
    assert verifiers.create("mllm-ae", checkpoint=folder, generator="sd3.5-turbo").info().tokens == 128**2
    with pytest.raises(CheckpointError, match="width 17 fits none that is known"):
        verifiers.create("mllm-ae", checkpoint=official(17, LATENTS))


def test_a_checkpoint_refuses_another_generator_than_it_records(tmp_path):
    with pytest.raises(CheckpointError, match="reads hidden states of 'nano', not of 'sana-sprint'"):
        verifiers.create("vhs", checkpoint=verifiers.nano.WEIGHTS / "vhs", generator="sana-sprint")
    vhs = verifiers.create("vhs")
    pair = (vhs.tokens.mean, vhs.tokens.variance)
    card = replace(vhs.card, generator="mine")
    save_checkpoint(tmp_path / "mine", vhs.model, vhs.question.tokenizer, card, pair)
    assert verifiers.create("vhs", checkpoint=tmp_path / "mine").info().generator == "mine"


def test_vhs_refuses_a_host_that_it_does_not_fit(nano):
    vhs = verifiers.create("vhs")
    vhs.check_host(nano)
    for change, said in (
        ({"name": "other"}, r"reads hidden states of 'nano' \(block 6, width 128\), not of 'other'"),
        ({"steps": 4}, "reads hidden states of one-step generation, but 'nano' takes 4 steps"),
        ({"blocks": 2}, "reads block 6, but 'nano' has blocks 0 to 1"),
    ):
        host = SimpleNamespace(**({"name": "nano", "steps": 1, "blocks": 8} | change))
        with pytest.raises(HostError, match=said):
            vhs.check_host(host)
        for kind in ("mllm-clip", "mllm-ae"):
            verifiers.create(kind).check_host(host)


def test_best_of_n_checks_the_host_before_it_generates(nano):
    random = verifiers.create("vhs", checkpoint="random", generator="sana-sprint", device="meta")
    with pytest.raises(HostError, match=r"'sana-sprint' \(block 7, width 2240\), not of 'nano'"):
        best_of_n(nano, random, "a photo of a star", range(2))


def test_the_default_checkpoints(monkeypatch, official, statistics):
    """None is nano's bundled one, for SANA-Sprint the authors' with the authors' statistics."""
    asked = []
    folder = official()

    def snapshot(repo, **_):
        asked.append(repo)
        return str(folder)

    def download(repo, file, **options):
        asked.append((repo, file, options["repo_type"]))
        return str(statistics["variance" in file])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    vhs = verifiers.create("vhs", generator="sana-sprint")
    assert asked == [
        ("aimagelab/vhs-checkpoints", "block_7_mean_bf16.pt", "dataset"),
        ("aimagelab/vhs-checkpoints", "block_7_variance_bf16.pt", "dataset"),
        "aimagelab/vhs-hidden-verifier",
    ]
    assert vhs.info().source == f"aimagelab/vhs-hidden-verifier@{folder.name}"
    assert torch.equal(vhs.tokens.mean, torch.load(statistics[0]).reshape(-1))
    same = verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    assert same.checkpoint_sha256 == vhs.checkpoint_sha256
    torch.save(torch.load(statistics[1]) * 2, statistics[1])
    other = verifiers.create("vhs", checkpoint=folder, normalization=statistics)
    assert other.checkpoint_sha256 != vhs.checkpoint_sha256


@pytest.mark.parametrize(("kind", "generator"), [("vhs", "flux-schnell"), ("mllm-ae", "sana-sprint")])
def test_a_generator_without_a_published_verifier_needs_a_checkpoint(kind, generator):
    with pytest.raises(
        CheckpointError, match=f"no '{kind}' verifier for generator '{generator}' is published"
    ):
        verifiers.create(kind, generator=generator)


def test_a_hub_id_with_its_revision(monkeypatch, official):
    asked = {}
    folder = official(4, LATENTS)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **o: asked.update(repo=repo, **o) or str(folder)
    )
    verifier = verifiers.create("mllm-ae", checkpoint="someone/verifier@abc123")
    assert (asked["repo"], asked["revision"]) == ("someone/verifier", "abc123")
    assert verifier.info().source == f"someone/verifier@{folder.name}"


def test_offline_and_unknown_names_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"'someone/verifier' \(revision 'main'\) is not in the hub cache"
    ) as caught:
        verifiers.create("vhs", checkpoint="someone/verifier@main")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"there is no folder '\./nowhere/at/all'"):
        verifiers.create("vhs", checkpoint="./nowhere/at/all")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalEntryNotFoundError("no"), "the hub cannot be reached"),
        (
            RevisionNotFoundError("no", response=SimpleNamespace(headers={}, request=None)),
            "has no such revision",
        ),
    ],
)
def test_what_the_hub_says_is_one_sentence(monkeypatch, error, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=said):
        verifiers.create("vhs", checkpoint="someone/verifier")


def test_specs_agree_with_the_bundled_generator(nano):
    info, spec = nano.info(), specs.get("nano")
    assert (info.blocks, info.tokens, info.hidden_width) == (spec.blocks, spec.tokens, spec.hidden_width)
