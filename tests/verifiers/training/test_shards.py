from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.verifiers.training.shards import DataCard, ShardDataset, ShardError, ShardWriter, read_data_card

CARD = DataCard("labels", "nano", "abc", 1, "hidden", 5, (4, 8), "float16", "00")


def rows(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {"prompt_id": i, "prompt": f"a photo of {i}", "tag": "colors", "seed": 0, "index": i,
         "caption": "", "correct": i % 2 == 0}
        for i in range(first, first + count)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    writer = ShardWriter(tmp_path / "shards", CARD)
    torch.manual_seed(0)
    for i, count in enumerate((3, 2)):
        features = torch.arange(3 * i, 3 * i + count).half()[:, None, None].expand(-1, 4, 8)
        writer.write(i, features, rows(count, 3 * i))
    writer.finish({"correct_percent": 60.0})
    return tmp_path / "shards"


def test_what_was_written_is_read(folder):
    data = ShardDataset(folder, stage="labels", generator="nano", reads="hidden", block=5)
    assert len(data) == 5
    assert [data[i][0][0, 0].item() for i in range(5)] == [0, 1, 2, 3, 4]
    assert [data[i][1]["prompt_id"] for i in range(5)] == [0, 1, 2, 3, 4]
    assert data.correct.tolist() == [True, False, True, False, True]
    features, found = data.batch([4, 0])
    assert features.shape == (2, 4, 8)
    assert [r["index"] for r in found] == [4, 0]
    assert data.card.metrics == {"correct_percent": 60.0}
    assert read_data_card(folder) == data.card


def test_an_unfinished_folder_is_not_taken_for_whole(tmp_path):
    writer = ShardWriter(tmp_path / "shards", CARD)
    writer.write(0, torch.zeros(1, 4, 8).half(), rows(1))
    with pytest.raises(ShardError, match="unfinished: resume it"):
        ShardDataset(tmp_path / "shards")
    again = ShardWriter(tmp_path / "shards", CARD)
    assert again.done(0)
    assert not again.done(1)
    assert not again.finished


def test_a_shard_killed_between_its_files_is_not_done(tmp_path):
    writer = ShardWriter(tmp_path, CARD)
    writer.write(0, torch.zeros(1, 4, 8).half(), rows(1))
    (tmp_path / "shard-00000.sha256").unlink()
    assert not writer.done(0)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"block": 7}, "of block 5, not of block 7"),
        ({"generator": "sana-sprint"}, "of generator nano, not of generator sana-sprint"),
        ({"stage": "alignment"}, "of stage labels, not of stage alignment"),
        ({"reads": "latents"}, "of features hidden, not of features latents"),
    ],
)
def test_shards_of_something_else_are_refused(folder, wanted, sentence):
    with pytest.raises(ShardError, match=sentence):
        ShardDataset(folder, **wanted)


def test_a_changed_byte_is_found(folder):
    file = folder / "shard-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ShardError, match="SHA-256 differs"):
        ShardDataset(folder)


def test_a_missing_shard_is_one_sentence(folder):
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(ShardError, match=r"shard-00001.safetensors or its .jsonl cannot be read"):
        ShardDataset(folder)


def test_another_collection_does_not_mix_in(folder):
    with pytest.raises(ShardError, match="holds a collection with block 5, not 3"):
        ShardWriter(folder, DataCard(**{**vars(CARD), "block": 3}))


def test_wrong_features_and_rows_are_refused(tmp_path):
    writer = ShardWriter(tmp_path, CARD)
    with pytest.raises(ShardError, match="float32 a sample"):
        writer.write(0, torch.zeros(1, 4, 8), rows(1))
    with pytest.raises(ShardError, match="do not fit 2 rows"):
        writer.write(0, torch.zeros(1, 4, 8).half(), rows(2))
    with pytest.raises(ShardError, match="lacks 'correct'"):
        writer.write(
            0, torch.zeros(1, 4, 8).half(), [{k: v for k, v in rows(1)[0].items() if k != "correct"}]
        )


def test_a_full_disk_is_one_sentence_and_leaves_no_shard(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, CARD)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="is full; make room"):
        writer.write(0, torch.zeros(1, 4, 8).half(), rows(1))
    assert not writer.done(0)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["collection.json"]


def test_the_hash_is_of_all_data(folder):
    card = read_data_card(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [s["rows"] for s in manifest["shards"]] == [3, 2]
    changed = DataCard(**{**vars(card), "shards": card.shards[:1]})
    assert card.sha256() != changed.sha256()
