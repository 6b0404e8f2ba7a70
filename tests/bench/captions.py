"""How well the caption rules and the English rule judge real captions, and what they cost.

Comes in: rows of YFCC100M (v2, 25 columns), labels for them (columns line, photoid, title_label, desc_label, ...; E
English, N another language, P names only or undecidable, M two languages, X junk, - empty), and texts with their
language (`language<TAB>text`). Goes out: a table for RESULTS.md, each share with its 95 % interval (Wilson).

    python tests/bench/captions.py --labels labels.tsv --rows rows_v2.tsv --languages captions_by_language.tsv

Only E counts as English: a text in two languages, a list of names and an empty description that pass are errors. Since
the labeller could not decide about P and M, precision is also given without them. Every share is given for all texts
and for both halves of a split by the text's hash, so that a rule tuned on one half shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pipeline.captions import language
from pipeline.captions.captions import caption_fault, clean_caption, clean_text
from pipeline.captions.english import english_fault
from pipeline.captions.vocabulary import english_likelihood

TITLE, DESCRIPTION, NUM_COLUMNS = 8, 9, 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A cleaned text and what a person, or its source, says it is."""

    label: str
    text: str

    @property
    def half(self) -> int:
        """0 or 1, by the text alone."""
        return hashlib.sha1(self.text.encode()).digest()[0] & 1

    @property
    def num_words(self) -> int:
        """White-space separated pieces with a letter in them."""
        return sum(any(character.isalpha() for character in piece) for piece in self.text.split())


def wilson(hits: int, total: int) -> str:
    """A share with its 95 % interval: 9 of 10 -> "9/10 = 90.0 % (59.6-98.2)"."""
    if total == 0:
        return "0/0"
    z, share = 1.96, hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return f"{hits}/{total} = {100 * share:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def read_labelled(labels: Path, rows: Path) -> tuple[list[Labelled], list[Labelled]]:
    """Titles and descriptions with their labels; lines of both files are matched by photo id."""
    fields = {}
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = line.split("\t")
        if len(row) == NUM_COLUMNS:
            fields[row[1]] = (clean_caption(row[TITLE]), clean_caption(row[DESCRIPTION]))
    titles, descriptions = [], []
    for line in labels.read_text(encoding="utf-8").splitlines()[1:]:
        _, photo_id, title_label, description_label, *_ = line.split("\t")
        title, description = fields[photo_id]
        titles.append(Labelled(label=title_label, text=title))
        descriptions.append(Labelled(label=description_label, text=description))
    return titles, descriptions


def read_languages(path: Path) -> list[Labelled]:
    """Texts with the code of their language."""
    lines = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return [Labelled(label=code, text=clean_text(text)) for code, text in lines]


def share(texts: Sequence[Labelled], is_hit: Callable[[Labelled], bool]) -> list[str]:
    """How many texts are hits: all, first half, second half."""
    halves = [list(texts), *([text for text in texts if text.half == half] for half in (0, 1))]
    return [wilson(sum(map(is_hit, part)), len(part)) for part in halves]


def is_english(text: Labelled) -> bool:
    return english_fault(text.text) is None


def judge_descriptions(descriptions: list[Labelled]) -> list[tuple[str, list[str]]]:
    """Precision, strict and without the undecided, and recall."""
    passed = [text for text in descriptions if is_english(text)]
    decided = [text for text in passed if text.label not in {"P", "M"}]
    english = [text for text in descriptions if text.label == "E"]
    return [
        ("descriptions that pass: English (precision)", share(passed, lambda text: text.label == "E")),
        ("the same, P and M left out", share(decided, lambda text: text.label == "E")),
        ("English descriptions: pass (recall)", share(english, is_english)),
    ]


def judge_languages(texts: list[Labelled]) -> list[tuple[str, list[str]]]:
    """Other languages taken for English, and English that is found, for longer and shorter texts."""
    lines = []
    for name, of_length in (
        ("four or more words", [text for text in texts if text.num_words >= 4]),
        ("two or three words", [text for text in texts if text.num_words in {2, 3}]),
    ):
        others = [text for text in of_length if text.label != "en"]
        lines.append((f"other languages, {name}: pass", share(others, is_english)))
        lines.append((f"English, {name}: pass", share([t for t in of_length if t.label == "en"], is_english)))
    return lines


def judge_titles(titles: list[Labelled]) -> list[tuple[str, list[str]]]:
    """Junk titles caught and English ones lost by the caption rules alone."""

    def is_rejected(text: Labelled) -> bool:
        return caption_fault(text.text) is not None

    return [
        ("file-name titles: caught", share([text for text in titles if text.label == "X"], is_rejected)),
        ("English titles: lost", share([text for text in titles if text.label == "E"], is_rejected)),
    ]


def worst_languages(texts: list[Labelled], most: int = 8) -> str:
    """The languages with the largest share of texts of four or more words taken for English."""
    longer = [text for text in texts if text.num_words >= 4 and text.label != "en"]
    total = Counter(text.label for text in longer)
    taken = Counter(text.label for text in longer if is_english(text))
    worst = sorted(taken, key=lambda code: -taken[code] / total[code])[:most]
    return ", ".join(f"{code} {taken[code]}/{total[code]}" for code in worst) or "none"


def _cost_us(judge: Callable[[str], object], texts: Sequence[str], rounds: int) -> float:
    """CPU-microseconds a text, the best of five measurements (the machine may be shared)."""
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        for _ in range(rounds):
            for text in texts:
                judge(text)
        best = min(best, time.process_time() - start)
    return best / rounds / len(texts) * 1e6


def print_costs(descriptions: list[Labelled]) -> None:
    """What the non-empty descriptions cost, beside the first detector alone, and how many need the second."""
    texts = [text.text for text in descriptions if text.text]
    lowered = [text[: language.MAX_JUDGED_CHARS].lower() + "\n" for text in texts]
    predict = language._load_predict()
    with mock.patch.object(language, "english_likelihood", wraps=english_likelihood) as second:
        for text in texts:
            english_fault(text)
    alone = _cost_us(lambda line: predict(line, 1, 0.0, "strict"), lowered, rounds=20)
    rules = _cost_us(caption_fault, texts, rounds=20)
    whole = _cost_us(english_fault, texts, rounds=20)
    length = sum(map(len, texts)) / len(texts)
    print(f"\n{len(texts)} non-empty descriptions of {length:.0f} characters on average, CPU time a text:")
    print(f"english_fault {whole:.1f} us, of which caption_fault {rules:.1f} us; fastText alone {alone:.1f} us;")
    print(f"ratio {whole / alone:.2f}")
    print(f"asked of the second judge: {wilson(second.call_count, len(texts))}")


def show_confusions(descriptions: list[Labelled], texts: list[Labelled], titles: list[Labelled]) -> None:
    """Every text judged otherwise than labelled."""
    for text in descriptions:
        if is_english(text) != (text.label == "E"):
            print(f"description {text.label}, {english_fault(text.text) or 'passes'}: {text.text[:100]!r}")
    for text in titles:
        if text.label in {"E", "X"} and (caption_fault(text.text) is None) != (text.label == "E"):
            print(f"title {text.label}, {caption_fault(text.text) or 'passes'}: {text.text[:100]!r}")
    for text in texts:
        if text.num_words >= 4 and is_english(text) != (text.label == "en"):
            probability = language.english_probability(text.text)
            print(f"{text.label}, {english_fault(text.text) or 'passes'} ({probability:.2f}): {text.text[:100]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--languages", required=True, type=Path)
    parser.add_argument("--show", action="store_true", help="print every text judged otherwise than labelled")
    args = parser.parse_args()
    titles, descriptions = read_labelled(args.labels, args.rows)
    texts = read_languages(args.languages)
    print("| | all | first half | second half |\n|---|---|---|---|")
    for name, cells in [*judge_descriptions(descriptions), *judge_languages(texts), *judge_titles(titles)]:
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nWorst of {len({text.label for text in texts})} languages, four or more words: {worst_languages(texts)}")
    print_costs(descriptions)
    if args.show:
        show_confusions(descriptions, texts, titles)


if __name__ == "__main__":
    main()
