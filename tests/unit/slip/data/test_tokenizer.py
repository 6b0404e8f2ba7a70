from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from slip.data import tokenizer as module
from slip.data.tokenizer import END_TOKEN, START_TOKEN, Tokenizer, cut_to_longest
from slip.torchvision_compat import import_torchvision

import_torchvision()
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402

REFERENCE = SimpleTokenizer()
FAST = Tokenizer(77)

CAPTIONS = [
    "",
    "   ",
    "A boat on the lake",
    "it's they'll WE'RE I'd o'clock 'S",
    "IMG_1234.JPG 2016-07-16 #sunset @home 50% off!!! ... :-)",
    "caf&eacute; &amp;amp; bar &lt;b&gt; &amp;amp;amp;lt; &#39;quoted&#39; AT&T &copy",
    "line one\nline two\r\n\ttabbed\x0bvertical\x1cseparator\x00null",
    "Ã©tÃ© Ã  la plage (mojibake)",
    "“curly” ‘quotes’ – dashes — … ﬁne ligature",
    "Straße İstanbul ΣΊΣΥΦΟΣ Ångström naïve",
    "東京タワー Москва القاهرة กรุงเทพ हिन्दी",
    "emoji 😀👍🏽 ❤️ 🇩🇪 family 👨‍👩‍👧 new 🫨",
    "start <start_of_text> middle <end_of_text> end <END_OF_TEXT>",
    "½ ² ① Ⅷ ７ ٣",
    "\x1b[36mblue\x1b[0m \ufeffbom \u200bzero\u00a0nbsp\u3000wide",
    "word " * 200,
    "supercalifragilisticexpialidocious" * 10,
    "日本" * 100,
]


@pytest.mark.parametrize("length", [8, 77])
def test_ids_are_open_clips(length: int) -> None:
    found = Tokenizer(length)(CAPTIONS)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, REFERENCE(CAPTIONS, context_length=length).numpy())


@given(text=st.text(st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=400, deadline=None)
def test_ascii_ids_are_open_clips(text: str) -> None:
    np.testing.assert_array_equal(FAST([text]), REFERENCE([text]).numpy())


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=400, deadline=None)
def test_unicode_ids_are_open_clips(text: str) -> None:
    np.testing.assert_array_equal(FAST([text]), REFERENCE([text]).numpy())


def test_without_the_fast_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FAST(CAPTIONS)
    monkeypatch.setattr(module, "instant_clip_tokenizer", None)
    np.testing.assert_array_equal(Tokenizer(77)(CAPTIONS), expected)


def test_a_caption_that_is_cut_keeps_its_end_token() -> None:
    (row,) = Tokenizer(5)(["one two three four five six"])
    assert row[0] == START_TOKEN
    assert row[-1] == END_TOKEN
    assert (row[1:-1] < START_TOKEN).all()


def test_cut_to_longest() -> None:
    tokens = FAST(["a boat", "a boat on the lake", ""])
    cut = cut_to_longest(tokens)
    assert cut.shape == (3, 7)
    np.testing.assert_array_equal(cut, tokens[:, :7])
    assert not tokens[:, 7:].any()
    full = FAST(["word " * 100])
    np.testing.assert_array_equal(cut_to_longest(full), full)


def test_context_length_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"--model\.context-length is 2"):
        Tokenizer(2)
