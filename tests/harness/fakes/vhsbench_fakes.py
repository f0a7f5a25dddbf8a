"""A generator and a verifier that load at once, and fail when files in a folder ask them to."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from vhsbench.generators.protocol import Conditioning, GeneratorInfo, HiddenStates
from vhsbench.harness.judges import Verdict
from vhsbench.verifiers.protocol import Scores


class FakeGenerator:
    """Faults, by file in `faults`: slow (seconds a batch), poison (part of a prompt), oom (largest batch
    that fits), die (part of a prompt: kill -9 of this process), nan (a prompt, whose latents are not numbers). Every load leaves a file in loads/, with
    the GPUs that it was given."""

    steps, blocks = 1, 2

    def __init__(self, name: str, faults: str) -> None:
        self.name, self.faults = name, Path(faults)
        self.device = torch.device("cpu")
        (self.faults / "loads").mkdir(exist_ok=True)
        load = self.faults / "loads" / f"{name}-{os.getpid()}-{time.time_ns()}"
        load.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def fault(self, kind: str) -> str:
        file = self.faults / kind
        return file.read_text() if file.exists() else ""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        for kind in ("poison", "die"):
            text = self.fault(kind)
            if text and any(text in p for p in prompts):
                if kind == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError(f"no words for '{text}'")
        lengths = torch.tensor([[float(len(p))] for p in prompts])
        return Conditioning(tuple(prompts), {"lengths": lengths})

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        return torch.tensor([[[[s % 1009 / 1009]]] for s in seeds])

    def denoise(self, cond: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        time.sleep(float(self.fault("slow") or 0))
        limit = self.fault("oom")
        if limit and len(noise) > int(limit):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB.")
        odd = self.fault("nan")
        spoiled = torch.tensor([torch.nan if odd and p == odd else 0.0 for p in cond.prompts])
        return noise + cond.tensors["lengths"][:, :, None, None] + spoiled[:, None, None, None]

    def head(self, cond: Conditioning, noise: torch.Tensor, block: int) -> HiddenStates:
        return HiddenStates(block, (noise.flatten(1)[:, :, None],), noise, cond)

    def tail(self, hidden: HiddenStates) -> torch.Tensor:
        return self.denoise(hidden.cond, hidden.noise)

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        values = latents.flatten(1)[:, 0].nan_to_num()
        return [Image.new("RGB", (64, 64), (int(v * 7) % 256, 128, 128)) for v in values]

    def info(self) -> GeneratorInfo:
        return GeneratorInfo(self.name, "fake", 0, 2, 1, 1, 64, 1, "MIT", "bundled")


class FakeVerifier:
    name, needs, block, checkpoint_sha256 = "fake-verifier", "latents", None, "0" * 64

    def __init__(self, slow: float = 0, checkpoint: str | None = None) -> None:
        self.slow = slow  # seconds a batch
        if checkpoint is not None:
            self.checkpoint_sha256 = _sha256(checkpoint)

    def check_host(self, generator: object) -> None:
        """Any generator will do."""

    def score(self, prompts: Sequence[str], features: torch.Tensor) -> Scores:
        time.sleep(self.slow)
        yes = torch.sigmoid(features.flatten(1)[:, 0] - torch.tensor([len(p) for p in prompts]))
        return Scores(yes, 1 - yes, torch.where(yes > 0.5, yes, yes - 1))


class Reddish:
    """A judge without a threshold: how red the first pixel is."""

    name = "fake-judge"
    tells = ()  # it knows no shapes

    def __init__(self, checkpoint: str | None = None) -> None:
        self.sha256 = _sha256(checkpoint) if checkpoint else ""

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[object]) -> list[Verdict]:
        return [Verdict(image.convert("RGB").getpixel((0, 0))[0] / 255) for image in images]

    def info(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


def generator(faults: str, device: str = "cpu") -> FakeGenerator:
    return FakeGenerator("fake", faults)


def other(faults: str, device: str = "cpu") -> FakeGenerator:
    return FakeGenerator("fake-other", faults)


def verifier(slow: float = 0, checkpoint: str | None = None, **options: object) -> FakeVerifier:
    return FakeVerifier(slow, checkpoint)


def known(checkpoint: str, **options: object) -> FakeVerifier:
    """The same, with what decides its scores known before it is loaded."""
    made = FakeVerifier(0, checkpoint)
    made.name = "fake-known"
    return made


known.identity = lambda checkpoint, **options: {"checkpoint": _sha256(checkpoint)}


def _sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
