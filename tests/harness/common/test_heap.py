"""Memory that malloc keeps: pages of a tensor that follows another of its size are not cleared again."""

from __future__ import annotations

import sys

import pytest
import torch

from vhsbench.harness.common.heap import kept_heap

resource = pytest.importorskip("resource")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_freed_memory_is_used_again_without_page_faults():
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.ones(16_000_000)  # 64 MB: 15,625 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_heap():
        faults()
        assert faults() < 1000
    assert faults() > 100  # with large pages, of 512 each, too
