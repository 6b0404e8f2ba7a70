"""What an evaluation may have found, for tests of how it is kept and shown."""

from __future__ import annotations

import dataclasses

from slip.evaluate.report import Outcome, Subject
from slip.evaluate.score import Score

SUBJECT = Subject(
    checkpoint="runs/a/checkpoints/step-00001200.pt",
    weights_sha256="ab" * 32,
    step=1200,
    weights="average",
    objective="slip",
    tower="vitb16",
    image_size=224,
    precision="bf16",
    epochs=50,
    versions={"torch": "2.13"},
    trained_with={"torch": "2.12"},
)


def score(name: str, protocol: str = "zeroshot", value: float = 0.5, **changed: object) -> Score:
    """Of two classes and four pictures."""
    made = Score(
        set=name,
        protocol=protocol,
        metric="accuracy",
        value=value,
        pictures=4,
        classes=2,
        interval95=(0.15, 0.85),
        counts={"top1": 2, "top5": 4},
        confusion=((1, 1), (1, 1)),
        classnames=("cat", "dog"),
    )
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def outcome(name: str, *scores: Score, asked: str = "zeroshot", **changed: object) -> Outcome:
    """Of a set at s3://b/NAME."""
    made = Outcome(asked=asked, set=name, url=f"s3://b/{name}", settings={"classes": 2}, scores=scores)
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


PETS = outcome("pets", score("pets"))
LINEAR = outcome("pets", score("pets", "linear-sgd"), score("pets", "linear-fast", 0.75), asked="linear")
LOST = outcome("sun397", error="not in the catalogue", missing=True)
