from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vhsbench.harness.common import images
from vhsbench.harness.common.images import (
    DamagedImage,
    decode_image,
    ignored_sentence,
    list_images,
    natural,
    read_image,
)

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, colour, depth=16, size=None):
    """A PNG that Pillow itself does not write: 16 bits of any colour type, or another size than it has."""
    width, height = size or pixels.shape[1::-1]
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def rgb(data):
    image = decode_image(data, "x.png")
    assert image.mode == "RGB"
    return np.asarray(image)


def transparent_palette():
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = bytes(range(256))
    return saved(image, transparency=bytes(range(256)))


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(GREY)),
        saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])),
        saved(Image.fromarray(GREY).convert("P")),
        transparent_palette(),
        saved(Image.merge("RGBA", [*[Image.fromarray(GREY)] * 3, Image.fromarray(ALPHA)])),
        saved(Image.fromarray(GREY).convert("RGB"), transparency=(7, 7, 7)),
        saved(Image.fromarray(GREY).convert("RGBA"), "WEBP", lossless=True),
        saved(Image.fromarray(GREY), "BMP"),
        saved(Image.fromarray(GREY), "TIFF"),
        saved(Image.fromarray(GREY.astype(np.uint16) * 257)),  # I;16
        saved(Image.fromarray(GREY.astype(np.uint16) * 256 + 255)),
        saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
        saved(Image.fromarray(GREY.astype(">u2") * 257), "TIFF"),  # I;16B
        png(GREY[..., None].astype(np.uint16) * 257, 0),
        png(np.stack([GREY, ALPHA], -1).astype(np.uint16) * 257, 4),
    ],
)
def test_grey_of_every_mode_and_depth_is_the_same_grey(data):
    assert np.array_equal(rgb(data), np.repeat(GREY[..., None], 3, -1))


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(COLOURS)),
        saved(Image.fromarray(np.dstack([COLOURS, ALPHA]))),
        saved(Image.fromarray(COLOURS), "WEBP", lossless=True),
        saved(Image.fromarray(COLOURS), "TIFF"),
        png(COLOURS.astype(np.uint16) * 257, 2),
        png(np.dstack([COLOURS, ALPHA]).astype(np.uint16) * 257, 6),
    ],
)
def test_colours_of_every_mode_and_depth_are_the_same_colours(data):
    assert np.array_equal(rgb(data), COLOURS)


def test_two_values_are_black_and_white():
    assert (
        rgb(saved(Image.fromarray(GREY > 127))).tolist()
        == np.repeat((GREY > 127)[..., None] * 255, 3, -1).tolist()
    )


def test_a_printers_colours_are_read():
    cmyk = Image.fromarray(np.full((4, 4, 3), (250, 10, 10), np.uint8)).convert("CMYK")
    assert np.abs(rgb(saved(cmyk, "JPEG", quality=100)).astype(int) - (250, 10, 10)).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_the_upright_one(kind, orientation):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes each
    turned = Image.fromarray(COLOURS[:8])
    if orientation > 1:
        turned = turned.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(rgb(saved(turned, kind, exif=exif, **options)), COLOURS[:8])


def test_a_grey_picture_of_16_bits_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(Image.fromarray(GREY[::-1, ::-1].astype(np.uint16) * 257), exif=exif)
    assert np.array_equal(rgb(data)[..., 0], GREY)


def test_the_first_picture_of_several_is_read():
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    assert np.array_equal(rgb(saved(frames[0], save_all=True, append_images=frames[1:])), COLOURS)


WHOLE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read: it is damaged, or no PNG, JPEG, WEBP, BMP or TIFF"),
        (b"text", "it is damaged, or no PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is damaged, or no PNG"),
        (saved(Image.fromarray(GREY), "GIF"), "it is damaged, or no PNG"),
        (WHOLE[:-2000], "cannot be read: image file is truncated"),
        (WHOLE[:60] + b"\0" * 40 + WHOLE[100:], "cannot be read: "),
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "its pixels are 32-bit values; save it with 8"),
        (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "its pixels are 32-bit values; save it with 8"),
        (png(GREY[..., None], 0, 8, (60_000, 60_000)), "cannot be read: Image size"),
        (png(GREY[..., None], 0, 8, (8193, 8192)), "8,193 x 8,192 pixels; at most 67,108,864 are read"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_one_sentence(tmp_path, data, said):
    (tmp_path / "0.png").write_bytes(data)
    with pytest.raises(DamagedImage, match=said) as caught:
        read_image(tmp_path / "0.png")
    assert str(caught.value).startswith(str(tmp_path / "0.png"))
    assert "\n" not in str(caught.value)


def test_a_pipe_or_a_missing_file_is_one_sentence(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(DamagedImage, match=r"0\.png is a pipe"):
        read_image(tmp_path / "0.png")
    with pytest.raises(DamagedImage, match=r"1\.png cannot be read: no such file"):
        read_image(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(WHOLE)
    monkeypatch.setattr(images, "BYTES", 100)
    with pytest.raises(DamagedImage, match=r"2\.png has .* bytes; at most 100 are read"):
        read_image(tmp_path / "2.png")


@given(st.lists(st.integers(0, 10**12), unique=True), st.sampled_from(["", "a", "seed 1, "]))
def test_names_with_numbers_sort_by_their_numbers(tmp_path_factory, numbers, before):
    folder = tmp_path_factory.getbasetemp()
    files = [folder / f"{before}{n}.png" for n in sorted(numbers)]
    assert sorted(sorted(files), key=natural) == files


def test_a_folders_pictures_and_the_rest(tmp_path):
    for name in ("10.png", "2.PNG", "1.jpg", "a.webp", "._2.png", ".DS_Store", "notes.txt", "3.png.bak"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "4.png").mkdir()
    os.mkfifo(tmp_path / "5.png")
    found = list_images(tmp_path)
    assert [f.name for f in found.files] == ["1.jpg", "2.PNG", "10.png", "a.webp"]
    assert found.ignored == ["3.png.bak", "4.png", "5.png", "notes.txt"]
    assert ignored_sentence(tmp_path, found.ignored) == (
        f"ignored in {tmp_path}: 4 names that are no pictures, first 3.png.bak"
    )
    assert ignored_sentence(tmp_path, []) == ""
