from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.features import Normalize, read_statistics

C, T = 6, 10


def pair(folder, mean, variance=None):
    files = folder / "mean.pt", folder / "variance.pt"
    torch.save(mean, files[0])
    torch.save(torch.rand_like(mean) + 1 if variance is None else variance, files[1])
    return files


@pytest.mark.parametrize("shape", [(C,), (1, C), (1, 1, C)])
def test_statistics_by_channel(tmp_path, shape):
    mean = torch.randn(shape)
    found = read_statistics(pair(tmp_path, mean, torch.full(shape, 4.0)), C, T)
    x = torch.randn(2, T, C)
    torch.testing.assert_close(found(x), (x - mean.reshape(C)) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(T,), (T, 1), (1, T, 1), (1, T)])
def test_statistics_by_token(tmp_path, shape):
    mean = torch.randn(shape)
    found = read_statistics(pair(tmp_path, mean, torch.full(shape, 4.0)), C, T)
    x = torch.randn(2, T, C)
    torch.testing.assert_close(found(x), (x - mean.reshape(T, 1)) / 2, atol=1e-5, rtol=1e-5)


def test_as_many_tokens_as_channels_are_channels_unless_the_last_axis_is_one(tmp_path):
    x = torch.zeros(1, 4, 4)
    mean = torch.arange(4.0)
    channels = read_statistics(pair(tmp_path, mean, torch.ones(4)), 4, 4)(x)
    tokens = read_statistics(pair(tmp_path, mean[None, :, None], torch.ones(1, 4, 1)), 4, 4)(x)
    torch.testing.assert_close(channels, tokens.transpose(1, 2))
    assert channels[0, 0, 3] == pytest.approx(-3, abs=1e-4)


@pytest.mark.parametrize("shape", [(C + 1,), (T, C), (2, C), (C, 1), ()])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(CheckpointError, match=r"mean\.pt has shape .*, not \[6\] .* or \[10\]"):
        read_statistics(pair(tmp_path, torch.zeros(shape)), C, T)


@pytest.mark.parametrize(
    ("mean", "variance", "said"),
    [
        (torch.zeros(C), -torch.ones(C), "a variance of at least 0"),
        (torch.full((C,), float("nan")), torch.ones(C), "not a finite mean"),
        (torch.zeros(C), torch.ones(C, dtype=torch.long), r"variance\.pt holds no tensor of floating-point"),
        ({"mean": torch.zeros(C)}, torch.ones(C), r"mean\.pt holds no tensor"),
        (
            torch.zeros(1).expand(1 << 40, C),
            torch.ones(C),
            r"mean\.pt is .*, more numbers than the file holds",
        ),
        (torch.zeros(C).to_sparse(), torch.ones(C), r"mean\.pt is not a dense tensor"),
    ],
)
def test_statistics_that_are_none_are_refused(tmp_path, mean, variance, said):
    with pytest.raises(CheckpointError, match=said):
        read_statistics(pair(tmp_path, mean, variance), C, T)


def test_missing_and_damaged_files_are_refused(tmp_path):
    files = pair(tmp_path, torch.zeros(C))
    files[1].write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"variance\.pt is not a tensor saved by torch"):
        read_statistics(files, C, T)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"statistics file .*variance\.pt does not exist"):
        read_statistics(files, C, T)
    save_file({"mean": torch.zeros(C)}, tmp_path / "normalization.safetensors")
    with pytest.raises(CheckpointError, match="lacks the key 'variance'"):
        read_statistics(tmp_path, C, T)


class Unsafe:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    files = pair(tmp_path, torch.zeros(C))
    torch.save(Unsafe(), files[0])
    with pytest.raises(CheckpointError, match="is not a tensor saved by torch"):
        read_statistics(files, C, T)
    assert capsys.readouterr().out == ""


def test_normalisation_is_done_in_the_wider_dtype():
    x = torch.randn(1, 2, C, generator=torch.Generator().manual_seed(0))
    half = Normalize(torch.zeros(C).bfloat16(), torch.full((C,), 0.3).bfloat16())
    assert half(x.bfloat16()).dtype == torch.bfloat16
    exact = x / torch.sqrt(torch.tensor(0.3).bfloat16().float() + 1e-6)
    torch.testing.assert_close(half(x), exact)
