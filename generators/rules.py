"""The stage protocol as rules that can be checked on any generator: docs/extending.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from vhsbench.generators.noise import candidate_seed
from vhsbench.generators.protocol import Block, Conditioning, Generator, HiddenStates, block_name
from vhsbench.harness.common.rules import Broken, Rule

PROMPTS = ("a photo of a red circle", "a photo of two blue squares", "a photo of a ring left of a heart")
SEEDS = tuple(candidate_seed(0, prompt_id, index) for prompt_id, index in ((0, 0), (1, 0), (2, 5)))
TOLERANCE, TOLERANCE_16_BITS = 1e-3, 5e-2  # relative error between a batch and one alone
_BITS = (0, 31)  # of a seed; torch's generator on the CPU takes no more than 32
_ALL_BLOCKS = 8  # with more, only the ends and the middle are split


class Trial:
    """A generator and what its stages make of PROMPTS and SEEDS, each made once; `wrong` says what has the wrong form."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @cached_property
    def cond(self) -> Conditioning:
        return self.generator.encode(list(PROMPTS))

    @cached_property
    def noise(self) -> torch.Tensor:
        return self.generator.noise(list(SEEDS))

    @cached_property
    def latents(self) -> torch.Tensor:
        return self.generator.denoise(self.cond, self.noise)

    @cached_property
    def hidden(self) -> HiddenStates:
        return self.generator.head(self.cond, self.noise, self.blocks[len(self.blocks) // 2])

    @cached_property
    def images(self) -> list[Image.Image]:
        return self.generator.decode(self.latents)

    @property
    def blocks(self) -> list[int]:
        """The blocks to split after."""
        count = self.generator.blocks
        return list(range(count)) if count <= _ALL_BLOCKS else [0, count // 2, count - 1]

    @property
    def tolerance(self) -> float:
        modules = self.generator.modules().values()
        return tolerance([self.latents, *(p for module in modules for p in module.parameters())])


def tolerance(tensors: Sequence[torch.Tensor]) -> float:
    """Return how far results of a model of these tensors may lie apart between batches of different sizes."""
    small = any(t.is_floating_point() and t.element_size() < 4 for t in tensors)
    return TOLERANCE_16_BITS if small else TOLERANCE


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compute the root mean square of a - b as a share of b's."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    if a.shape != b.shape:
        return float("inf")
    size = float(b.square().mean().sqrt())
    return float((a - b).square().mean().sqrt()) / (size or 1.0)


def in_words(values: torch.Tensor) -> str:
    """Describe a tensor by type, shape and range."""
    kind = str(values.dtype).removeprefix("torch.")
    ends = f", {values.min().item():.3g} to {values.max().item():.3g}" if values.numel() else ""
    return f"{kind} {list(values.shape)}{ends}"


def check_floats(what: str, values: Any, shape: Sequence[int | None]) -> str:
    """Describe finite floating-point numbers of a shape, in which None is any length. Raises Broken."""
    wanted = f"floating-point numbers [{', '.join('any' if n is None else str(n) for n in shape)}]"
    if not isinstance(values, torch.Tensor):
        raise Broken(f"{what} are of type {type(values).__name__}, not {wanted}")
    fits = values.dim() == len(shape) and all(
        n in (None, m) for n, m in zip(shape, values.shape, strict=True)
    )
    if not fits or not values.is_floating_point():
        raise Broken(f"{what} are {in_words(values)}, not {wanted}")
    if odd := int((~values.isfinite()).sum()):
        raise Broken(f"{odd} of {values.numel()} numbers of {what} are NaN or infinite")
    return in_words(values)


def _encode(trial: Trial) -> str:
    cond = trial.cond
    if not isinstance(cond, Conditioning) or cond.prompts != PROMPTS:
        raise Broken(f"encode gives {type(cond).__name__}, not a Conditioning of the {len(PROMPTS)} prompts")
    for name, tensor in cond.tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dim() < 1 or len(tensor) != len(PROMPTS):
            shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise Broken(f"'{name}' is {shape}, not a row for each of {len(PROMPTS)} prompts")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Broken(f"'{name}' has numbers that are NaN or infinite")
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in cond.tensors.items())


def _noise(trial: Trial) -> str:
    return check_floats("z_T", trial.noise, [len(SEEDS), None, None, None])


def _latents(trial: Trial) -> str:
    return check_floats("latents", trial.latents, [len(SEEDS), None, None, None])


def _hidden(trial: Trial) -> str:
    generator, info = trial.generator, trial.generator.info()
    shape = [len(SEEDS), info.tokens, info.hidden_width]
    each = {}
    asked: list[Block] = [
        0,
        generator.blocks - 1,
        *([(0, generator.blocks - 1)] if generator.blocks > 1 else []),
    ]
    for block in asked:
        hidden = generator.head(trial.cond, trial.noise, block)
        if hidden.block != block:
            raise Broken(f"asked for block {block_name(block)}, head says block {hidden.block}")
        each[block] = hidden.features
        said = check_floats(f"features of block {block_name(block)}", hidden.features, shape)
    if len(asked) == 3:
        mean = (each[asked[0]].float() + each[asked[1]].float()) / 2
        error = relative_error(each[asked[2]], mean)
        if error > trial.tolerance:
            raise Broken(f"features of blocks {asked[2]} are {error:.2g} off the mean of both")
    return said


def _images(trial: Trial) -> str:
    side = trial.generator.info().resolution
    images = trial.images
    if not isinstance(images, list) or len(images) != len(SEEDS):
        count = len(images) if isinstance(images, Sequence) else type(images).__name__
        raise Broken(f"decode gives {count} of {len(SEEDS)} images")
    for image in images:
        if not isinstance(image, Image.Image) or image.mode != "RGB" or image.size != (side, side):
            kind = f"{image.mode} {image.size}" if isinstance(image, Image.Image) else type(image).__name__
            raise Broken(f"an image is {kind}, not RGB {(side, side)}, which info() says")
    values = np.stack([np.asarray(image) for image in images])
    return f"RGB, {side} x {side}, {values.min()} to {values.max()}"


def _device(trial: Trial) -> str:
    device = trial.generator.device
    if not isinstance(device, torch.device):
        raise Broken(f"device is of type {type(device).__name__}, not torch.device")
    for what, value in _tensors(trial):
        if value.device != torch.empty(0, device=device).device:
            raise Broken(f"{what} lies on {value.device}, but the generator's device is {device}")
    return str(device)


def _tensors(trial: Trial) -> Iterator[tuple[str, torch.Tensor]]:
    yield from ((f"'{name}'", tensor) for name, tensor in trial.cond.tensors.items())
    yield from (("z_T", trial.noise), ("latents", trial.latents), ("features", trial.hidden.features))
    yield from (("a stream of hidden states", stream) for stream in trial.hidden.streams)


def _inputs(trial: Trial) -> str:
    generator, cond, noise, hidden = trial.generator, trial.cond, trial.noise, trial.hidden
    calls: dict[str, Callable[[], object]] = {
        "denoise": lambda: generator.denoise(cond, noise),
        "head": lambda: generator.head(cond, noise, hidden.block),
        "tail": lambda: generator.tail(hidden),
        "decode": lambda: generator.decode(trial.latents),
    }
    for name, call in calls.items():
        before = [(what, tensor.clone()) for what, tensor in _tensors(trial)]
        call()
        for (what, tensor), (_, now) in zip(before, _tensors(trial), strict=True):
            if not torch.equal(tensor, now):
                raise Broken(f"{name} changes {what}")
    return ", ".join(calls)


def _determinism(trial: Trial) -> str:
    generator, cond, noise = trial.generator, trial.cond, trial.noise
    again = generator.encode(list(PROMPTS)).tensors
    pairs: list[tuple[str, torch.Tensor, torch.Tensor]] = [
        *(("encode", tensor, again[name]) for name, tensor in cond.tensors.items()),
        ("denoise", trial.latents, generator.denoise(cond, noise)),
        ("head", trial.hidden.features, generator.head(cond, noise, trial.hidden.block).features),
        ("tail", generator.tail(trial.hidden), generator.tail(trial.hidden)),
        ("decode", _pixels(trial.images), _pixels(generator.decode(trial.latents))),
    ]
    for name, first, second in pairs:
        if not torch.equal(first, second):
            raise Broken(
                f"{name} gives something else the second time, by {relative_error(second, first):.2g}"
            )
    return "encode, denoise, head, tail, decode: bit for bit"


def _seeds(trial: Trial) -> str:
    generator = trial.generator
    noise = generator.noise(list(SEEDS))
    if not torch.equal(generator.noise(list(SEEDS)), noise):
        raise Broken("noise of the same seeds is another the second time")
    turned = generator.noise(list(SEEDS[::-1])).flip(0)
    alone = torch.cat([generator.noise([seed]) for seed in SEEDS])
    for what, found in (("in another order", turned), ("alone", alone)):
        apart = [i for i in range(len(SEEDS)) if not torch.equal(found[i], noise[i])]
        if apart:
            raise Broken(f"{what}, {len(apart)} of {len(SEEDS)} seeds have other noise")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator.encode([PROMPTS[1]])
        elsewhere = generator.noise([SEEDS[0]])[0]
    if not torch.equal(elsewhere, noise[0]):
        raise Broken("noise depends on torch's global seed, or on the prompt that was encoded last")
    for bit in _BITS:
        if torch.equal(generator.noise([SEEDS[0] ^ 2**bit])[0], noise[0]):
            raise Broken(f"a seed that differs in bit {bit} has the same noise")
    return f"{len(SEEDS)} seeds alone, in a batch, in another order: bit for bit"


def _split(trial: Trial) -> str:
    generator, cond, noise = trial.generator, trial.cond, trial.noise
    asked: list[Block] = [*trial.blocks, *([(0, generator.blocks - 1)] if generator.blocks > 1 else [])]
    for block in asked:
        found = generator.tail(generator.head(cond, noise, block))
        if not torch.equal(found, trial.latents):
            raise Broken(
                f"after block {block_name(block)} it is {relative_error(found, trial.latents):.2g} off denoise"
            )
    return f"{len(asked)} splits: bit for bit"


def _batch(trial: Trial) -> str:
    generator, hidden = trial.generator, trial.hidden
    worst, limit, resumed = 0.0, trial.tolerance, generator.tail(hidden)
    for i, seed in enumerate(SEEDS):
        alone, noise = generator.encode([PROMPTS[i]]), generator.noise([seed])
        row = slice(i, i + 1)
        latents = generator.denoise(alone, noise)
        pairs = [
            ("latents", latents, trial.latents[row]),
            ("features", generator.head(alone, noise, hidden.block).features, hidden.features[row]),
            ("a selected row's latents", generator.tail(hidden.select([i])), resumed[row]),
            ("pixels", _pixels(generator.decode(trial.latents[row])), _pixels(trial.images[row])),
        ]
        for what, one, many in pairs:
            error = relative_error(one, many)
            worst = max(worst, error)
            if not error <= limit:
                raise Broken(f"alone, {what} of candidate {i} are {error:.2g} off those in a batch of {len(SEEDS)}; "
                             f"at most {limit:g} is allowed")  # fmt: skip
    return f"at most {worst:.2g} apart; {limit:g} is allowed"


def _prompt(trial: Trial) -> str:
    cond, noise = trial.cond.select([0, 1]), trial.noise[[0, 0]]
    first, second = trial.generator.denoise(cond, noise)
    error = relative_error(second, first)
    if error <= trial.tolerance:
        raise Broken(f"two prompts give the same latents of one noise, to {error:.2g}")
    return f"latents of two prompts are {error:.2g} apart"


def _noise_matters(trial: Trial) -> str:
    cond, noise = trial.cond.select([0, 0]), trial.noise[[0, 1]]
    first, second = trial.generator.denoise(cond, noise)
    error = relative_error(second, first)
    if error <= trial.tolerance:
        raise Broken(f"two seeds give the same latents of one prompt, to {error:.2g}")
    return f"latents of two seeds are {error:.2g} apart"


def _pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]).astype(np.float32))


RULES: tuple[Rule[Trial], ...] = (
    Rule("encode", "encode(prompts) gives a Conditioning with a row for each prompt, of finite numbers", _encode),
    Rule("noise", "noise(seeds) gives finite floating-point numbers [B, C, h, w]", _noise),
    Rule("latents", "denoise(cond, noise) gives finite floating-point numbers [B, C, h, w]", _latents,
         ("encode", "noise")),
    Rule("hidden states", "head(cond, noise, block) gives finite features [B, tokens, hidden_width] of that block, "
         "and of several blocks their mean", _hidden, ("encode", "noise")),
    Rule("images", "decode(latents) gives a list of B RGB images of info().resolution pixels a side", _images,
         ("latents",)),
    Rule("device", "all tensors lie on the generator's device, a torch.device", _device,
         ("latents", "hidden states")),
    Rule("inputs", "a stage leaves what it is given as it was", _inputs, ("images", "hidden states")),
    Rule("determinism", "the same call gives the same bits", _determinism, ("inputs",)),
    Rule("seeds", "row i of noise(seeds) depends on seeds[i] alone, and another seed has other noise", _seeds, ("noise",)),
    Rule("split", "tail(head(cond, noise, block)) is denoise(cond, noise), bit for bit", _split, ("determinism",)),
    Rule("batch", f"a candidate is the same alone and in a batch, within {TOLERANCE:g} of its size "
         f"({TOLERANCE_16_BITS:g} in 16 bits)", _batch, ("determinism", "seeds")),
    Rule("prompt", "another prompt gives other latents", _prompt, ("determinism",)),
    Rule("candidates", "another seed gives other latents", _noise_matters, ("determinism", "seeds")),
)  # fmt: skip
