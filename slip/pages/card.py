"""The model card of a run: one Markdown file in the form of the Hugging Face hub, front matter first.

Pure: a run and what is known of its data in, text out. What a run's files do not tell is said to be unknown, never
guessed. The chapters are `slip.pages.card_sections`'s.
"""

from __future__ import annotations

import json
from typing import Any

from slip.pages.card_sections import (
    CITATION,
    curves_section,
    data_section,
    evaluation_section,
    limits_section,
    loading_section,
    model_section,
    recipe_section,
    time_section,
)
from slip.pages.run_data import DataFacts
from slip.pages.run_files import Run
from slip.pages.scores import answers

# What the hub calls the question of each protocol.
_TASKS = {
    "zeroshot": ("zero-shot-image-classification", "Zero-shot image classification"),
    "knn": ("image-classification", "kNN classification"),
    "linear-fast": ("image-classification", "Linear probe"),
    "linear-sgd": ("image-classification", "Linear probe"),
    "finetune": ("image-classification", "Fine-tuning"),
}
_WITH_TEXT = frozenset({"clip", "siglip", "slip"})


def _results(run: Run) -> list[dict[str, Any]]:
    """Scores in the form of the hub's model-index; those over less than a whole set are left out."""
    found = []
    for key, answer in answers(run).items():
        if key.protocol in _TASKS and answer.score.partial is None:
            kind, name = _TASKS[key.protocol]
            metric = {"type": key.metric.lower().replace(" ", "_"), "name": key.metric, "value": answer.score.value}
            data_set = {"type": key.set, "name": key.set, "split": "test"}
            found.append({"task": {"type": kind, "name": name}, "dataset": data_set, "metrics": [metric]})
    return found


def front_matter(run: Run, data: DataFacts, *, name: str, license_id: str | None) -> str:
    """The YAML at the head of a card; values are written as JSON, which is YAML, so that no text can break out."""
    objective = run.config.objective
    tags = ["image", "vit", objective.name, *(objective.ssl if objective.name == "slip" else ())]
    has_text = objective.name in _WITH_TEXT
    content: dict[str, Any] = {
        "language": "en" if has_text else None,
        "license": license_id,
        "tags": list(dict.fromkeys([*tags, *(["image-text", "contrastive"] if has_text else ["self-supervised"])])),
        "datasets": sorted(set(data.names)) or None,
        "pipeline_tag": "zero-shot-image-classification" if has_text else "image-feature-extraction",
    }
    results = _results(run)
    if results:
        content["model-index"] = [{"name": name, "results": results}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


def render(run: Run, data: DataFacts, *, name: str, license_id: str | None = None) -> str:
    """The card.

    Args:
        name: of the model.
        license_id: of the weights, as the hub names licences; None: nothing is said of it.
    """
    sections = [
        ("", model_section(run, data)),
        ("Data", data_section(run, data)),
        ("Training recipe", recipe_section(run)),
        ("Training curves", curves_section(run)),
        ("Hardware and time", time_section(run, data)),
        ("Evaluation", evaluation_section(run, data)),
        ("How to load it", loading_section(run)),
        ("Limitations", limits_section(run, data)),
        ("Citation", CITATION),
    ]
    body = [f"## {title}\n\n{text}" if title else text for title, text in sections]
    return "\n\n".join([front_matter(run, data, name=name, license_id=license_id), f"# {name}", *body]) + "\n"
