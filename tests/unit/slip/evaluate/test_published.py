"""Which published number stands beside ours."""

from __future__ import annotations

import pytest

from slip.evaluate.published import PUBLISHED, beside, data_of, number_for, published_rows


@pytest.mark.parametrize(
    ("objective", "tower", "epochs", "expected"),
    [
        # arXiv 2112.12750: zero-shot, linear and fine-tuned on ImageNet.
        ("slip", "vitb16", 25, (42.8, 72.1, 82.6)),
        ("slip", "vitb16", None, (42.8, 72.1, 82.6)),
        ("slip", "vitb16", 100, (45.0, 73.6, 83.4)),
        ("slip", "vits16", 40, (39.3, 67.6, 80.7)),
        ("clip", "vitl16", 25, (40.4, 70.5, 81.0)),
        ("clip", "vitb16", 1, (37.6, 66.5, 80.5)),
        ("simclr", "vitb16", 25, (None, 64.0, 82.5)),
    ],
)
def test_the_model_beside_ours(
    objective: str, tower: str, epochs: float | None, expected: tuple[float | None, ...]
) -> None:
    found = beside(objective, tower, epochs)
    protocols = ("zeroshot", "linear-sgd", "finetune")
    assert tuple(number_for(found, "imagenet", protocol) for protocol in protocols) == expected
    assert number_for(found, "imagenet", "linear-fast") == expected[1]
    assert number_for(found, "imagenet", "knn") is None
    assert number_for(found, "pets", "zeroshot") is None


def test_other_models_have_nothing_beside_them() -> None:
    assert beside("slip", "tiny", 25) is None
    assert beside("slip (byol)", "vitb16", 25) is None
    assert number_for(None, "imagenet", "zeroshot") is None


def test_tables_are_whole() -> None:
    assert len(PUBLISHED) == len({(row.objective, row.tower, row.data, row.epochs) for row in PUBLISHED}) == 19
    assert [row.data for row in published_rows("clip", "vitb16")] == ["YFCC15M", "CC3M", "CC12M"]
    # As published, SLIP is above CLIP on the same data, in the same tower and time, by every protocol.
    for ours in PUBLISHED:
        for theirs in PUBLISHED:
            same = (ours.tower, ours.data, ours.epochs) == (theirs.tower, theirs.data, theirs.epochs)
            if same and (ours.objective, theirs.objective) == ("slip", "clip"):
                assert ours.zeroshot is not None
                assert theirs.zeroshot is not None
                assert (ours.zeroshot > theirs.zeroshot, ours.linear > theirs.linear) == (True, True)
                assert ours.finetune > theirs.finetune


def test_of_which_data() -> None:
    assert data_of(["data/cc3m/manifest.json"]) == "CC3M"
    assert data_of(["s3://b/CC12M-288/manifest.json"]) == "CC12M"
    assert data_of(["data/mine/manifest.json"]) == data_of([]) == "YFCC15M"
    found = beside("slip", "vitb16", 40, "CC3M")
    assert found is not None
    assert (found.data, found.zeroshot) == ("CC3M", 23.0)
