"""The English rule: what is wrong with a text, in the order in which it is looked at."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captions.captions import MAX_CAPTION_CHARS, RULES, Rule, caption_fault, clean_text
from pipeline.captions.english import english_fault


@pytest.mark.parametrize(
    "text",
    [
        "A dog on the beach",
        "wooden bridge",
        "It's raining!",
        "Our new kitchen, finally finished (2011)",
        "MY LITTLE SISTER AND HER BIRTHDAY CAKE",
        "Shot handheld at f/2.8 and 1/60s, ISO 800, because the museum was rather dark",
        "#sunset #beach #holiday with my best friends",
        "Market day in Ljubljana - so many tomatoes",
        "Old door with flowers. Alte Tür.",
        "We walked along the river and had lunch under the trees. " * 170,
        "great " * 100,
    ],
)
def test_english(text: str) -> None:
    assert english_fault(clean_text(text)) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("a boat " * 1500, "too_long"),
        ("...", "no_words"),
        ("12/05/2010", "no_words"),
        ("IMG_4711.JPG", "file_name"),
        ("_MG_0815", "file_name"),
        ("Untitled-3", "file_name"),
        ("OLYMPUS DIGITAL CAMERA", "camera_boilerplate"),
        ("f/8, 1/250 sec, ISO 100", "camera_boilerplate"),
        ("sunset", "few_words"),
        ("Lighthouse 7", "few_words"),
        ("merry-go-round", "few_words"),
        ("夕焼け", "few_words"),
        ("Das Boot liegt am Strand", "not_english"),
        ("Nos vacances en Bretagne, été 2009", "not_english"),
        ("Nuestra casa nueva", "not_english"),
        ("Наш новый дом", "not_english"),
        ("我們的 新房子", "not_english"),
        ("Mijn zusje met haar verjaardagstaart", "not_english"),
        ("Matkalla Helsingistä Turkuun", "not_english"),
        ("Maria Tina", "not_english"),
        ("Havana, Cuba", "not_english"),
        ("qwrtz mnbvc plfgh", "not_english"),
    ],
)
def test_fault(text: str, fault: str) -> None:
    assert english_fault(text) == fault


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_holds_here_too(rule: Rule) -> None:
    for text in rule.matches:
        assert english_fault(text) == rule.fault


@given(st.text(max_size=200).map(clean_text))
@settings(deadline=None)
def test_a_caption_fault_stays_one(text: str) -> None:
    fault = english_fault(text)
    if caption_fault(text) is not None:
        assert fault == caption_fault(text)
    else:
        assert fault in {None, "few_words", "not_english"}


def test_the_longest_text_allowed() -> None:
    text = ("we walked along the river " * 400)[:MAX_CAPTION_CHARS].strip()
    assert english_fault(text) is None
