"""The page of an evaluation: read by a parser, against the matrices it was made from."""

from __future__ import annotations

from html.parser import HTMLParser

from slip.evaluate.page import MOST_BARS, MOST_PAIRS, most_confused, page, per_class
from tests.evaluation_outcomes import LOST, PETS, SUBJECT, outcome, score


class Cells(HTMLParser):
    """Every tag opened, with its attributes, and the texts of table cells row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "i"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "i":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data


MATRIX = ((5, 3, 0), (0, 2, 0), (1, 0, 1))
NAMES = ("<cat> & co", "dog", "boat")
SEEN = score(
    "pets", value=2 / 3, pictures=12, classes=3, confusion=MATRIX, classnames=NAMES, counts={"top1": 8, "top5": 12}
)


def test_classes_and_confusions_are_those_of_the_matrix() -> None:
    assert per_class(SEEN) == [("boat", 2, 1), ("<cat> & co", 8, 5), ("dog", 2, 2)]
    assert most_confused(SEEN) == [("<cat> & co", "dog", 3, 8), ("boat", "<cat> & co", 1, 2)]
    # A class without pictures has no accuracy.
    empty = score("x", classes=3, confusion=((1, 0, 0), (0, 0, 0), (0, 1, 0)), classnames=())
    assert per_class(empty) == [("2", 1, 0), ("0", 1, 1)]


def test_a_page_for_few_classes_shows_the_matrix() -> None:
    text = page(SUBJECT, [outcome("pets", SEEN), LOST])
    found = Cells(text)
    assert found.open == ["html"] or found.open == []
    rows = found.rows
    assert ["<cat> & co", "5", "3", ""] in rows
    assert ["boat", "1", "", "1"] in rows
    assert ["boat", "2", "1", "50.00", ""] in rows
    assert [row[:4] for row in rows if row[0] == "pets"] == [["pets", "zeroshot", "accuracy", "66.67"]]
    assert "not found: sun397: not in the catalogue" in text
    assert ["SLIP vitb16, YFCC15M, 50 epochs", "44.1", "73.0", "82.9"] in rows
    # Nothing from elsewhere, and nothing that runs.
    assert not [tag for tag, _ in found.tags if tag in ("script", "img", "link", "iframe")]
    assert not [attrs for _, attrs in found.tags if any(name in attrs for name in ("src", "href"))]
    assert "<cat>" not in text


def test_a_column_without_a_number_is_left_out() -> None:
    heads = ["set", "protocol", "metric", "value %", "95 % interval", "guessing %"]
    rows = Cells(page(SUBJECT, [PETS])).rows
    assert rows[0] == [*heads, "pictures", "classes", ""]
    imagenet = outcome("imagenet", score("imagenet"))
    rows = Cells(page(SUBJECT, [PETS, imagenet])).rows
    assert rows[0] == [*heads, "published %", "pictures", "classes", ""]
    assert [len(row) for row in rows[:3]] == [len(rows[0])] * 3


def test_a_page_for_many_classes_shows_the_most_frequent_pairs() -> None:
    count = 60
    matrix = [[0] * count for _ in range(count)]
    for true in range(count):
        matrix[true][true] = 100 - true
        matrix[true][(true + 1) % count] = true
    many = score(
        *("cars", "knn"), pictures=6000, classes=count, confusion=tuple(map(tuple, matrix)), classnames=(), counts={}
    )
    rows = Cells(page(SUBJECT, [outcome("cars", many, asked="knn")])).rows
    head = rows.index(["class", "taken for", "pictures", "of the class %", ""])
    assert rows[head + 1] == ["59", "0", "59", "59.00", ""]
    assert [row[0] for row in rows[head + 1 : head + 1 + MOST_PAIRS]] == [str(59 - i) for i in range(MOST_PAIRS)]
    worst = rows.index(["class", "pictures", "right", "right %", ""])
    assert [row[0] for row in rows[worst + 1 : worst + 1 + MOST_BARS]] == [str(59 - i) for i in range(MOST_BARS)]
    # The rest of them is folded away, but there.
    assert len([row for row in rows if row[:2] == ["0", "100"]]) == 1


def test_what_is_still_to_come_is_said() -> None:
    text = page(SUBJECT, [PETS], [("linear", "food101", "food101")])
    assert "Partial: still to come are food101 (linear)." in text
    assert "Partial" not in page(SUBJECT, [PETS])
    assert "No set has been evaluated." in page(SUBJECT, [LOST])
