"""Read the question of a foreign checkpoint, whose tokenizer and chat template are foreign programs.

A pattern can take forever, and a template can loop or write the prompt twice. Therefore a child process with limits
first loads both, asks, and tokenises text that is hard for such patterns; once for the same files.

    python -m vhsbench.verifiers.questions FOLDER TEMPLATE SECONDS
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from string import printable
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.models import check_tokenizer, no_code, reason
from vhsbench.harness.common.text import read_json_object
from vhsbench.verifiers.mllm import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

try:
    import resource
except ImportError:  # Windows: the child's only limit is wall-clock time
    resource = None  # type: ignore[assignment]

CPU_S = 20  # of the child, in addition to its imports
MEMORY = 2 << 30  # bytes, in addition to its imports
_WALL_S = 600  # if it waits without working
_BUNDLED = Path(__file__).parent / "nano" / "weights"
_READ = (".json", ".jinja", ".txt", ".model")
_NOT_READ = (".index.json", "verifier.json", "config.json", "checkpoint.json")  # except tokenizer_config.json
# runs of each character and of words, each followed by something else
_SAMPLES = (
    "a photo of a bench",
    "".join(c * 200 for c in printable),
    "a " * 1000 + "!",
    "ab1 " * 500 + "\n.",
    "é\u3042" * 500 + "!",
)


def read_question(folder: Path, template: str, embeddings: int) -> Question:
    """Read the question that a folder's tokenizer and chat template ask, for a model of `embeddings` tokens.

    Raises ReadError: no tokenizer, too slow, too large, a prompt that does not appear once, or a token beyond
    the embeddings.
    """
    check_tokenizer(folder)
    try_out(folder, template)
    question = _ask(folder, template)
    token, largest = max(question.tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", 0))
    if largest >= embeddings:
        raise ReadError(
            f"{folder}: the token {token!r} of its tokenizer is number {largest:,}, "
            f"but its model has {embeddings:,} embeddings."
        )
    return question


def _ask(folder: Path, template: str) -> Question:
    tokenizer = _load(folder)
    try:
        question = Question(tokenizer, template)
        question.check()
    except Exception as error:  # a chat template is a program, and a damaged one can raise anything
        raise ReadError(
            f"{folder}: its tokenizer and chat template cannot ask the question: {reason(error)}."
        ) from error
    return question


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    # transformers has no model type llava_qwen and warns of it, though a tokenizer needs none
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_code():
            # beside a Qwen2, AutoTokenizer reads every tokenizer as Qwen2's own kind
            kind = PreTrainedTokenizerFast if _is_plain(folder) else AutoTokenizer
            tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer can raise anything
        raise ReadError(f"{folder} has no tokenizer that can be read: {reason(error)}.") from error
    finally:
        logging.set_verbosity(verbosity)
    beside = folder / "chat_template.json"  # where processors have it
    if not tokenizer.chat_template and beside.is_file():
        tokenizer.chat_template = read_json_object(beside).get("chat_template")
    if not tokenizer.chat_template:
        raise ReadError(f"the tokenizer of {folder} has no chat template.")
    return tokenizer


def _is_plain(folder: Path) -> bool:
    """Tell whether tokenizer.json says all about a folder's tokenizer."""
    file = folder / "tokenizer_config.json"
    named = read_json_object(file).get("tokenizer_class") if file.exists() else None
    return named in ("TokenizersBackend", "PreTrainedTokenizerFast")


_tried: set[str] = set()  # digests of what passed


def try_out(folder: Path, template: str) -> None:
    """Let a child process with limits ask the question of a folder's tokenizer and chat template. Raises ReadError."""
    digest = _digest(folder)
    if digest in _bundled() or digest + template in _tried:
        return
    command = [
        sys.executable,
        "-m",
        "vhsbench.harness.common.tied",
        str(os.getpid()),
        __name__,
        str(folder),
        template,
    ]
    command.append(str(CPU_S))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_WALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ReadError(f"{folder}: {_too_slow()}.") from None
    if done.returncode == 2:
        raise ReadError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    if done.returncode:
        raise ReadError(f"{folder}: {_said(done.returncode)}.")
    _tried.add(digest + template)


def _too_slow() -> str:
    return f"its tokenizer or chat template takes more than {CPU_S} s for one question"


def _said(code: int) -> str:
    if resource and code in (-signal.SIGXCPU, -signal.SIGKILL):
        return _too_slow()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"its tokenizer or chat template ends the process that tries it ({how}), which may use {MEMORY >> 30} GiB"


def _digest(folder: Path) -> str:
    """Hash all files that make a tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in _READ and f.is_file()):
        if not file.name.endswith(_NOT_READ) or file.name == "tokenizer_config.json":
            data = file.read_bytes()
            digest.update(f"{file.relative_to(folder)} {len(data)} ".encode() + data)
    config = folder / "config.json"
    said: dict[str, Any] = read_json_object(config) if config.is_file() else {}
    digest.update(repr([said.get(key) for key in ("model_type", "tokenizer_class")]).encode())
    return digest.hexdigest()


@cache
def _bundled() -> set[str]:
    return {_digest(file.parent) for file in _BUNDLED.glob("*/tokenizer.json")}


def _limit(seconds: int) -> None:
    """Limit this process's further CPU time and memory."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _lower(resource.RLIMIT_CPU, until)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY)


def _lower(what: int, limit: int) -> None:
    """Set a limit, unless this process was given a lower one."""
    hard = resource.getrlimit(what)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (limit, hard))


def main(folder: Path, template: str, seconds: int) -> int:
    """Ask within `seconds`; if that fails, print a sentence on stderr and return 2."""
    from transformers import AutoTokenizer  # noqa: F401 - its import is not counted

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _limit(seconds)
    try:
        question = _ask(folder, template)
        for sample in _SAMPLES:
            question.tokenizer.encode(sample, add_special_tokens=False)
            question.after_ids([sample])
    except ReadError as error:
        sys.stderr.write(f"{error}\n")  # for the process that asks
        return 2
    except BaseException as error:  # a panic in Rust is not an Exception
        sys.stderr.write(f"{folder}: its tokenizer fails on ordinary text: {reason(error)}.\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
