"""A frozen pool of candidates: what every verifier reads, the verdicts, and a hash of every file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from vhsbench.generators.checks import as_device
from vhsbench.generators.protocol import Block, block_name
from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, read_bytes, read_errors_as
from vhsbench.harness.common.images import DamagedImage, decode_image, encode_image
from vhsbench.harness.common.settings import Strict
from vhsbench.harness.common.tables import read_table
from vhsbench.harness.common.tensors import parse_tensors
from vhsbench.harness.common.text import decode, parse_json, read_json_lines
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.inference.candidates import in_words
from vhsbench.harness.store.keys import IN_POOL
from vhsbench.harness.store.tables import SCHEMAS
from vhsbench.verifiers.protocol import Needs, blocks_read

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vhsbench.harness.config.run import RunConfig

Progress = Callable[[str, int, int], None]

MANIFEST, PROMPTS, CANDIDATES = "manifest.json", "prompts.jsonl", "candidates.parquet"
_FEATURES = "features"


class PoolError(VhsbenchError):
    """A pool that cannot be made or used; the message is one sentence for a user."""


class PoolFile(Strict):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)  # bytes


class Manifest(Strict):
    """manifest.json. `blocks` are those whose hidden states are kept; `batch` is the rows of a feature file."""

    format: Literal[1] = 1
    generator: str
    options: dict[str, Any]
    source: str
    steps: int
    detector: dict[str, Any]
    seeds: list[int]
    size: int = Field(ge=1)
    batch: int = Field(ge=1)
    blocks: list[Block]
    keep: list[Needs]
    dtype: str
    files: dict[str, PoolFile]
    identity: dict[str, Any] | None = None  # what made it, by content; None in pools of earlier versions

    @property
    def kinds(self) -> list[tuple[Needs, Block | None]]:
        """What is kept, as verifiers need it: the kind, with the block of hidden states."""
        return kinds(self.keep, self.blocks)


@dataclass(frozen=True)
class Pool:
    """A pool, its files verified against the manifest. `candidates` are in order of rows."""

    path: Path
    sha256: str  # of the manifest, which has those of all files
    manifest: Manifest
    prompts: list[dict[str, Any]]
    candidates: pd.DataFrame

    def texts(self, start: int, stop: int) -> list[str]:
        """Return the prompts of the candidates of rows start..stop."""
        ids = self.candidates["prompt_id"].iloc[start:stop]
        return [str(self.prompts[i]["prompt"]) for i in ids]

    def image(self, row: int) -> Image.Image | None:
        """Return the picture of a candidate; None if the pool keeps none."""
        if "images" not in self.manifest.keep:
            return None
        name = image_name(row)
        try:
            return decode_image(self._read(name), str(self.path / name))
        except DamagedImage as error:
            raise PoolError(str(error)) from error

    def batches(self, needs: Needs, block: Block | None) -> Iterator[tuple[list[str], Any]]:
        """Yield (prompts, what a verifier reads) batch by batch, in order of rows. Raises PoolError if not kept."""
        kept = self.manifest.kinds
        if (needs, block) not in kept:
            said = ", ".join(in_words(*kind) for kind in kept)
            raise PoolError(
                f"the pool {self.path} keeps {said}, not {in_words(needs, block)}; make one that keeps them."
            )
        rows = len(self.candidates)
        for start in range(0, rows, self.manifest.batch):
            stop = min(start + self.manifest.batch, rows)
            if needs == "images":
                read: Any = [self.image(row) for row in range(start, stop)]
            else:
                read = self._tensor(feature_name(needs, block, start))
            yield self.texts(start, stop), read

    def _tensor(self, name: str) -> torch.Tensor:
        where = f"{self.path}/{name}"
        with read_errors_as(PoolError):
            tensors = parse_tensors(self._read(name), where)
        if _FEATURES not in tensors:
            raise PoolError(f"{where} is not a file of features: it lacks a tensor '{_FEATURES}'.")
        found = tensors[_FEATURES]
        if not found.is_floating_point() or not found.isfinite().all():
            raise PoolError(f"{where} is not a file of features: its numbers are not all finite floats.")
        return found.float()

    def _read(self, name: str) -> bytes:
        if name not in self.manifest.files:
            raise PoolError(f"the pool {self.path} lists no file '{name}'.")
        with read_errors_as(PoolError):
            return read_bytes(self.path / name, self.manifest.files[name].size)


def kinds_to_keep(names: Sequence[str] | None) -> list[Needs] | None:
    """Return the kinds that are named; None for none, the default. Raises PoolError for another name."""
    known: dict[str, Needs] = {k: k for k in get_args(Needs)}
    for name in names or ():
        if name not in known:
            raise PoolError(f"a pool keeps hidden, latents or images, not '{name}'.")
    return [known[name] for name in dict.fromkeys(names)] if names else None


def image_name(row: int) -> str:
    return f"images/{row:06d}.png"


def feature_name(needs: Needs, block: Block | None, start: int) -> str:
    folder = needs if block is None else f"{needs}_block={block_name(block)}"
    return f"{folder}/{start:06d}.safetensors"


def kinds(keep: Sequence[Needs], blocks: Sequence[Block]) -> list[tuple[Needs, Block | None]]:
    """Return the kinds to keep, hidden states once for each block."""
    others: list[tuple[Needs, Block | None]] = [(needs, None) for needs in keep if needs != "hidden"]
    return others + [("hidden", block) for block in blocks if "hidden" in keep]


def load_pool(path: Path) -> Pool:
    """Read a pool and verify the hash of every file in it.

    Raises PoolError naming the first that is wrong, or MetadataError for a prompt without usable metadata.
    """
    if not (path / MANIFEST).exists():
        raise PoolError(f"{path} is not a pool: it has no {MANIFEST}; `vhsbench pool` makes one.")
    with read_errors_as(PoolError):
        text = read_bytes(path / MANIFEST)
        said = parse_json(decode(text, str(path / MANIFEST)), str(path / MANIFEST))
    try:
        manifest = Manifest.model_validate(said)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise PoolError(f"{path / MANIFEST} is damaged: {where}: {first['msg']}.") from None
    for name, entry in manifest.files.items():
        _verify(path, name, entry)
    for name in (PROMPTS, CANDIDATES):
        if name not in manifest.files:
            raise PoolError(f"{path / MANIFEST} lists no {name}.")
    with read_errors_as(PoolError):
        found = read_json_lines(path / PROMPTS, LARGE)
    prompts = [check(p, f"{path / PROMPTS}, line {number}") for number, p in found]
    with read_errors_as(PoolError):
        data = read_bytes(path / CANDIDATES, LARGE)
        candidates = read_table(data, str(path / CANDIDATES), "candidates", SCHEMAS["candidates"]).to_pandas()
    if not candidates["prompt_id"].between(0, len(prompts) - 1).all():
        raise PoolError(f"{path / CANDIDATES} has a candidate whose prompt {PROMPTS} lacks.")
    rows = product(range(len(prompts)), manifest.seeds, range(manifest.size))
    if list(candidates[IN_POOL].itertuples(index=False, name=None)) != list(rows):
        raise PoolError(
            f"{path / CANDIDATES} does not have the {manifest.size} candidates of each prompt and seed that {MANIFEST} gives."
        )
    return Pool(path, hashlib.sha256(text).hexdigest(), manifest, prompts, candidates)


def _verify(path: Path, name: str, entry: PoolFile) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise PoolError(f"{path / MANIFEST} names the file '{name}', which is not inside the pool.")
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()):
        raise PoolError(f"the pool's file {file} is a link that leads out of the pool.")
    if not file.is_file():
        raise PoolError(f"the pool {path} lacks its file '{name}'.")
    if file.stat().st_size != entry.size or file_sha256(file) != entry.sha256:
        raise PoolError(f"the pool's file {file} is damaged: its SHA-256 is not the one in {MANIFEST}.")


def make_pool(
    config: RunConfig,
    out: Path,
    keep: Sequence[Needs] | None = None,
    dtype: str | None = None,
    progress: Progress = lambda *_: None,
) -> Pool:
    """Generate, judge and freeze the pool of a run's configuration in the new folder `out`.

    keep: what to store; by default what the configuration's verifiers read, and the images. dtype:
    of features, "float32", "float16" or "bfloat16"; by default the generator's own.
    Raises PoolError if `out` exists, for several generators, or features beyond float16's range.
    """
    if out.exists():
        raise PoolError(f"{out} exists already; a pool is frozen, so choose another --out.")
    if len(config.generators) != 1:
        raise PoolError("a pool has one generator; the configuration has several.")
    if dtype not in (None, "float32", "float16", "bfloat16"):
        raise PoolError(f"a pool keeps float32, float16 or bfloat16, not '{dtype}'.")
    for device in config.devices:
        as_device(device)
    work = out.parent / f".{out.name}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _Maker(config, work, keep, dtype, progress).run()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load_pool(out)


class _Maker:
    """Writes one pool, batch by batch."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        keep: Sequence[Needs] | None,
        dtype: str | None,
        progress: Progress,
    ) -> None:
        from vhsbench.harness.config.models import load_bench, load_judges
        from vhsbench.harness.sweep.identity import of_entry
        from vhsbench.harness.sweep.run import load_prompts

        self.config, self.out, self.dtype, self.progress = config, out, dtype, progress
        entry = config.generators[0]
        self.entry = entry
        self.prompts = load_prompts(config)
        made_of = of_entry(config, self.prompts, entry).of_prompts(self.prompts).inputs
        parts = ("results", "generator", "detector", "judge", "prompts")
        self.identity = {key: made_of[key] for key in parts if key in made_of}
        self.judge = load_judges(config, self.prompts)[0]
        self.bench = load_bench(config, entry, self.prompts, [self.judge])
        self.blocks = blocks_read(self.bench.verifiers)
        self.keep: list[Needs] = list(
            keep or dict.fromkeys([*(v.needs for v in self.bench.verifiers), "images"])
        )
        if "hidden" in self.keep and not self.blocks:
            raise PoolError("hidden states need a verifier that reads them; the configuration has none.")
        self.kinds = kinds(self.keep, self.blocks)
        self.blocks = [block for _, block in self.kinds if block is not None]
        self.files: dict[str, PoolFile] = {}
        self.kept_dtype = ""

    def run(self) -> None:
        seeds, size = self.config.seeds, self.config.pool_of(self.entry)
        rows = [(p, s, i) for p in range(len(self.prompts)) for s in sorted(seeds) for i in range(size)]
        frames = []
        for start in range(0, len(rows), self.config.batch_size):
            self.progress("candidates", start, len(rows))
            frames.append(self._batch(start, rows[start : start + self.config.batch_size]))
        self.progress("candidates", len(rows), len(rows))
        schema = SCHEMAS["candidates"]
        table = pa.Table.from_pandas(pd.concat(frames)[schema.names], schema, preserve_index=False)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self._write(CANDIDATES, bytes(sink.getvalue()))
        self._write(PROMPTS, "".join(json.dumps(p) + "\n" for p in self.prompts).encode())
        manifest = Manifest(
            generator=self.entry.name, options=self.entry.build_options, source=self.bench.generator.info().source,
            steps=self.bench.generator.steps, detector=self.judge.info(), seeds=sorted(seeds), size=size, batch=self.config.batch_size,
            blocks=self.blocks, keep=self.keep, dtype=self.kept_dtype, files=self.files, identity=self.identity,
        )  # fmt: skip
        (self.out / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _batch(self, start: int, rows: list[tuple[int, int, int]]) -> pd.DataFrame:
        made = self.bench.make(rows, self.blocks)
        for needs, block in made.states:
            if (needs, block) in self.kinds:
                self._keep(needs, block, start, made.images if needs == "images" else made.read(needs, block))
        return self.bench.judge(made).decided().candidates

    def _keep(self, needs: Needs, block: Block | None, start: int, read: Any) -> None:
        """Write what a verifier reads of a batch: pictures each to a file, features together."""
        if isinstance(read, list):
            for at, image in enumerate(read, start=start):
                self._write(image_name(at), encode_image(image))
        else:
            self._tensor(feature_name(needs, block, start), read)

    def _tensor(self, name: str, features: torch.Tensor) -> None:
        import torch
        from safetensors.torch import save

        kept = features.detach().to("cpu", getattr(torch, self.dtype) if self.dtype else features.dtype)
        if not torch.isfinite(kept).all():
            raise PoolError(f"features beyond the range of {kept.dtype}; keep them with --dtype float32.")
        self.kept_dtype = str(kept.dtype).removeprefix("torch.")
        self._write(name, save({_FEATURES: kept.contiguous()}))

    def _write(self, name: str, data: bytes) -> None:
        file = self.out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.files[name] = PoolFile(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
