"""What inspecting says: sums, alignment, and a verdict that fits the measures."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from pipeline.manifest import Manifest, Shard
from slip.data.plan import Plan
from slip.data.sets import Mix
from slip.data.shuffle_quality import Measure, SetMeasures, ShuffleQuality, measure
from slip.inspect_report import report_data, report_text, run_facts, set_facts, verdict


def manifest(name: str, counts: tuple[int, ...], sample_bytes: int) -> Manifest:
    total = sum(counts)
    return Manifest(
        name=name,
        variant="local",
        num_samples=total,
        num_bytes=total * sample_bytes,
        funnel={"rows": 4 * total, "kept": total, "rejected": {"video": total, "dead_link": 2 * total}},
        settings={},
        shards=tuple(
            Shard(
                name=f"{i}.tar",
                num_samples=c,
                num_bytes=c * sample_bytes,
                sha256="",
                index=f"{i}.parquet",
                index_sha256="",
            )
            for i, c in enumerate(counts)
        ),
    )


def mix_of(*manifests: Manifest) -> Mix:
    share = Fraction(1, len(manifests))
    return Mix(
        urls=tuple(f"/{m.name}/manifest.json" for m in manifests),
        manifests=manifests,
        weights=(share,) * len(manifests),
    )


def same(value: float) -> Measure:
    return Measure(mean=value, lowest=value, highest=value, random=value)


def quality(**changes: Measure | tuple[SetMeasures, ...]) -> ShuffleQuality:
    """Measures of a perfectly random order, but for `changes`."""
    random_set = SetMeasures(
        rank_correlation=0.0, rank_correlation_sd=0.001, neighbour_steps=9.0, neighbour_steps_random=9.0
    )
    measures: dict[str, Measure] = {
        name: same(value)
        for name, value in (
            ("places", 3955.0),
            ("shards", 1402.0),
            ("neighbours", 0.0003),
            ("same_shard", 0.0007),
            ("overlap", 1.1),
        )
    }
    fields = {"sets": (random_set,), **measures, **changes}
    return ShuffleQuality(epoch=0, steps=64, steps_in_epoch=3662, **fields)  # type: ignore[arg-type]


def test_facts_of_the_sets_and_the_run() -> None:
    mix = mix_of(manifest("a", (10, 30, 20), 1000), manifest("b", (40,), 500))
    plan = Plan(counts=mix.counts, weights=mix.weights, seed=0, global_batch=16, lanes=4, shuffle_window=5)
    first, second = set_facts(mix)
    assert (first.samples, first.shards, first.bytes, first.bytes_per_sample) == (60, 3, 60_000, 1000)
    assert (first.samples_per_shard_min, first.samples_per_shard_median, first.samples_per_shard_max) == (10, 20, 30)
    assert first.rows == first.samples + sum(first.rejected.values())
    assert (second.share, second.manifest) == (0.5, "/b/manifest.json")
    run = run_facts(mix, plan)
    assert run.held_samples == 2 * 4 * 5
    assert run.held_bytes == 4 * 5 * 1000 + 4 * 5 * 500
    assert run.steps_per_epoch == 100 / 16


def test_no_run_holds_more_than_the_data_set() -> None:
    mix = mix_of(manifest("a", (7,), 1000))
    run = run_facts(mix, Plan(counts=mix.counts, seed=0, global_batch=7, shuffle_window=128))
    assert (run.held_samples, run.held_bytes) == (7, 7000)


def test_text_has_every_number_in_aligned_columns() -> None:
    mix = mix_of(manifest("a", (1000, 3000), 55_000), manifest("b", (4000,), 500))
    plan = Plan(counts=mix.counts, weights=mix.weights, seed=0, global_batch=64, shuffle_window=5)
    facts, run, found = set_facts(mix), run_facts(mix, plan), measure(plan, steps=4)
    text = report_text(facts, run, found)
    for words in ("data set 0: a (local)", "4,000 in 2 shards, 220.0 MB", "1,000 least, 2,000 median, 3,000 most"):
        assert words in text
    assert "125.00 steps" in text
    assert "a 50.00 %, b 50.00 %" in text
    lines = text.splitlines()
    funnel = next(i for i, line in enumerate(lines) if line.startswith("  rows of metadata"))
    assert [line.split()[:2] for line in lines[funnel + 2 : funnel + 4]] == [["-", "dead_link"], ["-", "video"]]
    assert len({line.index("%") for line in lines[funnel + 1 : funnel + 4]}) == 1
    head = next(i for i, line in enumerate(lines) if "random order" in line)
    assert {len(line) for line in lines[head : head + 6]} == {len(lines[head])}
    assert sum("rank correlation" in line for line in lines) == 2
    content = json.loads(json.dumps(report_data(facts, run, found)))
    assert content["shuffle_quality"]["overlap"]["random"] == found.overlap.random
    assert content["data_sets"][1]["digest"] == mix.manifests[1].sha256


def test_a_random_order_is_called_as_good_as_random() -> None:
    said = verdict(quality())
    assert said[0] == "Batches are as good as random: they draw from 3,955 places in 1,402 shards."
    assert "anew" in said[1]
    assert "alike" in said[2]


@pytest.mark.parametrize(
    "worse",
    [
        {"places": Measure(mean=256, lowest=250, highest=260, random=3955)},
        {"neighbours": Measure(mean=0.115, lowest=0.1, highest=0.2, random=0.0003)},
    ],
)
def test_lumpy_batches_are_called_so(worse: dict[str, Measure]) -> None:
    said = verdict(quality(**worse))
    assert "as good as random" not in said[0]
    assert f"from {worse.get('places', same(3955)).mean:,.0f} places" in said[0]
    assert "those of a random order from 3,955" in said[0]


def test_epochs_that_repeat_each_other_are_called_so() -> None:
    said = verdict(quality(overlap=Measure(mean=200, lowest=150, highest=250, random=1.1)))
    assert "too much alike: 200 of its samples meet again on average, 1.1 at random" in said[1]


def test_a_trend_in_any_data_set_is_called_so() -> None:
    flat, steep = (
        SetMeasures(rank_correlation=value, rank_correlation_sd=0.01, neighbour_steps=None, neighbour_steps_random=None)
        for value in (0.1, -0.5)
    )
    assert "from different parts" in verdict(quality(sets=(flat, steep)))[2]
    assert "alike" in verdict(quality(sets=(flat, flat)))[2]
