from __future__ import annotations

import hashlib
import os

import pytest

from vhsbench.harness.common import digests
from vhsbench.harness.common.digests import file_digest, hashed_once
from vhsbench.harness.common.files import ReadError


@pytest.fixture
def settled(monkeypatch):
    """Files whose times tell every later change."""
    monkeypatch.setattr(digests, "_COARSE_NS", -1)


def test_a_file_is_hashed_once_as_long_as_it_stays_what_it_was(tmp_path, settled):
    file, hashed = tmp_path / "a", []
    file.write_bytes(b"one")

    def digest():
        hashed.append(file.read_bytes())
        return "digest"

    assert [hashed_once("kind", [file], digest) for _ in range(3)] == ["digest"] * 3
    assert len(hashed) == 1
    hashed_once("other kind", [file], digest)
    assert len(hashed) == 2
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some copies do
    hashed_once("kind", [file], digest)
    assert hashed[-1] == b"two"


def test_a_file_that_just_changed_is_hashed_again(tmp_path):
    """Its times are coarse: another change of the same size may leave them as they are."""
    file = tmp_path / "a"
    for text in (b"one", b"two", b"six"):
        file.write_bytes(text)
        assert file_digest(file) == hashlib.sha256(text).hexdigest()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path, settled):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    hashed_once("kind", [file], lambda: file.write_bytes(b"three") and "torn")
    assert hashed_once("kind", [file], lambda: "whole") == "whole"


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ReadError, match=r"none cannot be read: no such file or directory\.$"):
        file_digest(tmp_path / "none")
