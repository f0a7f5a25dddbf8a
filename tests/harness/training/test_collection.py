"""Two real shards of the nano generator, all three kinds of features, killed and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vhsbench.verifiers.nano
from vhsbench import generators
from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.geneval.detector import judge
from vhsbench.harness.geneval.nano_prompts import as_evaluated, nano_prompts
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.inference.candidates import CandidateError
from vhsbench.harness.training.captioners import SceneCaptioner
from vhsbench.harness.training.clip_score import open_clip_score
from vhsbench.harness.training.collection import Collector, DataError, Part, summarise
from vhsbench.harness.training.data_config import ClipScoreConfig
from vhsbench.harness.training.sources import Sample, label_samples
from vhsbench.verifiers.training.shards import ShardDataset, ShardError

KINDS = ("hidden", "latents", "images")
CLIP = Path(vhsbench.verifiers.nano.__file__).parent / "weights" / "clip"
SIZE = 6  # samples a shard


def part(count=10, **more):
    samples = label_samples(as_evaluated(nano_prompts()["train"], count), 1)
    return replace(Part("train", "labels", samples, root=7), **more)


def folders(root):
    return {kind: Path(root) / kind for kind in KINDS}


class Counting(ShapeDetector):
    def __init__(self):
        self.images = 0

    def detect(self, images):
        self.images += len(images)
        return super().detect(images)


@pytest.fixture(scope="module")
def generator():
    return generators.create("nano")


def collector(generator, **more):
    options = {"detector": ShapeDetector(), "captioner": SceneCaptioner(), "batch_size": 4} | more
    return Collector(
        generator, more.pop("reads", KINDS), 5, **{k: v for k, v in options.items() if k != "reads"}
    )


@pytest.fixture(scope="module")
def whole(generator, tmp_path_factory):
    """(folder, cards, the detector) of an undisturbed collection."""
    root, detector = tmp_path_factory.mktemp("whole"), Counting()
    score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
    made = collector(generator, detector=detector, clip_score=score)
    return root, made.collect(part(), folders(root), SIZE), detector


def content(root):
    """Every file but hidden ones, by name."""
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(Path(root).rglob("*")) if f.is_file()}


def test_shards_hold_what_verifiers_read(whole, generator):
    root, cards, _ = whole
    assert [s.rows for s in cards["hidden"].shards] == [6, 4]
    data = {kind: ShardDataset(root / kind, stage="labels", generator="nano", reads=kind) for kind in KINDS}
    assert data["hidden"].card.block == 5
    assert data["latents"].card.block is None
    assert data["images"].card.dtype == "uint8"
    assert data["hidden"].rows == data["latents"].rows == data["images"].rows
    # any sample can be made again from its row
    for i in (0, 7):
        row = data["hidden"].rows[i]
        noise = generator.noise([candidate_seed(row["seed"], row["prompt_id"], row["index"])])
        hidden = generator.head(generator.encode([row["prompt"]]), noise, 5)
        assert torch.allclose(data["hidden"][i][0].float(), hidden.features[0].float(), atol=0.03, rtol=0.01)
        latents = generator.tail(hidden)
        assert torch.allclose(data["latents"][i][0].float(), latents[0].float(), atol=0.03)
        picture = generator.decode(latents)[0]
        assert data["images"][i][0].shape == (64, 64, 3)
        assert (
            data["images"][i][0].float() - torch.tensor(list(picture.getdata())).view(64, 64, 3)
        ).abs().max() < 8


def test_verdicts_and_captions_are_of_the_images(whole):
    from PIL import Image

    root, cards, _ = whole
    data = ShardDataset(root / "images")
    pictures = [Image.fromarray(data[i][0].numpy()) for i in range(10)]
    metadata = [s.metadata for s in part().samples]
    assert [v.correct for v in judge(ShapeDetector(), pictures, metadata)] == data.correct.tolist()
    assert SceneCaptioner().caption(pictures) == [r["caption"] for r in data.rows]
    assert cards["images"].metrics["correct_percent"] == pytest.approx(
        100 * data.correct.float().mean().item()
    )
    by_tag = [v for k, v in cards["images"].metrics.items() if k.startswith("correct_percent.")]
    assert by_tag
    assert cards["images"].metrics["clip_score"] == pytest.approx(
        sum(r["clip_score"] for r in data.rows) / 10
    )


def test_one_detection_serves_verdict_and_caption(whole):
    assert whole[2].images == 10


def test_what_is_finished_is_not_made_again(whole, generator):
    root, cards, _ = whole
    before = content(root)
    detector = Counting()
    score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
    made = collector(generator, detector=detector, clip_score=score)
    assert made.collect(part(), folders(root), SIZE) == cards
    assert detector.images == 0
    assert content(root) == before


_KILLED = """
import os, signal, sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_collection as t
torch.set_num_threads(1)  # as in the tests: rounding depends on it
from vhsbench.verifiers.training.shards import ShardWriter
write = ShardWriter.write
def deadly(self, i, features, rows):
    if i == 1 and self.card.reads == "latents":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, i, features, rows)
ShardWriter.write = deadly
score = t.open_clip_score(t.ClipScoreConfig(model=str(t.CLIP)), "cpu")
t.collector(t.generators.create("nano"), clip_score=score).collect(t.part(), t.folders(sys.argv[1]), t.SIZE)
"""


def test_killed_and_resumed_is_as_if_it_had_not_been(whole, generator, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # killed between the kinds of shard 1: hidden has it, the others do not; nothing is taken for whole
    assert (tmp_path / "hidden" / "shard-00001.sha256").exists()
    assert not (tmp_path / "latents" / "shard-00001.sha256").exists()
    with pytest.raises(ShardError, match="unfinished"):
        ShardDataset(tmp_path / "hidden")
    detector = Counting()
    score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
    collector(generator, detector=detector, clip_score=score).collect(part(), folders(tmp_path), SIZE)
    assert detector.images == 4  # shard 1 alone
    assert content(tmp_path) == content(whole[0])


def test_workers_share_the_shards(whole, generator, tmp_path):
    score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
    made = collector(generator, clip_score=score)
    assert made.collect(part(), folders(tmp_path), SIZE, worker=(1, 2)) is None
    assert not (tmp_path / "hidden" / "shard-00000.sha256").exists()
    assert made.collect(part(), folders(tmp_path), SIZE, worker=(0, 2)) == whole[1]
    assert content(tmp_path) == content(whole[0])


def test_another_block_or_prompt_does_not_mix_in(whole, generator, tmp_path):
    shutil.copytree(whole[0], tmp_path / "data")
    other = Collector(generator, ("hidden",), 3, detector=ShapeDetector())
    with pytest.raises(ShardError, match="with block 5, not 3"):
        other.collect(part(), folders(tmp_path / "data"), SIZE)
    for other, size in ((part(8), SIZE), (part(root=8), SIZE), (part(), SIZE + 1)):
        score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
        with pytest.raises(ShardError, match=r"with (prompts_sha256|seed 7, not 8|shard_size 6, not 7)"):
            collector(generator, clip_score=score).collect(other, folders(tmp_path / "data"), size)


def test_progress_counts_samples(generator, tmp_path):
    seen = []
    collector(generator).collect(part(), folders(tmp_path), SIZE, seen.append)
    assert [(p.step, p.steps) for p in seen] == [(0, 10), (4, 10), (6, 10), (10, 10)]


def test_features_keep_the_generators_own_16_bits(tmp_path):
    brain = generators.create("nano", dtype="bfloat16")
    cards = collector(brain, reads=("hidden", "latents")).collect(part(), folders(tmp_path), SIZE)
    assert cards["hidden"].dtype == "bfloat16"


def test_batches_shrink_where_memory_runs_out(whole, generator, tmp_path, monkeypatch):
    decode, sizes = generator.decode, []

    def small(latents):
        sizes.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    monkeypatch.setattr(generator, "decode", small)
    made = collector(generator)
    made.collect(part(), folders(tmp_path), SIZE)
    assert sizes == [1, 4, 2, 2, 2, 2, 2]  # a look at the shapes, the batch that failed, two shards in twos
    before, after = (ShardDataset(root / "hidden").rows for root in (whole[0], tmp_path))
    assert [{**r, "clip_score": 0} for r in after] == [{**r, "clip_score": 0} for r in before]
    monkeypatch.setattr(generator, "decode", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        list(made.batches(part()))


def test_alignment_needs_no_detector_and_refines_by_pictures(generator, tmp_path):
    generator.decode(generator.denoise(generator.encode(["a photo of a star"]), generator.noise([1])))[
        0
    ].save(tmp_path / "star.png")
    samples = [
        Sample(0, 0, {"prompt": "noisy", "tag": ""}, tmp_path / "star.png"),
        Sample(1, 0, {"prompt": "a photo of a red ring", "tag": ""}),
    ]
    score = open_clip_score(ClipScoreConfig(model=str(CLIP)), "cpu")
    made = Collector(generator, ("hidden",), 5, captioner=SceneCaptioner(), clip_score=score)
    card = made.collect(Part("alignment", "alignment", samples, 3), {"hidden": tmp_path / "a"}, 8)["hidden"]
    assert card.stage == "alignment"
    data = ShardDataset(tmp_path / "a")
    assert data.rows[0]["prompt"].startswith("one star : a ")
    assert data.rows[1]["prompt"] == "a photo of a red ring"
    assert all(r["caption"] and "correct" not in r for r in data.rows)
    # B.1: what the pictures came with fits them less than what was made of them
    assert card.metrics["source_clip_score"] == data.rows[0]["source_clip_score"]
    assert card.metrics["source_clip_score"] < card.metrics["clip_score"]
    missing = [replace(samples[0], picture=tmp_path / "absent.png")]
    with pytest.raises(DataError, match=r"data.captions.images: .*absent.png"):
        made.collect(Part("alignment", "alignment", missing, 3), {"hidden": tmp_path / "b"}, 8)


def test_a_generator_of_two_steps_is_refused_for_hidden_states():
    two = generators.create("nano", steps=2)
    with pytest.raises(DataError, match="one-step generator's hidden states, but nano is set to 2 steps"):
        Collector(two, ("hidden",), 5)
    assert Collector(two, ("latents",)).reads == ("latents",)
    with pytest.raises(DataError, match=r"hidden states need a block"):
        Collector(generators.create("nano"), ("hidden",))


def test_labels_of_one_class_are_refused_and_leave_no_manifest(generator, tmp_path):
    class Harsh(ShapeDetector):
        def detect(self, images):
            return [{} for _ in images]

    with pytest.raises(DataError, match=r"the 10 labels of data.train are all wrong"):
        collector(generator, detector=Harsh()).collect(part(), folders(tmp_path), SIZE)
    with pytest.raises(ShardError, match="unfinished"):
        ShardDataset(tmp_path / "hidden")


def test_class_balance_by_task():
    rows = [{"prompt_id": i // 2, "tag": tag, "correct": c} for i, (tag, c) in enumerate(
        [("colors", True), ("colors", False), ("counting", False), ("counting", False)])]  # fmt: skip
    assert summarise(rows, "train") == {
        "prompts": 2, "correct_percent": 25, "correct_percent.counting": 0, "correct_percent.colors": 50,
    }  # fmt: skip


def test_features_that_overflow_are_one_sentence(generator, tmp_path, monkeypatch):
    head = generator.head

    def huge(cond, noise, block):
        found = head(cond, noise, block)
        return replace(found, streams=tuple(s.float() * 1e30 for s in found.streams))

    monkeypatch.setattr(generator, "head", huge)
    with pytest.raises(DataError, match=r"not finite in float16; set data.dtype"):
        Collector(generator, ("hidden",), 5, dtype=torch.float16).collect(
            part(stage="alignment"), folders(tmp_path), SIZE
        )


def test_a_disk_that_is_too_small_is_told_first(generator, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"10 samples need 0.0 GB, but the disk of .* has 0.0 GB left"):
        collector(generator).collect(part(), folders(tmp_path), SIZE)


def test_nothing_to_collect_is_one_sentence(generator, tmp_path):
    with pytest.raises(DataError, match=r"data.train: there is nothing"):
        collector(generator).collect(part(samples=[]), folders(tmp_path), SIZE)


@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_features_that_are_no_numbers_are_told_with_their_image(tmp_path, monkeypatch, value):
    """NaN is the generator's own; a large number is beyond the range of what is kept."""
    own = generators.create("nano")
    original = own.head

    def spoiled(cond, noise, block):
        hidden = original(cond, noise, block)
        streams = (hidden.streams[0].clone(),)
        if len(streams[0]) > 1:  # not the one that shows the shapes
            streams[0][1, 0, 0] = value
        return replace(hidden, streams=streams)

    monkeypatch.setattr(own, "head", spoiled)
    made = part()
    second = made.samples[1]
    text = second.metadata["prompt"]
    which = rf"the features of candidate {second.index} of prompt {second.prompt_id} \('{text}'\), seed 7, by generator"
    error, why = (
        (CandidateError, "are NaN or infinite") if value != value else (DataError, "not finite in float16")
    )
    with pytest.raises(error, match=rf"{which} 'nano' .*{why}"):
        collector(own, reads=("hidden",), captioner=None).collect(made, {"hidden": tmp_path}, SIZE)


def test_a_clip_score_that_is_no_number_is_told_with_its_image(generator, tmp_path):
    def odd(images, captions):
        return [0.5] * (len(images) - 1) + [float("nan")]

    odd.name = "odd"
    with pytest.raises(
        DataError, match=r"the CLIP-Score of candidate \d+ of prompt \d+ .*, seed 7, .* is nan"
    ):
        collector(generator, reads=("images",), clip_score=odd).collect(part(), {"images": tmp_path}, SIZE)
