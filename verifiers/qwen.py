"""Qwen2.5's tokens of known pieces of text, for models with random weights, which have no tokenizer."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# What the Instruct models' chat template says where a chat begins without a system message.
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_PIECES = Path(__file__).with_name("qwen_pieces.json")
_BYTES_PER_TOKEN = 10
_FILLER = 0  # stands in for an unknown token
# A tokenizer like Qwen2.5's splits a text into these, and tokenises each alone: special tokens; then endings such
# as 's, words with what precedes them, single digits, runs of signs, line ends, spaces.
_SPECIAL = re.compile(r"(<\|(?:im_start|im_end|endoftext)\|>)")
_PIECE = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+|."
)


def pieces(text: str) -> Iterator[str]:
    """Split a text into its pieces, in order; joined they are its normal form (NFC)."""
    for part in _SPECIAL.split(unicodedata.normalize("NFC", text)):
        if _SPECIAL.fullmatch(part):
            yield part
        else:
            yield from _PIECE.findall(part)


class KnownPieces:
    """Qwen2.5-Instruct's tokenizer for texts whose pieces are all in qwen_pieces.json: exact ids.

    It has the words of the paper's question and of GenEval's and nano's prompts, digits, letters and signs. The number of
    tokens of any other piece is guessed: one for every ten bytes begun.
    """

    pad_token_id = 151643

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return token ids, with a filler for each guessed one."""
        return [i for piece in pieces(text) for i in _ids(piece)]

    def unknown(self, text: str) -> list[str]:
        """Return the pieces of a text whose number of tokens is guessed, each once."""
        return [piece for piece in dict.fromkeys(pieces(text)) if piece not in _known()]

    def get_vocab(self) -> dict[str, int]:
        """Return the known pieces that are one token."""
        return {piece: ids[0] for piece, ids in _known().items() if len(ids) == 1}

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        tokenize: bool = False,
        add_generation_prompt: bool = True,
    ) -> str:
        """Write the chat as text, up to the assistant's answer."""
        turns = [("system", SYSTEM), *((m["role"], m["content"]) for m in messages)]
        chat = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        return f"{chat}<|im_start|>assistant\n"


@functools.cache
def _known() -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads(_PIECES.read_text(encoding="utf-8"))
    return found


def _ids(piece: str) -> list[int]:
    return _known().get(piece) or [_FILLER] * -(-len(piece.encode(errors="replace")) // _BYTES_PER_TOKEN)
