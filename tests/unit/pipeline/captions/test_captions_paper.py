"""`--captions paper`: the published script's cleaning, against a slow version of it that works differently."""

from __future__ import annotations

import string
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captions.captions import paper_caption

MARKUP = st.sampled_from(
    [
        "<a",
        "<abbr>",
        "</a>",
        "<b>",
        "</b>",
        "<i>",
        "</i>",
        "<br>",
        "http",
        "www",
        "&amp;",
        "Boat",
        "+",
        "%2B",
        "%",
        "\n",
        "\u2028",
        ">",
    ]
)


def _slow_paper_caption(raw: str) -> str:
    """The published cleaning, one character at a time; for fields as stored: ASCII only."""
    data, at = bytearray(), 0
    while at < len(raw):
        digits = raw[at + 1 : at + 3]
        is_escape = raw[at] == "%" and len(digits) == 2 and set(digits) <= set(string.hexdigits)
        data.append(int(digits, 16) if is_escape else ord(raw[at]))
        at += 3 if is_escape else 1
    text = data.decode("utf-8", errors="replace")
    text = "".join(" " if character == "+" else character for character in text)

    kept, at = "", 0
    while at < len(text):
        end = text.find(">", at + 2) if text[at : at + 2] == "<a" else -1
        if end >= 0 and "\n" not in text[at:end]:
            at = end + 1
        elif tag := next((tag for tag in ("</a>", "<b>", "</b>", "<i>", "</i>") if text[at:].startswith(tag)), ""):
            at += len(tag)
        else:
            kept += text[at]
            at += 1

    text, kept, at = kept, "", 0
    while at < len(text):
        word = text[at:].split(maxsplit=1)[0] if not text[at].isspace() else ""
        if (word.startswith("http") and len(word) > 4) or (word.startswith("www") and len(word) > 3):
            at += len(word)
        else:
            kept += text[at]
            at += 1
    return kept


@pytest.mark.parametrize(
    ("raw", "paper"),
    [
        ("", ""),
        ("1%2B1+is+2", "1 1 is 2"),  # the published order of decoding loses plus signs
        ("+Boat%0A+", " Boat\n "),
        ("Tom+%26amp%3B+Jerry", "Tom &amp; Jerry"),
        ("%3Ca+href%3D%22http%3A%2F%2Fx.org%22%3Ethe+site%3C%2Fa%3E", "the site"),
        ("%3Cabbr%3EUS%3C%2Fabbr%3E", "US</abbr>"),
        ("one%3Cbr%3Etwo", "one<br>two"),
        ("%3Cb%3Ebold%3C%2Fb%3E+%3Ci%3Eit%3C%2Fi%3E+%3Cb+x%3E+%3CB%3E", "bold it <b x> <B>"),
        ("%3Ca+without+end", "<a without end"),
        ("%3Ca+on%0Atwo+lines%3E", "<a on\ntwo lines>"),
        ("%3Ca+%3Cb%3Ex", "x"),
        ("%3C%3Cb%3Eb%3Ex", "<b>x"),
        ("see+http%3A%2F%2Fx.org%2C+or+www.y.org+now", "see  or  now"),
        ("xhttps+http+www+wwwx", "x http www "),
        ("HTTP%3A%2F%2Fx.org", "HTTP://x.org"),
        ("100%25+%zz+%E9", "100% %zz \ufffd"),
    ],
)
def test_paper_caption(raw: str, paper: str) -> None:
    assert paper_caption(raw) == paper
    assert _slow_paper_caption(raw) == paper


@given(st.lists(st.one_of(MARKUP, st.text(max_size=4)), max_size=30).map("".join))
@settings(deadline=None)
def test_paper_caption_is_the_published_cleaning(text: str) -> None:
    raw = quote_plus(text, errors="replace")
    assert paper_caption(raw) == _slow_paper_caption(raw)


@given(st.text(alphabet="%+<a>bi/ht\nCw20EF", max_size=60))
@settings(deadline=None)
def test_paper_caption_of_a_damaged_field(raw: str) -> None:
    assert paper_caption(raw) == _slow_paper_caption(raw)
