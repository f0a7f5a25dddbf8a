"""SHA256SUMS: read back as it was written, by sha256sum too, and no name in it that leaves a folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.sharing.sums import SUMS, ShareError, parse_sums, shared, sums_of

DIGEST = hashlib.sha256(b"").hexdigest()
PART = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["C", "Z"]), min_size=1
)
NAME = st.lists(PART.filter(lambda p: not p.startswith(".")), min_size=1, max_size=3).map("/".join)


def apart(names):
    """No name is another's folder."""
    return not any(f"{name}/" in f"{other}" for name in names for other in names)


@given(
    st.dictionaries(NAME, st.binary().map(lambda b: hashlib.sha256(b).hexdigest()), min_size=1).filter(apart)
)
def test_what_is_written_is_read_back_in_one_order(files):
    files = {name: digest for name, digest in files.items() if shared([name]) and len(name.encode()) < 200}
    if files:
        sums = sums_of(files, "here", ("run, pushed",))
        again = parse_sums(sums.data(), "there")
        assert (again, again.notes) == (sums, ("run, pushed",))
        assert dict(again.files) == files
        assert sums_of(dict(reversed(files.items())), "here").sha256 == again.sha256


def test_the_digest_is_of_the_lines_without_notes():
    sums = sums_of({"b": DIGEST, "a/c": DIGEST}, "here", ("a note\n with a break",))
    assert sums.sha256 == hashlib.sha256(f"{DIGEST}  a/c\n{DIGEST}  b\n".encode()).hexdigest()
    assert sums.data().startswith(b"# a note\\n with a break\n")


@pytest.mark.skipif(
    shutil.which("sha256sum") is None, reason="no sha256sum: what it makes of SHA256SUMS is untested"
)
def test_sha256sum_reads_it(tmp_path):
    for name in ("one", "two words"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / SUMS).write_bytes(
        sums_of(dict.fromkeys(("one", "two words"), DIGEST), "", ("a note",)).data()
    )
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "one").write_bytes(b"x")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    "name",
    ["../out", "/etc/passwd", "a/../b", "a//b", "a\\b", ".hidden", "a/.git/config", ".", "README.md", SUMS, "a\x1b[2J", "x" * 256],
)  # fmt: skip
def test_a_name_that_is_no_plain_path_is_refused(name):
    with pytest.raises(
        ShareError, match=r"^there names '.*', which is not a plain path inside the folder\.$"
    ):
        parse_sums(f"{DIGEST}  {name}\n".encode(), "there")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "there lists no files."),
        (f"{DIGEST[1:]}  a", "there, line 1, is not a SHA-256, two spaces and the name of a file."),
        (f"# note\n{DIGEST}  a\n{DIGEST} *a", "there, line 3, names 'a' a second time."),
        (f"{DIGEST}  a\n{DIGEST}  a/b", "there names 'a' as a file, and as the folder of 'a/b'."),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines, said):
    with pytest.raises(ShareError) as error:
        parse_sums(lines.encode(), "there")
    assert str(error.value) == said
