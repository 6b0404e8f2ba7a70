from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis.strategies import dictionaries, integers, sampled_from

from pipeline.manifest import Manifest, Shard
from pipeline.report_charts import bins, format_bytes, quantile, year_groups
from pipeline.report_page import Example, Facts, render

EVIL = '<script>alert("x")</script>&amp;'
VOID = {"meta", "img", "line", "rect", "br"}


class Checker(HTMLParser):
    """Checks that tags are closed in order and collects what the page would load or link."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.loaded += [value for name, value in attrs if name in {"src", "data", "srcset"} and value]
        if tag == "a":
            self.links.append(values["href"] or "")
        elif "href" in values:
            self.loaded.append(values["href"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def facts(num_samples: int = 90) -> Facts:
    shard = Shard(
        name="00000.tar", num_samples=num_samples, num_bytes=10**6, sha256="0" * 64, index="i", index_sha256=""
    )
    rejected = {"not_in_list": 1234, "dead_link": 10}
    manifest = Manifest(
        name=f"set {EVIL}",
        variant="openai",
        num_samples=num_samples,
        num_bytes=10**6,
        funnel={"rows": num_samples + 1244, "kept": num_samples, "rejected": rejected},
        settings={},
        shards=(shard,) if num_samples else (),
    )
    example = Example(
        key="1",
        thumbnail="data:image/jpeg;base64,AAAA",
        caption=EVIL,
        size="3 × 4",
        user=EVIL,
        page_url="javascript:alert(1)",
        license=EVIL,
        license_url='https://example.org/"><script>',
    )
    counts = Counter({10: num_samples}) if num_samples else Counter()
    years = Counter({"2009": num_samples, "": 2})
    return Facts(
        manifest=manifest,
        base_url="/home/somebody/data/out",
        caption_bytes=counts,
        shorter_side=counts,
        licenses=Counter({(EVIL, "https://example.org/by"): num_samples}),
        years=years,
        fetched_by_year=years,
        rejected_by_year=Counter({"2009": 9}),
        examples=[example] * 3,
    )


def test_the_page_is_whole_escaped_and_loads_nothing() -> None:
    page = render(facts())
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.tags["script"] == 0
    assert all(url.startswith("data:") for url in checker.loaded)
    assert all(url.startswith("https://") for url in checker.links)
    assert "url(" not in page
    assert "@import" not in page
    assert EVIL in checker.text
    for number in ("1,334", "1,234", "90", "10"):
        assert number in checker.text
    assert facts().manifest.sha256 in checker.text
    assert "/home/somebody" not in page
    assert page == render(facts())


def test_the_embedded_sample_is_called_what_it_is() -> None:
    real = facts()
    sample = replace(real, manifest=replace(real.manifest, variant="sample"))
    assert "Generated pictures" in render(sample)
    assert "Generated pictures" not in render(real)


def test_an_empty_data_set_has_a_page_too() -> None:
    assert "no samples" in render(facts(0))


@given(dictionaries(integers(0, 100_000), integers(1, 50), max_size=40))
def test_bins_hold_every_sample(counts: dict[int, int]) -> None:
    made = bins(Counter(counts))
    assert sum(count for _, count in made) == sum(counts.values())
    assert len({label for label, _ in made}) == len(made) <= 27


@given(dictionaries(integers(0, 100), integers(1, 9), min_size=1, max_size=20), sampled_from([0.05, 0.5, 0.95, 0.99]))
def test_quantile_is_that_of_the_sorted_values(counts: dict[int, int], share: float) -> None:
    values = sorted(Counter(counts).elements())
    slow = next(v for i, v in enumerate(values) if (i + 1) >= share * len(values))
    assert quantile(Counter(counts), share) == slow


def test_mis_set_cameras_do_not_stretch_the_years() -> None:
    counts = Counter({"1904": 1, "2080": 1, "": 5} | {str(year): 5000 for year in range(2005, 2015)})
    groups = year_groups(counts)
    assert groups["1904"] == "before 1999"
    assert groups["2080"] == "after 2014"
    assert groups[""] == "unknown"
    assert groups["2010"] == "2010"


def test_sizes_are_readable() -> None:
    assert [format_bytes(n) for n in (0, 999, 1234567, 68_341_760)] == ["0 bytes", "999 bytes", "1.2 MB", "68.3 MB"]
    assert re.fullmatch(r"\d+\.\d TB", format_bytes(3 * 10**12))
