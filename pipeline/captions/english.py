"""Whether a caption is natural language in English: the rule by which variant `english` selects rows.

Comes in: a text as `captions` cleans it. Goes out: what is wrong with it, or nothing. The CLIP paper
(2103.00020, sec. 2.2) kept the pictures of YFCC100M with "natural language titles and/or descriptions in English";
file names and camera settings are `captions`'s to know, languages `language`'s.
"""

from __future__ import annotations

import re

from pipeline.captions.captions import caption_fault
from pipeline.captions.language import ENGLISH, english_probability

MIN_WORDS = 2
"""One word alone is no natural language: "Paris", "sunset"."""

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def _has_few_words(text: str) -> bool:
    words = _WORD.finditer(text)
    return any(next(words, None) is None for _ in range(MIN_WORDS))


def english_fault(text: str) -> str | None:
    """Why a cleaned text is no natural-language English of two or more words, None when it is.

    "A dog on the beach" -> None, "IMG_0520" -> "file_name", "sunset" -> "few_words", "Ein Hund" -> "not_english".

    Raises:
        InputError: a package of the `build` extra is missing.
    """
    fault = caption_fault(text)
    if fault is not None:
        return fault
    if _has_few_words(text):
        return "few_words"
    return None if english_probability(text) >= ENGLISH else "not_english"
