"""Captions to CLIP's token ids, the same ids as open_clip's tokenizer gives.

Each row is start token, caption, end token, zeros. A caption that is too long is cut and keeps its end token: the text
tower reads its feature there. (The published SLIP code cuts the end token off and then reads the start token.)

instant-clip-tokenizer does the work where installed, about 20 times as fast as open_clip's, except for captions with
characters that the two may sort into different classes; those go to open_clip.
"""

from __future__ import annotations

import html
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import ftfy
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from slip.torchvision_compat import import_torchvision

try:
    import instant_clip_tokenizer
except ImportError:
    instant_clip_tokenizer = None

START_TOKEN = 49406
END_TOKEN = 49407

# ASCII that ftfy and html.unescape leave alone: no control characters, no entities.
_PLAIN = re.compile(r"[ -%'-~\t\r\n]*")

Tokens = npt.NDArray[np.int64]


def clean(text: str) -> str:
    """CLIP's cleaning: "caf&amp;eacute;\\n Noir " -> "café noir"."""
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _same_everywhere(cleaned: str) -> bool:
    """Whether every character was assigned by Unicode 3.2, so that all libraries agree on what is a letter.

    Checked one by one, 95,093 such characters give equal ids; U+0345 (a combining iota that upper-cases to a letter) is
    the one that does not.
    """
    if cleaned.isascii():
        return True
    category = unicodedata.ucd_3_2_0.category
    return all(c.isascii() or (category(c) not in {"Cn", "Co", "Cs"} and c != "\u0345") for c in cleaned)


class Tokenizer:
    """Callable: captions -> (N, context_length) int64. Usable from several threads."""

    def __init__(self, context_length: int) -> None:
        if context_length < 3:
            raise ConfigError(
                f"--model.context-length is {context_length}; it must be at least 3 (start token, one token, end token)"
            )
        self.context_length = context_length
        self._instant = instant_clip_tokenizer.Tokenizer() if instant_clip_tokenizer is not None else None
        self._lock = threading.Lock()
        self._open_clip: Callable[..., Any] | None = None
        if self._instant is None:
            self._load_open_clip()

    def _load_open_clip(self) -> Callable[..., Any]:
        with self._lock:
            if self._open_clip is None:
                import_torchvision()
                from open_clip.tokenizer import SimpleTokenizer

                self._open_clip = SimpleTokenizer(clean="lower")
            return self._open_clip

    def __call__(self, captions: Sequence[str]) -> Tokens:
        result = np.zeros((len(captions), self.context_length), dtype=np.int64)
        fast: list[int] = []
        cleaned: list[str] = []
        slow: list[int] = []
        for i, caption in enumerate(captions):
            text = clean(caption) if self._instant is not None else ""
            if self._instant is not None and _same_everywhere(text):
                fast.append(i)
                cleaned.append(text)
            else:
                slow.append(i)
        if self._instant is not None and fast:
            result[fast] = self._instant.tokenize_batch(cleaned, context_length=self.context_length)
        if slow:
            # open_clip cleans again, from the original: cleaning twice would unescape entities once more.
            tokens = self._load_open_clip()([captions[i] for i in slow], context_length=self.context_length)
            result[slow] = tokens.numpy()
        return result


def cut_to_longest(tokens_NL: Tokens) -> Tokens:
    """Cut the columns after the last end token of the batch; a causal text tower cannot tell the difference."""
    if len(tokens_NL) == 0:
        return tokens_NL
    # The end token is the largest id; the tower's feature is read at its first occurrence.
    longest = int(tokens_NL.argmax(axis=1).max()) + 1
    return np.ascontiguousarray(tokens_NL[:, :longest])
