"""`vhsbench generate` and `vhsbench best-of-n`: images of one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.common.limits import LARGEST_SEED, MOST_CANDIDATES
from vhsbench.harness.common.prompt_files import typed_prompt
from vhsbench.harness.common.terminal import Bars, Json, path, print_json, quiet

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.inference.candidates import Rows
    from vhsbench.verifiers.protocol import Verifier

GeneratorName = Annotated[
    str, typer.Argument(help="A name from `vhsbench list generators`.", autocompletion=completion.generators)
]
Seed = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="Root seed; candidate i is the same whatever the count.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps; default: the generator's.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels a side; default: the generator's.")]
Weights = Annotated[
    str | None, typer.Option(help="Pipeline folder, hub id, or random; default: the generator's own.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")]
Checkpoint = Annotated[str | None, typer.Option(help="The verifier's checkpoint.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16 or float32.")]


def register(app: typer.Typer) -> None:
    app.command()(generate)
    app.command("best-of-n")(best_of_n)


def generate(
    generator: GeneratorName,
    prompt: Annotated[
        str | None, typer.Argument(callback=typed_prompt, help="What to paint; with --geneval, none.")
    ] = None,
    seed: Seed = 0,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=MOST_CANDIDATES, help="How many images of a prompt.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder for the images, 0000.png and on; default: images."),
    ] = None,
    geneval: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder in GenEval's layout, 00000/samples/0000.png and on; run again to resume.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="With --geneval: JSON lines, as of `vhsbench geneval prompts`.")
    ] = None,
    steps: Steps = None,
    resolution: Resolution = None,
    weights: Weights = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Make images of a prompt; or with --geneval, of a file of prompts, for `vhsbench geneval evaluate`."""
    if (geneval is None) != (prompts is None):
        raise typer.BadParameter("--geneval DIR and --prompts FILE go together.")
    if (geneval is None) == (prompt is None):
        raise typer.BadParameter("give a prompt, or --geneval DIR with --prompts FILE.")
    if geneval is not None and out is not None:
        raise typer.BadParameter("--geneval says where the images go; leave out --out.")
    quiet()
    options = _options(device, steps, resolution, weights, dtype)
    if geneval is not None and prompts is not None:
        _geneval_folder(geneval, prompts, count, seed, generator, options, as_json)
        return
    from vhsbench import generators
    from vhsbench.harness.common.atomic import write_output
    from vhsbench.harness.common.images import encode_image

    painter = generators.create(generator, **options)
    folder, files = out or Path("images"), []
    for index, image in enumerate(_images(painter, prompt or "", seed, range(count))):
        files.append(folder / f"{index:04d}.png")
        write_output(files[-1], encode_image(image))
    if as_json:
        print_json({"prompt": prompt, "images": [str(f) for f in files]})
        return
    for file in files:
        print(file)


def _geneval_folder(
    folder: Path,
    prompts: Path,
    count: int,
    seed: int,
    generator: str,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from vhsbench import generators
    from vhsbench.harness.geneval.generation import fill, prepare, read_prompts

    asked = read_prompts(prompts)
    kind = options["device"].partition(":")[0]
    made_by = generators.REGISTRY.identity(generator, **options | {"device": kind})
    prepare(folder, asked, {"generator": made_by, "seed": seed})
    painter = generators.create(generator, **options)
    with Bars() as bars:
        found = fill(folder, asked, count, seed, painter, lambda done, of: bars.update("images", done, of))
    if as_json:
        numbers = {"prompts": len(asked), "made": found.made, "resumed": found.resumed}
        print_json({"folder": str(folder), **numbers})
    else:
        print(f"{found.made} images of {len(asked)} prompts in {folder} ({found.resumed} from before)")


def best_of_n(
    generator: GeneratorName,
    verifier: Annotated[
        str,
        typer.Argument(
            help="A name from `vhsbench list verifiers`; with --strategy, the prompt.",
            autocompletion=completion.verifiers,
        ),
    ],
    prompt: Annotated[str | None, typer.Argument(help="What to paint.")] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, max=MOST_CANDIDATES, help="How many candidates; default: 8."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Another way to choose, with all its parameters, as 'cascade:vhs>mllm-clip,n=8,k=2'."
        ),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(parser=path, help="The contact sheet.")] = Path("best-of-n.png"),
    steps: Steps = None,
    resolution: Resolution = None,
    weights: Weights = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Make N candidates of a prompt, score them, and show them all with the winner marked."""
    from PIL import Image

    if out.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"--out is a picture, such as best-of-n.png, not '{out}'.")
    if strategy is not None and (prompt is not None or count is not None or checkpoint is not None):
        raise typer.BadParameter(
            "with --strategy there is a generator and a prompt: verifiers and n are the strategy's, each verifier with its own checkpoint."
        )
    if strategy is None and prompt is None:
        raise typer.BadParameter("the prompt is missing: vhsbench best-of-n GENERATOR VERIFIER PROMPT.")
    text = verifier if prompt is None else prompt
    typed_prompt(text)
    quiet()
    from vhsbench.harness.common.atomic import write_output
    from vhsbench.harness.common.images import encode_image
    from vhsbench.harness.inference.contact_sheet import contact_sheet
    from vhsbench.harness.strategies.registry import Template, parse
    from vhsbench.harness.strategies.run import run

    known = parse(strategy) if strategy is not None else Template("best-of-n", (verifier,), {"n": count or 8})
    chosen_by = known.whole()
    painter = open_generator(generator, device, steps, resolution, weights, dtype)
    judges = {name: open_verifier(name, painter, generator, checkpoint) for name in known.verifiers}
    seeds = _rows(painter, text, seed, range(chosen_by.n)).seeds()
    picked = run(chosen_by, painter, judges, text, seeds)
    drawn = sorted(set().union(*picked.scores.values()))
    images = dict(zip(drawn, _images(painter, text, seed, drawn), strict=True)) | {picked.index: picked.image}
    last = {i: [by[i] for by in picked.scores.values() if i in by][-1] for i in drawn}
    subtitle = f"{generator}, best of {chosen_by.n} by {verifier}, seed {seed}" if strategy is None else (
        f"{generator}, {known.text}, seed {seed}"
    )  # fmt: skip
    sheet = contact_sheet(
        list(images.values()), [last[i] for i in images], list(images).index(picked.index), text, subtitle
    )
    write_output(out, encode_image(sheet, Image.registered_extensions()[out.suffix.lower()]))
    if as_json:
        scores: Any = list(last.values()) if strategy is None else picked.scores
        found = {"prompt": text, "scores": scores, "winner": picked.index, "sheet": str(out)}
        print_json(found)
        return
    for i in drawn:
        scores = "  ".join(f"{by[i]:+z.4f}" if i in by else " " * 7 for by in picked.scores.values())
        print(f"{i:3d}  {scores}{'  best' if i == picked.index else ''}")
    print(out)


def _images(painter: Generator, prompt: str, seed: int, indices: Iterable[int]) -> Iterator[Image.Image]:
    """Yield candidates one after another. Raises CandidateError for one that is no picture."""
    from vhsbench.harness.inference.candidates import generate

    cond = painter.encode([prompt])
    for index in indices:
        yield generate(painter, cond, _rows(painter, prompt, seed, [index]), ()).images[0]


def _rows(painter: Generator, prompt: str, seed: int, indices: Sequence[int]) -> Rows:
    from vhsbench.harness.inference.candidates import Rows

    return Rows(painter.name, [prompt] * len(indices), [(0, seed, index) for index in indices])


def open_generator(
    name: str,
    device: str | None,
    steps: int | None,
    resolution: int | None,
    weights: str | None,
    dtype: str | None,
) -> Generator:
    """Return the generator with the options that were given; a plugin's generator may not have the others."""
    from vhsbench import generators

    return generators.create(name, **_options(device, steps, resolution, weights, dtype))


def _options(
    device: str | None, steps: int | None, resolution: int | None, weights: str | None, dtype: str | None
) -> dict[str, Any]:
    """Return a generator's options: the device, and what was given. Raises BadParameter for a device without memory."""
    import torch

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place == "meta":
        raise typer.BadParameter("--device meta holds no pictures; it is for `vhsbench cost`.")
    given: dict[str, Any] = {"steps": steps, "resolution": resolution, "weights": weights, "dtype": dtype}
    return {"device": place, **{k: v for k, v in given.items() if v is not None}}


def open_verifier(name: str, painter: Generator, generator: str, checkpoint: str | None) -> Verifier:
    """Return the verifier, for what `painter` makes, which is registered as `generator`, and on its kind of device."""
    from vhsbench import verifiers

    options = {"checkpoint": checkpoint, "device": painter.device.type}
    if generator != "nano":
        options["generator"] = generator
    return verifiers.create(name, **{k: v for k, v in options.items() if v is not None})
