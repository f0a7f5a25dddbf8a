from __future__ import annotations

import errno
import shutil
from collections import namedtuple

import pytest
import torch

from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.verifiers.training.state import write_tensors, writing

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 30),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1 << 30),
        # as safetensors 0.8 says it, whose partial file is gone by then, and as torch.save does
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), 1 << 30),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 0),
    ],
)
def test_however_a_library_says_that_the_disk_is_full(tmp_path, monkeypatch, error, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))
    with pytest.raises(DiskFullError, match=f"the disk of {tmp_path} is full"), writing(tmp_path):
        raise error


def test_another_failure_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_shared_tensors_are_stored_once(tmp_path):
    from safetensors.torch import load_file

    shared = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "new" / "t.safetensors", {"a": shared, "tied": shared, "b": shared + 1})
    found = load_file(tmp_path / "new" / "t.safetensors")
    assert sorted(found) == ["a", "b"]
    assert torch.equal(found["a"], shared)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["t.safetensors"]
