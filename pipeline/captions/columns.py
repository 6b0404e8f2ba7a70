"""Whole columns of captions at once: what `captions.clean_caption` and `captions.caption_fault` say, many times faster.

In come columns of stored texts, out go columns of cleaned ones and masks. Percent-decoding is done with numpy on the
column's bytes; one regular expression (RE2, through Arrow) finds the texts that need more than white space collapsed,
another those that a rule could match. Only those go through the scalar functions, which stay the one definition of
what is right: nothing here may ever give another result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.captions import captions
from pipeline.captions.captions import (
    MAX_CAPTION_CHARS,
    RULES,
    caption_fault,
    clean_caption,
    clean_text,
    decode_field,
    paper_caption,
)

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Characters that Unicode normalisation (NFC) leaves as they are whatever stands beside them, that are no white space,
# no control characters, no digits but 0 to 9, and that regular expressions without case do not take for ASCII letters.
PLAIN = (
    r" -~\x{a1}-\x{ac}\x{ae}-\x{12f}\x{132}-\x{17e}\x{180}-\x{2ff}\x{384}-\x{386}\x{388}-\x{3ff}\x{400}-\x{482}"
    r"\x{48a}-\x{52f}\x{5d0}-\x{5ea}\x{620}-\x{64a}\x{e01}-\x{e30}\x{1ea0}-\x{1ef9}\x{2010}-\x{2027}\x{2030}-\x{205e}\x{20a0}-\x{20bf}"
    r"\x{2190}-\x{21ff}\x{2460}-\x{27bf}\x{3001}-\x{3029}\x{3041}-\x{3096}\x{309b}-\x{30ff}\x{4e00}-\x{9fff}"
    r"\x{ac00}-\x{d7a3}\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff9f}\x{1f300}-\x{1faff}"
)
_NOT_PLAIN = rf"[^{PLAIN}]"
# What may be a tag, an entity or an address once white space is collapsed: "<3" and "you & I" are none.
_MARKUP = r"<[/!?A-Za-z]|&[^ ]|://|[Ww][Ww][Ww]\."

_SETTING = r"(?:f ?/? ?\d|\d ?(?:mm|s|ev)|iso ?\d|1/\d)"
NEEDS = {
    "picture_file": r"\.[a-z0-9]{3,4}$",
    "camera_counter": r"^[_s]?[a-z]{2,7}[ _-]?\d{3}",
    "letter_code": r"^_?[a-z]{1,4}(?:\d{4}|[-_]\d{3})",
    "joined_with_underscores": r"_.*\d\d|\d\d.*_",
    "number_first": r"^\d(?:[^ ]*\d){4}",
    "numbered_nothing": (
        r"^\W*(?:im|ph|pi|fo|bi|fi|sc|sn|ds|un|no |sin |sem |senza |sans |ohne |zonder |無|无)"
        r"[a-z\x{80}-\x{10ffff} ]{0,13}[ _#.-]*\(?\d*\)?\W*$"
    ),
    "screen_shot": r"^(?:screen|bildschirm|captura|schermata|capture)",
    "web_address": r"^[^ ]+\.[^ ]*(?:/.*)?$",
    "camera_default": (
        r"^\W*(?:(?:canon|casio|fuji(?:film)?|hp|kodak|konica|minolta|nikon|olympus|panasonic|pentax|polaroid|ricoh|"
        r"samsung|sanyo|sony|vivitar|my) )*(?:digital|front|rear|back|camera|dsc|exif|lead|created|ascii|jpeg|posted|"
        r"upload|sent|processed|photo|dcim)"
    ),
    "camera_settings": (
        r"^\W*(?:camera|model|make|lens|focal|f-?number|f-?stop|aperture|exposure|shutter|iso|exif|date).*[:=].*[:=]"
    ),
    "bare_settings": rf"{_SETTING}.*{_SETTING}",
}
"""For each rule of `captions.RULES` what a text of `PLAIN` characters must contain for the rule to match (case is
ignored). A rule that is not named here is tried on every text: that costs time, never correctness."""

# Both as in captions.py, in RE2's words: on texts of PLAIN characters they mean the same.
_TAG = f"(?i){captions.TAG.pattern}"
_ADDRESS = r"""(?i)(?:https?|ftp)://[^\s<>"]*[\pL\pN_/=&#%+~$-]|(?:https?|ftp)://"""

SURE = (
    r"^[ -@\[-`{-~]+$"  # no letter
    r"|^_?[a-z]{1,4}(?:\d{4,}|[-_]\d{3,})[!-~]*$"  # letter_code
    r"|^\d(?:[!-~]*\d){4}[!-~]*$"  # number_first
)
"""What no text may match without a fault (case is ignored): three of four file names, found without trying rules."""

_MAX_DATE_CHARS = 60

_HEX = np.full(256, 255, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)
_SPACES = np.arange(256, dtype=np.uint8)
_SPACES[[9, 10, 11, 12, 13]] = 32
_PLUS_AND_SPACES = _SPACES.copy()
_PLUS_AND_SPACES[ord("+")] = 32


def _bytes_of(column: pa.Array) -> tuple[Bytes, Positions]:
    """The bytes of all texts in a row, and where each begins, with the end of the last behind them."""
    column = column.cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    if data is None or not len(column):
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def _without(data: Bytes, offsets: Positions, dropped: Positions) -> tuple[Bytes, Positions]:
    """The texts without the bytes at these positions, which ascend."""
    if not len(dropped):
        return data, offsets
    keep = np.ones(len(data), np.bool_)
    keep[dropped] = False
    return data[keep], offsets - np.searchsorted(dropped, offsets)


def _unquoted(data: Bytes, offsets: Positions) -> tuple[Bytes, Positions]:
    """Plus signs and white space as spaces, then %XX as bytes; what is no %XX stays, as in `unquote_plus`."""
    found = np.flatnonzero(data == ord("%"))
    data = _PLUS_AND_SPACES[data]
    if not len(found):
        return data, offsets
    # A text's last two bytes cannot begin an escape, whatever the next text begins with.
    is_last = np.zeros(len(data) + 2, np.bool_)
    is_last[offsets[1:] - 1] = True
    is_last[offsets[1:] - 2] = True
    found = found[~is_last[found]]
    high, low = _HEX[data[found + 1]], _HEX[data[found + 2]]
    is_escape = (high < 16) & (low < 16)
    found, high, low = found[is_escape], high[is_escape], low[is_escape]
    data[found] = _SPACES[high << 4 | low]
    dropped = np.empty(2 * len(found), np.int64)
    dropped[0::2], dropped[1::2] = found + 1, found + 2
    return _without(data, offsets, dropped)


def _collapsed(data: Bytes, offsets: Positions) -> tuple[Bytes, Positions]:
    """Every run of spaces as one."""
    is_space = data == 32
    return _without(data, offsets, np.flatnonzero(is_space[1:] & is_space[:-1]) + 1)


def _strings(data: Bytes, offsets: Positions) -> tuple[pa.StringArray, Mask]:
    """The texts as strings, and which are not UTF-8 (those must not be used)."""
    if len(data) >= 1 << 31:
        raise pa.ArrowCapacityError(f"a column of {len(data)} bytes; expected less than 2 GiB")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    texts = pa.StringArray.from_buffers(len(offsets) - 1, *buffers[1:])
    is_broken = np.zeros(len(texts), np.bool_)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        suspects = np.flatnonzero(~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False))
        for index, text in zip(suspects, texts.cast(pa.binary()).take(pa.array(suspects)).to_pylist(), strict=True):
            try:
                text.decode()
            except UnicodeDecodeError:
                is_broken[index] = True
    return texts, is_broken


def _matches(texts: pa.StringArray, pattern: str) -> Mask:
    found: Mask = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return found


def _as_text(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", errors="replace")


def _replaced(texts: pa.StringArray, is_slow: Mask, column: pa.Array, scalar: Callable[[str], str]) -> pa.StringArray:
    """The texts with those of the mask made from the column by the scalar function instead."""
    if not is_slow.any():
        return texts
    slow = [scalar(_as_text(stored)) for stored in column.filter(pa.array(is_slow)).to_pylist()]
    return pc.replace_with_mask(texts, pa.array(is_slow), pa.array(slow, pa.string()))


def _one_line(column: pa.Array, *, is_encoded: bool) -> tuple[pa.StringArray, Mask]:
    """Decoded texts with white space collapsed, and in which of them that was not all there is to do."""
    data, offsets = _bytes_of(column)
    is_slow = np.zeros(len(column), np.bool_)
    if is_encoded:
        raw = np.flatnonzero(data >= 0x80)  # escapes are decoded after, not together with, bytes that stand as they are
        is_slow[np.searchsorted(offsets, raw, side="right") - 1] = True
        data, offsets = _unquoted(data, offsets)
    else:
        data = _SPACES[data]
    texts, is_broken = _strings(*_collapsed(data, offsets))
    texts = pc.ascii_trim(texts, " ")
    return texts, is_slow | is_broken | _matches(texts, _NOT_PLAIN)


def _without_markup(texts: pa.StringArray) -> tuple[pa.StringArray, Mask]:
    """Plain texts without tags and addresses, and in which of them something is left that may be markup.

    One round of what clean_text repeats; a text that needs a second one is among those where something is left.
    """
    is_slow = ~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False) & _matches(texts, "<[!?]")
    for entity, character in (("&quot;", '"'), ("&amp;", "&")):
        texts = pc.replace_substring(texts, entity, character)
    is_slow |= _matches(texts, "&[^ ]")  # another entity: it might stand inside a tag, and goes first
    texts = pc.replace_substring_regex(texts, _TAG, " ")
    texts = pc.replace_substring_regex(texts, _ADDRESS, " ")
    data, offsets = _collapsed(*_bytes_of(texts))
    texts = pc.ascii_trim(_strings(data, offsets)[0], " ")
    return texts, is_slow | _matches(texts, _MARKUP)


def clean_column(column: pa.Array, *, is_encoded: bool) -> pa.StringArray:
    """`clean_caption` (`clean_text` where the texts are not encoded) of every text."""
    texts, is_slow = _one_line(column, is_encoded=is_encoded)
    has_markup = _matches(texts, _MARKUP) & ~is_slow
    if has_markup.any():
        where = pa.array(has_markup)
        bare, is_left = _without_markup(texts.filter(where))
        texts = pc.replace_with_mask(texts, where, bare)
        is_slow[has_markup] = is_left
    return _replaced(texts, is_slow, column, clean_caption if is_encoded else clean_text)


def decode_column(column: pa.Array, *, is_encoded: bool) -> pa.StringArray:
    """`decode_field` of every text; texts that are not encoded stay as they are."""
    if not is_encoded:
        return column.cast(pa.string())
    return _replaced(*_one_line(column, is_encoded=True), column, decode_field)


def paper_column(column: pa.Array) -> pa.StringArray:
    """`paper_caption` of every text."""
    return pa.array([paper_caption(_as_text(stored)) for stored in column.to_pylist()], pa.string())


def text_column(column: pa.Array) -> pa.StringArray:
    """The texts as they are stored; bytes that are no UTF-8 become U+FFFD."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_as_text(stored) for stored in column.to_pylist()], pa.string())


def _may_match_a_rule() -> str:
    unnamed = "" if all(rule.name in NEEDS for rule in RULES) else "|^"
    return f"(?i){_NOT_PLAIN}|{'|'.join(f'(?:{need})' for need in NEEDS.values())}{unnamed}"


_MAY_MATCH_A_RULE = _may_match_a_rule()


def is_faulty(texts: pa.StringArray) -> Mask:
    """Of every cleaned text whether `caption_fault` finds anything."""
    num_bytes = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    faulty: Mask = num_bytes == 0
    suspect = _matches(texts, _MAY_MATCH_A_RULE)
    suspect |= ~_matches(texts, "[A-Za-z]")
    # Short texts with a year or two numbers may be dates. No word of a date begins with one of those letters.
    may_be_date = _matches(texts, r"(?:19|20)\d\d|\d[^\d]+\d") & (num_bytes <= 4 * _MAX_DATE_CHARS)
    suspect |= may_be_date & ~_matches(texts, r"(?i)(?:^|[ -@\[-`{-~])[bcehiklqvxyz]")
    suspect |= num_bytes > MAX_CAPTION_CHARS
    faulty |= _matches(texts, f"(?i){SURE}") & (num_bytes <= MAX_CAPTION_CHARS)
    suspect &= ~faulty
    if suspect.any():
        found = [caption_fault(text) is not None for text in texts.filter(pa.array(suspect)).to_pylist()]
        faulty[suspect] = found
    return faulty
