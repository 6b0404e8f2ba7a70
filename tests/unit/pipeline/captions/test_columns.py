"""Captions by the column, compared with captions one by one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.captions import captions
from pipeline.captions.captions import RULES, caption_fault, clean_caption, clean_text, decode_field, paper_caption
from pipeline.captions.columns import (
    NEEDS,
    PLAIN,
    SURE,
    clean_column,
    decode_column,
    is_faulty,
    paper_column,
    text_column,
)
from pipeline.sample.rows import make_rows

# What makes texts hard, to be put together at random: escapes cut short, markup in pieces, entities in entities,
# white space of all kinds, characters that compose, and what rules look for.
FRAGMENTS = (
    *("%", "%4", "%C3", "%A9", "%e2%80%8b", "%E3%81", "%E3%81%82", "%CC%81", "%1C", "%C2%A0", "%C2%92"),
    *("%C2%AD", "%00", "%FF", "%ED%A0%80", "%EF%BC%91", "%C5%BF", "%F0%9F%98%80", "%2B", "%26amp%3B"),
    *("%3Cb%3E", "%0A", "%0a%0A", "%41", "+", " ", "  ", "\t", "\x0b", "é", "ſ", "無題", "e", "boat"),
    *("A boat", "and", "&", "&amp;", "&quot;", "&lt;", "&am", ";", "&#39;", "<", ">", "<b>", "</a>"),
    *('<a href="http://x.y/z">', "<3", "<!--", "-->", "<!doctype", "<?xml", "?>", "www.", "untitled"),
    *("http%3A%2F%2Fx.org%2Fy", "HTTP://", "ftp://x.y", "/", "IMG_1234", "DSC", "P101", "20", "2010", "1"),
    *("07", ".jpg", "July", "May", "Sept", "wed", "am", "nd", "th", "IV", ":", "=", "-", "_", "(", ")"),
    *("Camera", "photo", "Screen shot", "ISO 100", "f/2.8", "50mm", ".com", "my", "digital", "1/60"),
    *("Uploaded by", "image", "x" * 61, "long " * 2500),
)
STORED = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(lambda parts: "".join(parts).encode()),
    st.text().map(lambda text: quote_plus(text, errors="replace").encode()),
    st.binary(max_size=20),
)


def clean_bytes(scalar: Callable[[str], str], stored: bytes) -> str:
    return scalar(stored.decode("utf-8", errors="replace"))


@given(st.lists(STORED, max_size=30))
@settings(max_examples=300, deadline=None)
def test_columns_equal_single_texts(stored: list[bytes]) -> None:
    column = pa.array([b"left out", *stored], pa.binary()).slice(1)
    cleaned = [clean_bytes(clean_caption, text) for text in stored]
    assert clean_column(column, is_encoded=True).to_pylist() == cleaned
    assert decode_column(column, is_encoded=True).to_pylist() == [clean_bytes(decode_field, text) for text in stored]
    assert paper_column(column).to_pylist() == [clean_bytes(paper_caption, text) for text in stored]
    assert text_column(column).to_pylist() == [clean_bytes(str, text) for text in stored]

    decoded = [text.decode("utf-8", errors="replace") for text in stored]
    texts = pa.array(decoded, pa.string())
    assert clean_column(texts, is_encoded=False).to_pylist() == [clean_text(text) for text in decoded]
    assert decode_column(texts, is_encoded=False).to_pylist() == decoded
    assert is_faulty(pa.array(cleaned, pa.string())).tolist() == [caption_fault(text) is not None for text in cleaned]


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=0x2FF)), max_size=20))
def test_faults_of_texts_that_are_mostly_plain(texts: list[str]) -> None:
    cleaned = [clean_text(text) for text in texts]
    assert is_faulty(pa.array(cleaned, pa.string())).tolist() == [caption_fault(text) is not None for text in cleaned]


NUMBER = st.text(st.characters(categories=["Nd"]), min_size=1, max_size=4)
DIGIT = st.sampled_from("0123456789")
LATIN = st.characters(min_codepoint=0x21, max_codepoint=0x7E) | st.characters(min_codepoint=0xC0, max_codepoint=0x24F)
TOKEN = st.text(LATIN, max_size=6)
SETTINGS = (
    *("f#", "F/#", "f / #.#", "f/ #", "F #", "#mm", "#.# mm", "#-#mm", "#.#-# MM", "iso#", "ISO #", "1/#", "1/#s"),
    *("1/# sec", "#s", "# Secs", "#.# s", "#ev", "+# EV", "-#.#ev", "-#/# ev"),
)
CAMERAS = (
    *("Canon", "nikon", "SONY", "pentax", "Olympus", "Fuji", "fujifilm", "Leica", "sigma", "TAMRON", "eos", "EF"),
    *("ef-s", "AF", "AF-s", "usm", "IS", "vr", "Canon EOS#", "Nikon D#", "Sony A-#_x", "EF #é", "fujifilm -#"),
)


def texts_of(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


@st.composite
def listed(draw: st.DrawFn, forms: tuple[str, ...], separators: str, min_size: int) -> str:
    """Some of these forms, with a number for every #, each with separators behind it."""
    text = ""
    for form in draw(st.lists(st.sampled_from(forms), min_size=min_size, max_size=4)):
        text += "".join(draw(NUMBER) if character == "#" else character for character in form)
        text += draw(st.text(st.sampled_from(separators), min_size=1, max_size=2))
    return text


# Texts of rules whose patterns look ahead. Of what is made from such a pattern itself, nearly all is thrown away: of
# number_first 3 different texts were left after 13 s, made like this 69 after 0.2 s.
MADE = {
    "joined_with_underscores": texts_of(
        st.just("") | TOKEN.map(lambda token: f"{token} "),
        st.permutations(["_", "12", "a", "É-"]).flatmap(
            lambda parts: texts_of(*(TOKEN.map(part.__add__) for part in parts))
        ),
    ),
    "number_first": texts_of(
        st.characters(categories=["Nd"]), *(part for _ in range(4) for part in (TOKEN, DIGIT)), TOKEN
    ),
    "bare_settings": texts_of(listed(CAMERAS, " \t\u2003,|@;/+-", 0), listed(SETTINGS, " \n\xa0,|@;+-", 2)),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_text_that_a_rule_matches_is_passed_by(rule: captions.Rule) -> None:
    assert rule.name in NEEDS, "without a need the rule is tried on every text"
    given_texts = [*rule.matches, *rule.spares, *(text.upper() for text in rule.matches)]
    texts = pa.array(given_texts, pa.string())
    assert is_faulty(texts).tolist() == [caption_fault(text) is not None for text in given_texts]
    matched: set[str] = set()

    @given(st.lists(MADE.get(rule.name, st.from_regex(rule.pattern, fullmatch=True)), max_size=4))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    def check(matching: list[str]) -> None:
        lines = [text for text in map(clean_text, matching) if rule.pattern.fullmatch(text)]
        assert is_faulty(pa.array(lines, pa.string())).all()
        matched.update(lines)

    check()
    assert len(matched) >= 20, "too few to prove anything"


@given(st.lists(st.from_regex(re.compile(SURE, re.IGNORECASE | re.ASCII), fullmatch=True), min_size=1))
@settings(deadline=None)
def test_what_is_surely_faulty_has_a_fault(texts: list[str]) -> None:
    for text in texts:
        assert caption_fault(text.removesuffix("\n")) is not None


def test_plain_characters_need_no_care() -> None:
    plain = re.compile(f"[{re.sub(r'x{([0-9a-f]+)}', lambda code: f'U{int(code[1], 16):08x}', PLAIN)}]")
    composing = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Korean syllables are composed by rule
    for code in range(0x110000):
        decomposed = unicodedata.decomposition(chr(code))
        if decomposed and not decomposed.startswith("<"):
            composing |= {int(part, 16) for part in decomposed.split()[1:]}
    word_characters = []
    for code in range(0x80, 0x110000):
        character = chr(code)
        if plain.match(character):
            assert not unicodedata.combining(character)
            assert code not in composing
            assert unicodedata.is_normalized("NFC", character)
            assert clean_text(f"a{character}a") == f"a{character}a"
            assert not re.match(r"[a-z\s\d]", character, re.IGNORECASE)
            word_characters.append(character)
    found = pc.match_substring_regex(
        pa.array(word_characters), r"[\pL\pN]"
    ).to_pylist()  # as the addresses' end is told
    assert found == [re.match(r"\w", character) is not None for character in word_characters]


def test_a_text_does_not_borrow_from_its_neighbour() -> None:
    column = pa.array([b"a%4", b"1b", b"%", b"", b"41", b" x ", b" y"], pa.binary())
    assert clean_column(column, is_encoded=True).to_pylist() == ["a%4", "1b", "%", "", "41", "x", "y"]


def test_the_embedded_sample_s_texts() -> None:
    texts = [text.encode() for row in make_rows(2000, seed=3) for text in row.line.split("\t")[8:10]]
    cleaned = clean_column(pa.array(texts, pa.binary()), is_encoded=True)
    assert cleaned.to_pylist() == [clean_caption(text.decode()) for text in texts]
    assert is_faulty(cleaned).tolist() == [caption_fault(text) is not None for text in cleaned.to_pylist()]


def test_no_rows() -> None:
    empty = pa.array([], pa.binary())
    assert clean_column(empty, is_encoded=True).to_pylist() == []
    assert is_faulty(pa.array([], pa.string())).tolist() == []
