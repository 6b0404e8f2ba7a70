from __future__ import annotations

from collections import Counter

from pipeline.report.captions import captions_section, comparisons_section
from pipeline.report.facts import Captions, Comparison


def test_lengths_are_told_in_words() -> None:
    page = captions_section(Captions(words=Counter({2: 10, 8: 50, 30: 39, 90: 1})))
    assert "Half of the captions have 8 words or fewer; 5 % have at most 2, 5 % more than 30." in page


def test_usable_texts_are_told_as_shares() -> None:
    page = captions_section(Captions(words=Counter({2: 1}), usable=Counter(both=50, description=30, title=20)))
    assert "80.0 % of the samples have a description and 70.0 % a title" in page
    assert "neither <b>" not in page


def test_the_other_languages_have_a_scale_of_their_own() -> None:
    page = captions_section(Captions(languages=Counter({"en": 900, "de": 40, "fr": 20, "xx": 10, "und": 30})))
    assert "90.0 % of the captions are in English, 3.0 % are too short or too odd to tell." in page
    assert "other languages <b>7.0 %</b>" in page
    assert "<th scope=row>xx</th><td>10</td>" in page
    assert 'style="width:50.00%"' in page  # French beside German
    assert "on 1,000 captions" in page


def test_captions_in_no_known_language_have_a_panel_too() -> None:
    assert "No language could be told." in captions_section(Captions(languages=Counter({"und": 3})))


def test_comparisons_show_all_their_numbers() -> None:
    found = Comparison(
        name="OpenAI's list",
        here=900,
        there=1000,
        both=600,
        only_here=300,
        only_there=400,
        precision=0.6667,
        recall=0.6,
        jaccard=0.4615,
        lost={"not_english": 300, "few_words": 100, "video": 0},
    )
    page = comparisons_section([found])
    for said in (
        "66.7 % of the photographs here",
        "60.0 % of those there",
        "46.2 % are on both",
        "0.6667",
        "0.6000",
        "0.4615",
    ):
        assert said in page
    assert page.index("Not in English") < page.index("Few words")
    assert page.count("panel wide") == 1
    assert comparisons_section([found, found]).count("panel wide") == 0
