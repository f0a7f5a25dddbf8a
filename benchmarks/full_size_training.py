"""Cost of training the paper's verifier on one GPU, with random weights of the true architectures.

    python benchmarks/full_size_training.py --out results/training [--only gemma]

A VHS (SANA-Sprint's hidden states of block 7, Qwen2.5-0.5B) takes some optimiser steps of both stages on random
features, through `train_verifier` itself, in a process for each way to fit it in memory; one is sharded by FSDP.
Then Gemma-3-4B answers the paper's two prompts. Time and memory do not depend on what weights say, except that
Gemma, saying nothing sensible, always uses all its tokens. Writes training.csv, gemma.csv and environment.json.
`--tiny` takes the same steps with small models on the CPU: a dry run of this very script.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from vhsbench.generators.training import Progress
from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.processes import TIED_TO, end_with_parent
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.cost.environment import environment
from vhsbench.harness.training.gemma import Gemma
from vhsbench.verifiers.loading import QWEN_0_5B
from vhsbench.verifiers.mllm import PAPER_TEMPLATE
from vhsbench.verifiers.training.data import Data
from vhsbench.verifiers.training.recipe import Recipe
from vhsbench.verifiers.training.shards import DataCard, ShardWriter
from vhsbench.verifiers.training.train import train_verifier

WARM_UP = 2  # steps left out of the times
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CAPTION = "a brown dog sits on a wooden bench in front of a red brick wall with two green plants"


@dataclass(frozen=True)
class Mode:
    """A way to fit a training in memory."""

    micro_batch: int
    gradient_checkpointing: bool = False
    sharding: str = "none"


MODES = (Mode(8, True), Mode(8), Mode(32), Mode(64, True), Mode(8, True, "fsdp"))
TINY_MODES = (Mode(2, True), Mode(4))


@dataclass(frozen=True)
class Sizes:
    """How large the models, the features and the batches are."""

    device: str
    features: tuple[int, int]
    llm: dict[str, Any]
    gemma: dict[str, Any]
    samples: int
    batch: int
    steps: int
    images: int


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
# google/gemma-3-4b-it
GEMMA_4B = {
    "text_config": {
        "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024,
    },
    "vision_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 896, "patch_size": 14, "vision_use_head": False,
    },
    "mm_tokens_per_image": 256,
}  # fmt: skip
TINY_GEMMA = {
    "text_config": SMALL | {"vocab_size": 300, "head_dim": 16},
    "vision_config": SMALL | {"image_size": 28, "patch_size": 7, "vision_use_head": False},
    "mm_tokens_per_image": 4,
}
FULL = Sizes("cuda", (1024, 2240), QWEN_0_5B, GEMMA_4B, 192, 64, 6, 64)
TINY = Sizes("cpu", (16, 64), QWEN_0_5B | SMALL | {"vocab_size": 700}, TINY_GEMMA, 12, 4, 5, 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["", "training", "gemma"], default="")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: a dry run")
    parser.add_argument("--mode", help=argparse.SUPPRESS)  # one process's, in JSON
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = TINY if options.tiny else FULL
    if options.mode:
        end_with_parent(int(os.environ.get(TIED_TO, 0)))
        train_one(options.work, Mode(**json.loads(options.mode)), sizes)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "environment.json", json.dumps(environment(), indent=1).encode())
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "gemma":
            rows = all_modes(Path(folder), options.tiny, sizes)
            save(pd.DataFrame(rows), options.out / "training.csv")
        if options.only != "training":
            save(pd.DataFrame(answer(Path(folder), sizes)), options.out / "gemma.csv")


def save(table: pd.DataFrame, file: Path) -> None:
    write_atomic(file, csv_bytes(table))
    print(table.to_string(index=False), flush=True)


def all_modes(work: Path, tiny: bool, sizes: Sizes) -> list[dict[str, Any]]:
    """Train both stages in every mode, each in processes of its own; a failure is a row with its last line."""
    make_llm(work / "llm", sizes)
    make_data(work, sizes)
    rows: list[dict[str, Any]] = []
    for i, mode in enumerate(TINY_MODES if tiny else MODES):
        here = work / f"mode-{i}"
        here.mkdir()
        for name in ("llm", "train", "validation"):
            (here / name).symlink_to(work / name)
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        tied = ["-m", "vhsbench.harness.common.tied", str(os.getpid()), *torchrun]
        command = [
            sys.executable, *(tied if mode.sharding == "fsdp" else []), __file__, "--out", str(work),
            "--work", str(here), "--mode", json.dumps(asdict(mode)), *(["--tiny"] if tiny else []),
        ]  # fmt: skip
        done = subprocess.run(
            command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", check=False
        )
        found = here / "rows.json"
        if done.returncode:
            rows.append(asdict(mode) | {"status": done.stderr.strip().splitlines()[-1]})
            print(done.stderr, file=sys.stderr)
        elif found.exists():
            rows += json.loads(found.read_text(encoding="utf-8"))
        print(pd.DataFrame(rows).tail(2).to_string(index=False), flush=True)
    return rows


def make_llm(folder: Path, sizes: Sizes) -> None:
    """Write a folder like the hub's Qwen2.5-0.5B, with random weights and a small tokenizer of the same form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, initial_alphabet=alphabet)
    raw.train_from_iterator([PAPER_TEMPLATE, "yes no", CAPTION] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=names[0], eos_token=names[2])
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**sizes.llm)).bfloat16().save_pretrained(folder)


def make_data(work: Path, sizes: Sizes) -> None:
    """Write random features of the true shape."""
    card = DataCard(
        stage="labels", generator="sana-sprint", revision="random", steps=1, reads="hidden", block=7,
        feature_shape=sizes.features, dtype="bfloat16", prompts_sha256="",
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    for name, samples in (("train", sizes.samples), ("validation", sizes.batch)):
        writer = ShardWriter(work / name, card)
        for shard, start in enumerate(range(0, samples, sizes.batch)):
            count = min(sizes.batch, samples - start)
            features = torch.randn((count, *sizes.features), generator=random).bfloat16()
            rows = [
                {"prompt_id": start + i, "prompt": f"a photo of a dog, {name} {start + i}",
                 "tag": "single_object", "seed": 0, "index": i, "caption": CAPTION, "correct": i % 3 == 0}
                for i in range(count)
            ]  # fmt: skip
            writer.write(shard, features, rows)
        writer.finish()


def train_one(work: Path, mode: Mode, sizes: Sizes) -> None:
    """Train once; write a row a stage to rows.json."""
    recipe = Recipe.model_validate(
        {
            "verifier": {"kind": "vhs", "block": 7, "llm": {"name": str(work / "llm")}},
            "align": {"batch": sizes.batch, "steps": sizes.steps},
            "finetune": {"batch": sizes.batch, "steps": sizes.steps, "validate_every": sizes.steps},
            "engine": {"device": sizes.device, "workers": 2, "log_every": 1, "save_every": 1000, **asdict(mode)},
        }
    )  # fmt: skip
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}

    def report(progress: Progress) -> None:
        """Note a step's time and memory, once its loss was read and the device is done with it."""
        if progress.name not in seconds and sizes.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds.setdefault(progress.name, []).append(time.perf_counter())
        if sizes.device == "cuda":
            peaks[progress.name] = torch.cuda.max_memory_allocated() / 1e9

    data = Data(work / "train", work / "validation", None)
    started = time.perf_counter()
    train_verifier(recipe, "sana-sprint", data, work / "out", report)
    rows = []
    for stage, times in seconds.items():
        last = times[:-1] if stage == "finetune" else times  # the last step's time has the validation in it
        steps = len(last) - WARM_UP
        step_s = (last[-1] - last[-1 - steps]) / steps
        rows.append(
            asdict(mode) | {
                "stage": stage, "batch": sizes.batch, "steps": steps, "step_s": step_s,
                "samples_per_s": sizes.batch / step_s, "peak_vram_gb": peaks.get(stage),
                "whole_s": time.perf_counter() - started, "status": "ok",
            }
        )  # fmt: skip
    (work / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def make_gemma(folder: Path, sizes: Sizes) -> int:
    """Write a folder like the hub's Gemma 3, with random weights and a byte-level tokenizer; return its parameters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3Processor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    names = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    names += ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    words = {name: i for i, name in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=words, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        extra_special_tokens={
            "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        additional_special_tokens=list(names[3:5]),
    )  # fmt: skip
    config = Gemma3Config(
        **sizes.gemma, boi_token_index=words["<start_of_image>"], eoi_token_index=words["<end_of_image>"],
        image_token_index=words["<image_soft_token>"],
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(sizes.device):
        model = Gemma3ForConditionalGeneration(config)
    torch.set_default_dtype(before)
    model.generation_config.eos_token_id = []  # it never ends before its last token
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    images = Gemma3ImageProcessorPil(size={"height": side, "width": side})
    Gemma3Processor(
        images, tokenizer, chat_template=GEMMA_CHAT, image_seq_length=config.mm_tokens_per_image
    ).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def answer(work: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Time captions of images, and tags of prompts, at batches of 16."""
    import numpy as np
    from PIL import Image

    parameters = make_gemma(work / "gemma", sizes)
    if sizes.device == "cuda":
        torch.cuda.empty_cache()
    gemma = Gemma(str(work / "gemma"), sizes.device, batch_size=min(16, sizes.images))
    random = np.random.default_rng(0)
    pictures = [
        Image.fromarray(random.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)) for _ in range(sizes.images)
    ]
    started = time.perf_counter()
    gemma.tags(["a photo of a dog"])
    load_s = time.perf_counter() - started
    rows = []
    prompts = [f"a photo of {i} dogs" for i in range(sizes.images)]
    calls = {"caption": (gemma.caption, pictures), "tag": (gemma.tags, prompts)}
    for task, (call, inputs) in calls.items():
        if sizes.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        call(inputs)  # type: ignore[operator]
        took = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() / 1e9 if sizes.device == "cuda" else None
        rows.append(
            {"task": task, "parameters": parameters, "inputs": len(inputs), "batch": gemma.batch_size,
             "new_tokens": gemma.max_new_tokens, "per_input_s": took / len(inputs), "peak_vram_gb": peak,
             "load_s": load_s}
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
