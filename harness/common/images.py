"""Read foreign pictures, the same way in every command, and list those of a folder."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ReadError, read_bytes
from vhsbench.harness.common.shown import first_line

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
NAMES = r"(?i:.*\.(png|jpe?g|webp|bmp|tiff?)$)"  # of pictures
PIXELS = 1 << 26  # 8192 x 8192
BYTES = 256 << 20

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


class DamagedImage(VhsbenchError):
    """A picture that cannot be read; the message is one sentence for a user."""


@dataclass(frozen=True)
class Listing:
    """The picture files of a folder in natural order, and the names of other files, except hidden ones."""

    files: list[Path]
    ignored: list[str]


def read_image(file: Path) -> Image.Image:
    """Read a picture as 8-bit RGB, upright by its EXIF; see `decode_image`. Raises DamagedImage."""
    try:
        return decode_image(read_bytes(file, BYTES), str(file))
    except ReadError as error:
        raise DamagedImage(str(error)) from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the first picture in a file's bytes as GenEval's evaluator does: 8-bit RGB, upright by its EXIF.

    Of 16 bits the high byte is kept; transparency is dropped, which shows the colours under it. `name` names the
    file in errors. Raises DamagedImage: truncated, larger than PIXELS, of a format not in FORMATS, or with
    32-bit values, whose white is undefined.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > PIXELS:
                size = f"{opened.width:,} x {opened.height:,}"
                raise DamagedImage(f"{name}: {size} pixels; at most {PIXELS:,} are read.")
            upright = ImageOps.exif_transpose(opened)
            if upright.mode == "F" or (upright.mode == "I" and opened.format != "PNG"):
                raise DamagedImage(f"{name}: its pixels are 32-bit values; save it with 8 or 16 bits.")
            if upright.mode in (*_SIXTEEN_BITS, "I"):  # older Pillows call a PNG's 16 bits "I"
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except DamagedImage:
        raise
    except UnidentifiedImageError:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DamagedImage(f"{name} cannot be read: it is damaged, or no {formats}.") from None
    except Exception as error:  # decoders of damaged data raise struct.error, IndexError, ...
        raise DamagedImage(f"{name} cannot be read: {first_line(error)}.") from error


def pixels_digest(image: Image.Image) -> str:
    """Return a digest of a picture's size and pixels, as RGB, the same of a picture and of its PNG."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()[:32]


def encode_image(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """Encode an image as the bytes of a file of that kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def list_images(folder: Path, names: str = NAMES) -> Listing:
    """List the regular files in `folder` whose name matches the regular expression `names` from its start."""
    found = Listing([], [])
    for entry in sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=natural):
        if entry.is_file() and re.match(names, entry.name):
            found.files.append(entry)
        else:
            found.ignored.append(entry.name)
    return found


def natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Return the key that sorts names with numbers naturally: 0, 1, 2, ..., 10, 11."""
    parts = re.split(r"([0-9]+)", file.name)
    return [(int(p), "") if i % 2 else (0, p) for i, p in enumerate(parts)], file.name


def ignored_sentence(folder: Path, ignored: Sequence[str]) -> str:
    """Tell a user which names are ignored because they are not pictures; "" if there are none."""
    if not ignored:
        return ""
    count = "1 name that is no picture" if len(ignored) == 1 else f"{len(ignored)} names that are no pictures"
    return f"ignored in {folder}: {count}, first {ignored[0]}"
