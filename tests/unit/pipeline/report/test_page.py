from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.fetch.timing import Timing
from pipeline.manifest import Manifest, Shard
from pipeline.records import Reason
from pipeline.report.facts import Captions, Comparison, Duplicate, Example, Facts, Fetched, Pictures
from pipeline.report.page import manifest_mark, render

EVIL = '<script>alert("x")</script>&amp;\'" onload=x'
VOID = {"meta", "img", "line", "circle", "path", "br", "hr"}


class Checker(HTMLParser):
    """Checks that tags are closed in order and collects what the page would load or link."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.unlabelled: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.attributes.update(values.keys())
        self.loaded += [value for name, value in attrs if name in {"src", "data", "srcset"} and value]
        if "id" in values:
            self.anchors.add(values["id"] or "")
        if tag == "a":
            self.links.append(values["href"] or "")
        elif "href" in values:
            self.loaded.append(values["href"] or "")
        if (tag == "img" and not values.get("alt")) or (values.get("role") == "img" and not values.get("aria-label")):
            self.unlabelled.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.tags["script"] == 0
    assert not {name for name in checker.attributes if name.startswith("on")}
    assert all(url.startswith("data:") for url in checker.loaded)
    assert all(url.startswith("https://") or url.removeprefix("#") in checker.anchors for url in checker.links)
    assert checker.unlabelled == []
    assert "url(" not in page
    assert "@import" not in page
    return checker


def manifest(num_samples: int) -> Manifest:
    shard = Shard(
        name="00000.tar", num_samples=num_samples, num_bytes=10**6, sha256="0" * 64, index="i", index_sha256=""
    )
    rejected = {"not_in_list": 1234, "dead_link": 10, "duplicate_image": 17}
    return Manifest(
        name=f"set {EVIL}",
        variant="openai",
        num_samples=num_samples,
        num_bytes=10**6,
        funnel={"rows": num_samples + 1261, "kept": num_samples, "rejected": rejected},
        settings={"note": EVIL},
        shards=(shard,) if num_samples else (),
    )


def pictures(num_samples: int) -> Pictures:
    sides, sizes, years = (
        Counter({300: num_samples}),
        Counter({(400, 300): num_samples}),
        Counter({"2009": num_samples}),
    )
    return Pictures(
        shorter_side=sides,
        kilobytes=sides,
        size_classes=Counter({(69, 66): num_samples}),
        common_sizes=sizes,
        shapes=Counter(landscape=num_samples),
        aspects=Counter({133: num_samples}),
        years=years,
        licenses=Counter({(EVIL, "https://example.org/by"): num_samples, ("bad", "javascript:alert(1)"): 2}),
    )


def facts(num_samples: int = 90) -> Facts:
    example = Example(
        key=EVIL,
        thumbnail="data:image/jpeg;base64,AAAA",
        caption=EVIL,
        width=3,
        height=4,
        user=EVIL,
        page_url="javascript:alert(1)",
        license=EVIL,
        license_url='https://example.org/"><script>',
    )
    years = Counter({"2009": num_samples + 27, "": 2})
    fetched = Fetched(
        asked_by_year=years,
        gone_by_year=Counter({"2009": 9}),
        lost_by_year=Counter({"2009": 10}),
        asked_of=Counter({EVIL: num_samples + 27, "bucket": 20}),
        came_from=Counter({EVIL: num_samples}),
        refused_by=Counter({(EVIL, EVIL): 5}),
        duplicates=[Duplicate(key=EVIL, page_url="javascript:1", detail=EVIL)],
    )
    comparison = Comparison(
        name=EVIL,
        here=90,
        there=80,
        both=60,
        only_here=30,
        only_there=20,
        precision=0.6667,
        recall=0.75,
        jaccard=0.5455,
        lost={EVIL: 20},
    )
    return Facts(
        manifest=manifest(num_samples),
        base_url="/home/somebody/data/out",
        captions=Captions(
            words=Counter({10: num_samples}),
            usable=Counter(both=num_samples),
            languages=Counter({"en": 50, EVIL: 3, "und": 1}),
        ),
        pictures=pictures(num_samples),
        fetched=fetched,
        timings=[Timing(unit=0, ended_unix=10.0, seconds=5.0, rows=100, pictures=90, num_bytes=9000)],
        comparisons=[comparison],
        examples=[example] * 12,
    )


def test_the_page_is_whole_escaped_and_loads_nothing() -> None:
    page = render(facts())
    checker = check(page)
    assert EVIL in checker.text
    for number in ("1,351", "1,234", "90", "10", "17"):
        assert number in checker.text
    assert facts().manifest.sha256 in checker.text
    assert manifest_mark(facts().manifest) in page[:2048]
    assert "/home/somebody" not in page
    assert page == render(facts())


def test_every_section_is_there_and_linked() -> None:
    page = render(facts())
    for anchor in ("look", "funnel", "captions", "pictures", "downloads", "comparison", "licences", "samples", "use"):
        assert page.count(f"<section id={anchor} ") == 1
        assert page.count(f"href='#{anchor}'") == 1
    for title in (
        "Caption length",
        "Usable texts",
        "Languages",
        "Width and height",
        "Dead links by year taken",
        "Sources",
    ):
        assert f"<h3>{title}</h3>" in page
    assert "Download rate" in page


def test_what_is_not_known_is_left_out() -> None:
    page = render(replace(facts(), fetched=None, timings=(), comparisons=()))
    check(page)
    assert "The work folder of the build is gone" in page
    for title in ("Dead links by year taken", "<h3>Sources", "Download rate", "Compared with other lists"):
        assert title not in page


def test_missing_language_detection_says_what_to_install() -> None:
    captions = Captions(words=Counter({3: 1}), no_languages="needs <b>: pip install '.[build]'")
    checker = check(render(replace(facts(), captions=captions)))
    assert "needs <b>: pip install '.[build]'" in checker.text


@pytest.mark.parametrize("num_samples", [0, 1])
def test_a_tiny_data_set_has_a_page_too(num_samples: int) -> None:
    whole = facts(num_samples)
    page = render(replace(whole, examples=whole.examples[:num_samples], fetched=Fetched(), timings=()))
    check(page)
    assert ("There are no samples" in page) == (num_samples == 0)


def test_facts_of_nothing_are_shown() -> None:
    check(render(Facts(manifest=manifest(0), base_url="x", captions=Captions(), pictures=Pictures(), fetched=None)))


def test_the_embedded_sample_is_called_what_it_is() -> None:
    real = facts()
    sample = replace(real, manifest=replace(real.manifest, variant="sample"))
    assert "Generated pictures" in render(sample)
    assert "Generated pictures" not in render(real)


def test_every_picture_is_credited() -> None:
    example = replace(
        facts().examples[0],
        user="ann",
        page_url="https://flickr.example/1",
        license="Attribution License",
        license_url="https://cc.example/by",
    )
    page = render(replace(facts(), examples=[replace(example, key=str(i)) for i in range(48)]))
    assert page.count("<img ") == 48
    assert page.count('<a href="https://flickr.example/1" rel="noopener noreferrer">ann</a>') == 48
    assert page.count('href="https://cc.example/by"') == 48
    assert len(set(re.findall(r"alt=\"Sample (\d+),", page))) == 48


def test_the_funnel_shows_each_reason_with_its_number() -> None:
    rejected = {str(reason): 1000 + i for i, reason in enumerate(Reason)}
    rows = 90 + sum(rejected.values())
    whole = replace(manifest(90), funnel={"rows": rows, "kept": 90, "rejected": rejected})
    text = check(render(replace(facts(), manifest=whole))).text
    for count in rejected.values():
        assert f"{count:,}" in text
    assert f"{rows:,} rows of metadata" in text
    assert "Did not occur" not in text
