"""Cleaning and judging captions: examples from the rule table, and properties."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.captions.captions import (
    MAX_CAPTION_CHARS,
    MAY_MATCH_A_RULE,
    RULES,
    Rule,
    caption_fault,
    clean_caption,
    clean_text,
    decode_field,
    paper_caption,
)

MARKUP = st.sampled_from(
    [
        *("<b>", "</b>", "<a href='x'>", "&amp;", "&lt;", "&gt;", "&#38;", "&", "amp;", "<", ">", "<3", "<!--", "-->"),
        *("http://", "https://x.y/z", "www.", "a", "Boat", "(", ").", '"', " ", "\n"),
        *("\x92", "\u0301", "\u0958", "\u200b"),
    ]
)

PIECES = [
    *(
        " ",
        " ",
        " ",
        "-",
        "_",
        ".",
        ":",
        "1",
        "123",
        "2010",
        "x",
        "copy",
        "my ",
        "canon ",
        "digital camera",
        "hp photosmart ",
    ),
    *(
        "exif",
        "jpeg",
        "iso 100 ",
        "f/2.8 ",
        "50mm ",
        "1/60s ",
        "is ",
        "camera: ",
        "exposure: ",
        "photo",
        "screenshot",
        ".jpg",
    ),
    *(
        "uploaded by ",
        "posted with ",
        "processed with ",
        "created with ",
        "nero",
        "image",
        "no title",
        "dcim/",
        "lead technologies inc",
    ),
]
TAILS = [
    *(" from my blue telephone - - -", " by the very.best one - - -", "/a-b-c-d-e - - - -", " still camera - - -"),
    *("", " - - - - - -", " 1 2 3 4 5 6", " 1234 copy edited small web final", "1234 copy edited small web final"),
    *(" d90 f/2.8, 1/60 s, ISO 400, 50 mm", "f/2.8, 1/60 s, ISO 400, 50 mm", " 2.8, 1/60 s, ISO 400, 50 mm, +1 EV"),
    *("100 1/60 s, ISO 400, 50 mm, +1 EV", "/60 s, ISO 400, 50 mm, +1 EV", "-s 1/60 s, ISO 400, 50 mm, +1 EV"),
    *(
        ": a b c d, iso: 5",
        " length: a b c d, iso speed: 5",
        "-number: 1 2 3 4, iso: 5",
        " sony kodak nikon digital still camera",
    ),
    *(
        " photosmart a b c d e",
        " phone upload powered by my phone",
        "ed by the very.best - - -",
        "ed with the very.best one - -",
    ),
    *(
        " from my telephone - - - -",
        " with vsco cam with f2 preset",
        " with the paint shop pro - - -",
        " by adobe lightroom - - - -",
    ),
    *(
        " technologies inc. v1.01 - - -",
        " camera - - - -",
        " phone - - - -",
        " shot 2013-05-27 at 11.35.41 PM",
        "shot 1 2 3 4 5",
    ),
    *(" de pantalla 1 2 3 4", " de tela 1 2 3 4", " d'écran 1 2 3 4", " um 10.11.12 (2) 3 4", " at 1 2 3 4 pm"),
]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("A+%3Cb%3Eboat%3C%2Fb%3E", "A boat"),
        ("1%2B1+%3D+2", "1+1 = 2"),
        ("100%25+wool", "100% wool"),
        ("%2525", "%25"),  # decoded once
        ("line+one%0Aline+two%0D%0A%09three", "line one line two three"),
        ("Tom+%26amp%3B+Jerry", "Tom & Jerry"),
        ("%26lt%3Bb%26gt%3Bbold%26lt%3B%2Fb%26gt%3B", "bold"),
        ("caf%C3%A9", "café"),
        ("cafe%CC%81", "café"),
        ("bad%FFbyte", "bad\ufffdbyte"),
        ("I+%3C3+NY", "I <3 NY"),
        ("a+%3C+b+and+c+%3E+d", "a < b and c > d"),
        ("x%3Cy+and+y%3Ez", "x<y and y>z"),
        ("Line%3Cbr+%2F%3Ebreak", "Line break"),
        ("%3Ca+href%3D%22http%3A%2F%2Fx.org%2Fa%22+rel%3D%22nofollow%22%3Ethe+site%3C%2Fa%3E", "the site"),
        ("see+http%3A%2F%2Fx.org%2Fa%3Fb%3D1%2C+then+go", "see , then go"),
        ("at+www.example.com%2F.", "at ."),
        ("HTTPS%3A%2F%2FX.ORG", ""),
        ("me%40www.example.com", "me@www.example.com"),
        ("c%C2%92est", "c’est"),
        ("a%00b%07c%E2%80%8Bd", "abcd"),
        ("%3C%21--+note+--%3Eseen", "seen"),
        ("%3Csection%3Ea%3C%2Fsection%3E%3Cmark+class%3D%22x%22%3Eb%3C%2Fmark%3E", "a b"),
        ("%3Co%3Ap%3E%3C%2Fo%3Ap%3Efrom+%3Cst1%3Aplace%3EOslo%3C%2Fst1%3Aplace%3E", "from Oslo"),
        ("%3C%21DOCTYPE+html%3E%3C%3Fxml+version%3D%221.0%22%3F%3Epage", "page"),
        ("%3Cmarkus%3E+and+%3Csue%3E", "<markus> and <sue>"),
        ("ftp%3A%2F%2Ffiles.example.com%2Fa.zip+has+it", "has it"),
        ("in%C2%ADfor%C2%ADmation%E2%80%8F+%EF%BF%BC+desk", "information desk"),
        ("%E2%80%AEreversed%E2%80%AC", "reversed"),
        ("%D9%85%DB%8C%E2%80%8C%D8%B1%D9%88%D9%85", "می\u200cروم"),  # a zero-width non-joiner belongs to the word
        ("a%C2%A0b%E3%80%80c%E2%80%A8d", "a b c d"),
        ("%E1%84%92%E1%85%A1%E1%86%AB", "한"),
    ],
)
def test_clean_caption(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


def test_a_field_keeps_what_looks_like_markup() -> None:
    assert decode_field("nathalie%2Bcone+%3C3%0A+%3Cb%3E") == "nathalie+cone <3 <b>"


@given(st.one_of(st.text(), st.lists(MARKUP, max_size=30).map("".join)))
@example("&" + "amp;" * 40 + "lt;b>x")
@example("&&num;38;&num;38;lt;")
@settings(deadline=None)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert clean == " ".join(clean.split())
    assert unicodedata.is_normalized("NFC", clean)
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in clean)


@given(st.lists(st.from_regex(r"[A-Za-zé0-9+%,.!'()*-]{1,12}", fullmatch=True), min_size=1, max_size=12))
@settings(deadline=None)
def test_plain_words_survive_encoding_and_cleaning(words: list[str]) -> None:
    text = unicodedata.normalize("NFC", " ".join(words))
    if "www." not in text.lower():
        assert clean_caption(quote_plus(text)) == text
        assert clean_text(text) == text


@pytest.mark.parametrize("piece", ["<a", "<!--", "amp;", "#38;", "www.", "http://", "http://.", "&lt;", "a\u0301", '"'])
def test_hostile_texts_are_cleaned(piece: str) -> None:
    """A pattern with a quadratic path would be at it for minutes."""
    cleaned = clean_text("&" + piece * (200_000 // len(piece)))
    assert clean_text(cleaned) == cleaned
    assert len(paper_caption(piece * (200_000 // len(piece)))) <= 200_000


@pytest.mark.parametrize(
    "piece",
    ["1", "a_1", "-copy", "nikon ", "is1", "50mm ", "camera:", "a.", "jan ", "exif_", "iso 1 ", "(", "2010 jan "],
)
@pytest.mark.parametrize("start", ["", "IMG_1234", "Nikon D80 ", "DSC-1"])
def test_hostile_texts_are_judged(start: str, piece: str) -> None:
    """As above; the last character keeps every rule of file names from matching after all."""
    text = start + (piece * MAX_CAPTION_CHARS)[: MAX_CAPTION_CHARS - 20] + "黃"
    assert caption_fault(text) in {None, "camera_boilerplate"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_catches_and_spares_its_examples(rule: Rule) -> None:
    assert rule.matches
    assert rule.spares
    for text in rule.matches:
        assert clean_text(text) == text
        assert rule.pattern.fullmatch(text), text
        assert caption_fault(text) == rule.fault, text
        assert MAY_MATCH_A_RULE.match(text), text
    for text in rule.spares:
        assert clean_text(text) == text
        assert caption_fault(text) is None, text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_whatever_a_rule_matches_passes_the_filter(rule: Rule) -> None:
    """All words of the rule, before and between all kinds of things that make a text too long for the filter."""
    words = set(re.findall(r"[a-z]+", rule.pattern.pattern)) | set(rule.matches)
    starts = ("", "- ", "my ", "my my my ", "no ", "s", "_")
    texts = [start + word + tail for start in starts for word in words for tail in TAILS]
    matched = [text for text in texts if rule.pattern.fullmatch(text)]
    assert len(matched) >= len(rule.matches)
    assert [text for text in matched if MAY_MATCH_A_RULE.match(text) is None] == []


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@settings(deadline=None)
def test_the_filter_changes_no_fault(text: str) -> None:
    if any(rule.pattern.fullmatch(text) for rule in RULES):
        assert MAY_MATCH_A_RULE.match(text)


@pytest.mark.parametrize(
    "text", ["The old town on a rainy day", "A small boat near the shore", "We had lunch there with our friends"]
)
def test_the_filter_stops_plain_sentences(text: str) -> None:
    assert MAY_MATCH_A_RULE.match(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (".", "no_words"),
        ("80!", "no_words"),
        ("2010-03-09 064", "no_words"),
        ("jan 2013", "no_words"),
        ("Tue 8 Nov 2011 14:00:13", "no_words"),
        ("2014-02-03 12.11.03 pm", "no_words"),
        ("x" * (MAX_CAPTION_CHARS + 1), "too_long"),
        ("May", None),
        ("July 4th", None),
        ("Sunday", None),
        ("Paris 2010", None),
        ("５月", None),
        ("神戸空港。", None),
        ("wall", None),
        ("b-day, wedding and drum corps reunion 068", None),
        ("High Voltage-153", None),
        ("Blue Angels 0304", None),
        ("MTA Orion VII 6864 on the Q27", None),
        ("The march of 12 may 2010", None),
        ("a boat " * 1000, None),
    ],
)
def test_caption_fault(text: str, fault: str | None) -> None:
    assert caption_fault(text) == fault


@given(
    st.integers(0, 99_999), st.sampled_from(["IMG_{:04d}", "DSC{:05d}", "DSCN{:04d}.JPG", "P10{:05d}", "_MG_{:04d}"])
)
@settings(deadline=None)
def test_camera_names_are_file_names_whatever_their_number(number: int, pattern: str) -> None:
    assert caption_fault(pattern.format(number)) == "file_name"


@given(
    st.lists(st.sampled_from(["the", "a", "old", "red", "dog", "boat", "on", "by", "my", "sea", "light"]), min_size=2)
)
@settings(deadline=None)
def test_plain_sentences_are_never_rejected(words: list[str]) -> None:
    assert caption_fault(" ".join(words)[:MAX_CAPTION_CHARS]) is None
