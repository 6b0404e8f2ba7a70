"""The catalogue: what a name opens, which form is found, and what is said when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import store
from pipeline.errors import InputError, StoreError
from slip.evaluate import catalogue as module
from slip.evaluate.catalogue import Catalogue, load_catalogue, metric_of, open_set, suite
from slip.evaluate.published_prompts import PAPER, published_prompts
from tests.tiny_data import write_labelled

DIGITS = [str(digit) for digit in range(10)]
NONE = Catalogue(url="datasets.toml", entries={})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLIP_CATALOGUE", raising=False)
    return tmp_path


def write_folders(root: Path, classes: list[str], split: str = "test") -> str:
    for name in classes:
        (root / split / name).mkdir(parents=True)
        (root / split / name / "1.jpg").write_bytes(name.encode())
    return str(root)


def written(text: str, path: str = "datasets.toml") -> Catalogue:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)
    return load_catalogue(path)


def test_a_name_opens_what_the_catalogue_says(here: Path) -> None:
    write_folders(here / "sets/numbers", DIGITS, split="dev")
    found = open_set("mnist", written('[mnist]\nurl = "numbers"\ntest = "dev"\n', "sets/list.toml"))
    published = published_prompts("mnist")
    assert published is not None
    assert (found.name, found.url, found.metric) == ("mnist", "sets/numbers", "accuracy")
    assert (found.classnames, found.templates) == (published.classnames, published.templates)
    assert [(picture.image, picture.label) for _, picture in found.splits["test"].share(0, 1)][9] == (b"9", 9)


def test_the_catalogue_overrides_names_prompts_and_metric(here: Path) -> None:
    write_folders(here / "x", ["a", "b"])
    text = '[pets]\nurl = "x"\nclassnames = ["cat", ["dog", "hound"]]\ntemplates = ["{c}?"]\nmetric = "roc auc"\n'
    found = open_set("pets", written(text))
    assert (found.classnames, found.templates, found.metric) == ((("cat",), ("dog", "hound")), ("{c}?",), "roc auc")


def test_a_set_may_be_evaluated_like_a_published_one(here: Path) -> None:
    write_folders(here / "x", DIGITS)
    write_folders(here / "y", DIGITS[:2])
    catalogue = written('[mine]\nurl = "x"\nprompts = "mnist"\n[theirs]\nurl = "y"\nprompts = "hateful_memes"\n')
    assert open_set("mine", catalogue).templates == ('a photo of the number: "{c}".',)
    assert open_set("theirs", catalogue).metric == metric_of("theirs", catalogue) == "roc auc"


def test_a_place_is_opened_by_itself(here: Path) -> None:
    folders = write_folders(here / "digits", DIGITS[:3])
    found = open_set(folders, NONE)
    assert (found.name, found.templates, found.metric) == ("digits", (), "accuracy")
    assert found.classnames == (("0",), ("1",), ("2",))
    assert len(open_set("digits", NONE).splits["test"]) == 3
    tars = write_labelled(here / "tars", [(b"x", 0), (b"y", 1)])
    assert len(open_set(tars, NONE).splits["test"]) == 2
    for path in Path(tars).rglob("*.*"):
        store.write_bytes(f"memory://catalogued/{path.relative_to(tars)}", path.read_bytes())
    assert open_set("memory://catalogued", NONE).name == "catalogued"
    table = pa.table({"jpg": [b"1", b"2"], "label": ["a", "b"]})
    (here / "tables").mkdir()
    pq.write_table(table, here / "tables/test.parquet")
    for place in ("tables", "tables/test.parquet"):
        assert len(open_set(place, NONE).splits["test"]) == 2


@pytest.mark.parametrize("name", ["cifar10", "nosuchset"])
def test_a_set_that_is_not_in_the_catalogue_says_what_to_write_where(name: str, here: Path) -> None:
    write_folders(here / "cifar10", DIGITS)  # a known name is not taken for a folder
    with pytest.raises(InputError, match=rf'{name}: not in the catalogue datasets\.toml; .*\[{name}\] .*url = "'):
        open_set(name, NONE)


def test_a_place_with_nothing_says_what_was_looked_for(here: Path) -> None:
    with pytest.raises(InputError, match="gone/: nothing there"):
        open_set("gone/", NONE)
    write_folders(here / "set", ["a", "b"], split="fit")
    with pytest.raises(InputError, match=r"set: not a labelled set: looked for folders test or val .*; found fit"):
        open_set("set", NONE)
    with pytest.raises((InputError, StoreError), match="memory://gone"):
        open_set("memory://gone", NONE)


def test_the_file_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_catalogue() == NONE
    written('[a]\nurl = "/a"')
    assert load_catalogue().entries["a"].url == "/a"
    written('[b]\nurl = "/b"', "other.toml")
    monkeypatch.setenv("SLIP_CATALOGUE", "other.toml")
    assert list(load_catalogue().entries) == ["b"]
    assert list(load_catalogue("datasets.toml").entries) == ["a"]
    with pytest.raises(StoreError, match="gone"):
        load_catalogue("gone.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", "datasets.toml: not a catalogue in TOML"),
        ("a = 1", r"\[a\] has no url"),
        ("[a]\nform = 'tars'", r"\[a\] has no url"),
        ("[a]\nurl = 3", "url is 3, expected a text"),
        ("[a]\nurl = 'x'\nsplit = 'val'", r"\[a\] has 'split', expected one of url, form, train, test"),
        ("[a]\nurl = 'x'\nform = 'zip'", "form is 'zip', expected one of folders, tars, parquet, torchvision"),
        ("[a]\nurl = 'x'\nmetric = 'f1'", "metric is 'f1', expected one of accuracy, mean per class"),
        ("[a]\nurl = 'x'\nprompts = 'cats'", "prompts is 'cats', expected one of food101"),
        ("[a]\nurl = 'x'\nclassnames = ['one']", "classnames: expected a list of at least 2 names"),
        ("[a]\nurl = 'x'\nclassnames = ['one', 2]", "classnames: expected a list of at least 2 names"),
        ("[a]\nurl = 'x'\nclassnames = 'one'", "classnames is 'one', expected a list"),
        ("[a]\nurl = 'x'\ntemplates = ['a photo of {}']", r"templates: expected a list of prompts, each with \{c\}"),
    ],
)
def test_a_malformed_catalogue_is_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        written(text)


def test_suites() -> None:
    assert suite("paper") == PAPER
    assert suite("imagenet") == ("imagenet",)
    assert suite("mine") == ("mine",)


def test_metrics_without_a_catalogue() -> None:
    assert [metric_of(name) for name in ("pets", "kinetics700_frames", "hateful_memes", "mnist", "mine")] == [
        *("mean per class", "top1 top5 mean", "roc auc", "accuracy", "accuracy")
    ]


def test_the_example_shows_every_set() -> None:
    text = (Path(module.__file__).parent / "datasets.example.toml").read_text()
    assert tomllib.loads(text) == {}
    lines = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"# (\[\w+\]$|\w+ = )", line)]
    found = written("\n".join(lines))
    assert [name for name in found.entries if name in PAPER] == list(PAPER)
    assert set(found.entries) - set(PAPER) == {"birdsnap", "my_boats", "flickr30k"}


def test_opening_needs_no_torch(here: Path) -> None:
    folders = write_folders(here / "digits", DIGITS)
    code = (
        "import sys; from slip.evaluate.catalogue import *\n"
        f"open_set({folders!r}, load_catalogue()); print('torch' in sys.modules)"
    )
    root = Path(module.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
