"""`slip compare`: one page that needs nothing, shows every run's numbers, and warns where they are not comparable."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from slip.config import TrainConfig
from slip.evaluate.score import Score
from slip.pages.comparable import Compared, labels, warnings
from slip.pages.compare import chart_names, render, series
from slip.pages.compare_command import main
from slip.pages.run_data import DataFacts
from slip.pages.run_files import Run, read_run
from slip.recipes import recipe
from tests.unit.slip.pages.conftest import MakeRun, demo_records, evaluation, score


class Page(HTMLParser):
    """Tables as rows of (text, class) cells, and every attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, str]]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts = 0
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.scripts += tag == "script"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._in_cell = True
            self.tables[-1][-1].append(("", dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            text, kind = self.tables[-1][-1].pop()
            self.tables[-1][-1].append((" ".join(f"{text} {data}".split()), kind))

    def row(self, start: str) -> list[tuple[str, str]]:
        return next(row[1:] for table in self.tables for row in table if row[0][0].startswith(start))


def compared(run: Run, label: str, digest: str | None = "ab" * 32) -> Compared:
    source = "the manifest as it is now" if digest else "nobody knows"
    return Compared(label=label, run=run, data=DataFacts(urls=("m",), names=("tiny",), digest=digest, source=source))


def scored(make_run: MakeRun, name: str, *scores: Score, config: TrainConfig | None = None, step: int = 120) -> Run:
    return read_run(make_run(name, config, evaluations={"e.json": evaluation(scores, step=step)}))


def test_the_page_is_written_and_needs_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    began = recipe("demo")
    urls = [make_run("a"), make_run(f"b {hostile.replace('/', '')}", dataclasses.replace(began, wandb=hostile))]
    output = tmp_path / "page.html"
    assert main([*urls, "--output", str(output)]) == 0
    text = output.read_text()
    page = Page(text)
    assert hostile not in text
    assert page.scripts == 1
    assert not [one for one in page.attributes if one[1] in ("src", "href", "action", "data", "onload")]
    assert set(re.findall(r"https?://[^\s\"'<)]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = (value for tag, name, value in page.attributes if name == "content" and "'none'" in value)
    script = re.findall(r"<script>(.*?)</script>", text, re.S)[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_a_label_is_no_markup(make_run: MakeRun) -> None:
    text = render([compared(read_run(make_run()), "<i>x")], "steps")
    assert "<i>" not in text
    assert "<title>&lt;i&gt;x</title>" in text


def test_curves_of_all_runs_go_along_what_was_asked_for(make_run: MakeRun) -> None:
    began = recipe("demo")
    small = dataclasses.replace(began, optim=dataclasses.replace(began.optim, global_batch=32))
    runs = [
        compared(read_run(make_run("a")), "a"),
        compared(read_run(make_run("b", small, demo_records(5, every=4, per_epoch=40.0))), "b"),
    ]
    expected = {
        "steps": ([10.0 * i for i in range(1, 13)], [4.0 * i for i in range(1, 6)]),
        "samples": ([640.0 * i for i in range(1, 13)], [128.0 * i for i in range(1, 6)]),
        "epochs": ([0.5 * i for i in range(1, 13)], [0.1 * i for i in range(1, 6)]),
        "hours": ([2.0 * (i - 1) / 3600 for i in range(1, 13)], [2.0 * (i - 1) / 3600 for i in range(1, 6)]),
    }
    for over, (first, second) in expected.items():
        found = series(runs, "loss", over)  # type: ignore[arg-type]
        assert [x for x, _ in found[0].points] == pytest.approx(first)
        assert [x for x, _ in found[1].points] == pytest.approx(second)
        assert [y for _, y in found[1].points] == [9.0 / i for i in range(1, 6)]


def test_counts_have_a_curve_only_where_something_was_counted(make_run: MakeRun) -> None:
    run = read_run(make_run())
    names = chart_names([run])
    assert names[:5] == ["loss", "loss/clip", "loss/simclr", "zeroshot/top1", "zeroshot/top5"]
    assert not {"skipped", "epoch", "time/unix_s"} & set(names)
    records = demo_records()
    records[5]["skipped"] = 1
    assert "skipped" in chart_names([run, read_run(make_run("b", records=records))])


def test_the_axis_is_samples_where_batches_differ(make_run: MakeRun, tmp_path: Path) -> None:
    began = recipe("demo")
    small = dataclasses.replace(began, optim=dataclasses.replace(began.optim, global_batch=32))
    output = tmp_path / "page.html"

    def heading(*urls: str) -> str:
        assert main([*urls, "--output", str(output)]) == 0
        return str(re.findall(r"Curves over (\w+)", output.read_text())[0])

    one, other, third = make_run("a"), make_run("b", small), make_run("c")
    assert (heading(one, other), heading(one, third), heading(one)) == ("samples", "steps", "steps")


def test_the_best_of_each_evaluation_is_marked(make_run: MakeRun) -> None:
    first = scored(make_run, "a", score(0.4), score(0.7, protocol="knn", partial="half"), score(0.3, name="dtd"))
    second = scored(make_run, "b", score(0.5), score(0.6, protocol="knn"), score(0.3, name="dtd"))
    third = scored(make_run, "c", score(0.45), score(0.7, protocol="knn"))
    runs = [compared(run, name) for run, name in zip((first, second, third), "abc", strict=True)]
    page = Page(render(runs, "steps"))
    by_protocol = {row[0][0]: [(t.split()[0], k) for t, k in row[1:]] for table in page.tables for row in table}
    assert by_protocol["cifar10 zero-shot, accuracy"] == [("40.00", ""), ("50.00", "best"), ("45.00", "")]
    # What was measured on a part of a set is not the best of it.
    assert by_protocol["cifar10 kNN, accuracy"] == [("70.00", ""), ("60.00", ""), ("70.00", "best")]
    # Equal ones have no best, nor has what only one run was asked.
    assert by_protocol["dtd zero-shot, accuracy"] == [("30.00", ""), ("30.00", ""), ("-", "")]
    assert by_protocol["in training zero-shot, accuracy, best"] == [("50.00", "")] * 3


def test_settings_and_times_have_a_column_for_each_run(make_run: MakeRun) -> None:
    other = dataclasses.replace(recipe("demo"), seed=9)
    runs = [compared(read_run(make_run("a")), "a"), compared(read_run(make_run("b", other)), "b")]
    page = Page(render(runs, "steps"))
    assert [text for text, _ in page.row("seed")] == ["0", "9"]
    assert [text for text, _ in page.row("wall time")] == ["0:00:22", "0:00:22"]
    # 11 intervals of 2 s hold 10 steps of 0.1 s each, 0.01 s of them waiting: 9.9 of 22 s.
    assert [text for text, _ in page.row("goodput")] == ["45.0%", "45.0%"]
    assert [text for text, _ in page.row("samples a second")] == ["640", "640"]
    with pytest.raises(StopIteration):
        page.row("optim.lr")


def test_equal_runs_are_not_warned_of(make_run: MakeRun) -> None:
    runs = [compared(scored(make_run, name, score()), name) for name in "ab"]
    assert warnings(runs) == []


def test_what_makes_runs_incomparable_is_said(make_run: MakeRun) -> None:
    began = recipe("demo")
    objective = dataclasses.replace(began.objective, name="clip", gather="paper")
    config = dataclasses.replace(
        began,
        objective=objective,
        optim=dataclasses.replace(began.optim, global_batch=32),
        eval=dataclasses.replace(began.eval, zeroshot="other"),
    )
    one = compared(scored(make_run, "a", score()), "a")
    other = compared(scored(make_run, "b", score(pictures=50), config=config), "b", digest="cd" * 32)
    unknown = compared(scored(make_run, "c", score()), "c", digest=None)
    found = warnings([one, other, unknown])
    starts = (
        *(
            "Other data: tiny abababababab (a), tiny cdcdcdcdcdcd (b)",
            "Whether c saw the data of the others is not known: nobody knows.",
        ),
        *("Other global batch: 64 (a, c), 32 (b)", "Other objectives: slip+simclr (a, c), clip (b)"),
        *("Other gathering of embeddings: exact (a, c), paper (b)", "Zero-shot in training was on other sets"),
        *("The runs have seen different numbers of samples: a 7,680, b 3,840, c 7,680", "cifar10, zero-shot: measured"),
    )
    assert len(found) == len(starts)
    for warning, start in zip(found, starts, strict=True):
        assert warning.startswith(start)


def test_a_protocol_of_several_metrics_is_warned_of_once(make_run: MakeRun) -> None:
    runs = []
    for name, pictures in (("a", 500), ("b", 300)):
        recalls = [
            score(name="said", protocol="retrieval", metric=f"R@{first}", pictures=pictures) for first in (1, 5, 10)
        ]
        runs.append(compared(scored(make_run, name, *recalls), name))
    assert warnings(runs) == ["said, retrieval: measured on different numbers of pictures (500 in a, 300 in b)."]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["a/x", "a/y/"], ["x", "y"]),
        (["a/x/1", "a/y/1"], ["x/1", "y/1"]),
        (["s3://b/runs/1"], ["1"]),
        (["s3://b/1", "s3://c/1", "2"], ["b/1", "c/1", "2"]),
    ],
)
def test_labels_are_short_and_tell_apart(urls: list[str], expected: list[str]) -> None:
    assert labels(urls) == expected


def test_a_torn_run_that_goes_on_is_shown_with_a_note(make_run: MakeRun, tmp_path: Path) -> None:
    url = make_run()
    with Path(url, "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 130, "lo')
    output = tmp_path / "page.html"
    assert main([url, make_run("fresh", records=[]), "--output", str(output)]) == 0
    assert "the last line (14) is torn" in output.read_text()
    assert "no records yet" in output.read_text()


def test_a_page_of_many_records_stays_small(make_run: MakeRun) -> None:
    run = read_run(make_run(records=demo_records(5_000)))
    assert len(render([compared(run, "a")], "steps")) < 700_000


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "no run to show"),
        (["x", "x/"], 2, "a run is named twice"),
        (["/nowhere"], 1, "/nowhere: no run"),
    ],
)
def test_bad_input_is_one_line(words: list[str], status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_neither_verb_imports_torch() -> None:
    code = "import sys; import slip.pages.card_command, slip.pages.compare_command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
