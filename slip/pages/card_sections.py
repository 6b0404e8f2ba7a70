"""The chapters of a model card in Markdown: model, data, recipe, curves, time, evaluation, use, limits.

Pure: a run and what is known of its data in, text out.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Sequence

from slip.evaluate.published import SOURCE, number_for
from slip.goodput import duration
from slip.model_cost import PARTS, pieces
from slip.models.shapes import IMAGE_SHAPES
from slip.pages.curves import Series, plot
from slip.pages.run_data import UNKNOWN, DataFacts
from slip.pages.run_files import Run
from slip.pages.scores import PROTOCOLS, answers, published_beside
from slip.pages.settings import NOT_THE_RESULT, flat, nearest_recipe, shown
from slip.pages.timing import spent

_TABLE_POINTS = 10
_NOT_THE_RECIPE = ("data.manifest", "data.ssl_manifest", "data.max_damaged", "eval.", "max_skipped")

_YFCC = (
    "Photographs of YFCC100M, each under the Creative Commons licence that its photographer chose; the index beside "
    "every shard names both. Some of these licences forbid commercial use or derived works."
)
_LINKED = "Pictures of the Web that a published list links to; each belongs to whoever put it there."
_LICENCES = {
    "openai": _YFCC,
    "declip": _YFCC,
    "english": _YFCC,
    "cc3m": _LINKED,
    "cc12m": _LINKED,
    "redcaps": _LINKED,
    "local": "Pictures and captions of whoever made the data set; ask them.",
    "sample": "Generated pictures, made to show that everything works: the model knows nothing of photographs.",
}

CITATION = """```bibtex
@article{mu2021slip,
  title   = {SLIP: Self-supervision meets Language-Image Pre-training},
  author  = {Mu, Norman and Kirillov, Alexander and Wagner, David and Xie, Saining},
  journal = {arXiv:2112.12750},
  year    = {2021}
}
```

YFCC100M: Thomee et al., *YFCC100M: The New Data in Multimedia Research*, Communications of the ACM 59(2), 2016."""


def cell(text: str) -> str:
    """A text that stays within its cell and is no markup: "a|b" -> "a\\|b"."""
    for found, said in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\r", " "), ("\n", " ")):
        text = text.replace(found, said)
    return text


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """All but the first column to the right; cells are Markdown already."""
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _progress(run: Run) -> str:
    planned = run.planned_steps
    of = f" of {planned:,}" if planned is not None else ""
    per_epoch = run.steps_per_epoch
    epochs = f", {run.step / per_epoch:.2f} epochs" if per_epoch is not None else ""
    going = "" if planned is None or run.step >= planned else " (**not finished**)"
    samples = run.step * run.config.optim.global_batch
    return f"{run.step:,}{of} steps{epochs}, {samples:,} samples{going}"


def _objective(run: Run) -> str:
    objective = run.config.objective
    if objective.name != "slip":
        return objective.name
    return f"clip + {objective.ssl_scale:g} × ({' + '.join(objective.ssl)})"


def model_section(run: Run, data: DataFacts) -> str:
    """What it is, as a table."""
    config = run.config
    shape, found = IMAGE_SHAPES[config.model.tower], pieces(config.model, config.objective)
    kind = f"ViT, patches of {shape.patch} pixels, width {shape.width}, {shape.depth} blocks of {shape.heads} heads"
    counts = [(part, sum(one.trained + one.frozen for one in found if one.part == part)) for part in PARTS]
    parameters = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in counts if count)
    gather = (
        "exact: gathered embeddings keep their gradient, so the loss and its gradient are those of the global batch"
        if config.objective.gather == "exact"
        else "paper: the image-text term gathers without gradient, as in the published code"
    )
    rows = [
        ("Objective", _objective(run)),
        ("Image tower", f"{config.model.tower}: {kind}; {config.model.image_size} × {config.model.image_size} pixels"),
        ("Parameters", parameters),
        ("Loss over ranks", gather),
        ("Global batch", f"{config.optim.global_batch:,}"),
        ("Trained for", _progress(run)),
        ("Data", f"{cell(' + '.join(data.names)) or UNKNOWN}, digest `{data.digest or UNKNOWN}`"),
    ]
    return markdown_table(["", ""], rows).replace("--:", ":--")


def data_section(run: Run, data: DataFacts) -> str:
    """Which data, and whose."""
    samples = f"{data.samples:,}" if data.samples is not None else UNKNOWN
    rows = [
        ("Variant", cell(" + ".join(data.variants)) or UNKNOWN),
        ("Samples", samples),
        ("Manifest", " ".join(f"`{cell(url)}`" for url in data.urls)),
        ("Digest (sha256)", f"`{data.digest or UNKNOWN}`"),
        ("Digest from", cell(data.source)),
    ]
    if run.config.data.ssl_manifest:
        rows.append(("SSL terms on", " ".join(f"`{cell(url)}`" for url in run.config.data.ssl_manifest)))
    notes = list(dict.fromkeys(_LICENCES[one] for one in data.variants if one in _LICENCES))
    notes = notes or ["The licences of the pictures are unknown: the manifest is out of reach."]
    return "\n\n".join([markdown_table(["", ""], rows).replace("--:", ":--"), *notes])


def recipe_section(run: Run) -> str:
    """The settings that decide the result, and where they are not the nearest recipe's."""
    name, changed = nearest_recipe(run.config)
    rows = []
    for setting, value in flat(run.config).items():
        if setting in NOT_THE_RESULT or setting.startswith(_NOT_THE_RECIPE):
            continue
        mark, theirs = ("**", shown(changed[setting][0])) if setting in changed else ("", "")
        rows.append((f"`{setting}`", f"{mark}{cell(shown(value))}{mark}", cell(theirs)))
    lead = f"Settings that decide the result; bold where they are not those of the nearest recipe, `{name}`."
    return f"{lead}\n\n{markdown_table(['setting', 'value', 'recipe'], rows)}"


def _image(series: Sequence[Series], title: str) -> str:
    drawn = plot(series, title=title, x_name="steps", alone=True)
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})" if drawn else ""


def curves_section(run: Run) -> str:
    """Pictures of loss and accuracy, and a table for where pictures are not shown."""
    names = [name for name in run.names() if name == "loss" or name.startswith("loss/")]
    points = run.points("loss")
    if not points:
        return "No records yet."

    def series(wanted: Sequence[str]) -> list[Series]:
        return [
            Series(number=i, label=name, points=tuple((record.step, y) for record, y in run.points(name)))
            for i, name in enumerate(wanted)
        ]

    images = [_image(series(names), "Loss over steps")]
    images.append(_image(series(["zeroshot/top1"]), "Zero-shot accuracy over steps (share)"))
    last = len(points) - 1
    chosen = sorted({round(i * last / (_TABLE_POINTS - 1)) for i in range(_TABLE_POINTS)})
    rows = []
    for number in chosen:
        record = points[number][0]
        lr = record.values.get("lr")
        losses = [f"{record.values[name]:.4f}" if name in record.values else "" for name in names]
        rows.append((f"{record.step:,}", *losses, f"{lr:.2e}" if lr is not None else ""))
    return "\n\n".join([image for image in images if image] + [markdown_table(["step", *names, "lr"], rows)])


def time_section(run: Run, data: DataFacts) -> str:
    """Pace and hours, as the records tell them."""
    found = spent(run.records, run.config.optim.global_batch)

    def median(name: str, form: str) -> str:
        values = [value for _, value in run.points(name)]
        return form.format(statistics.median(values)) if values else UNKNOWN

    peak = run.last("memory/peak_bytes")
    rows = [
        ("Samples a second, all ranks (median)", median("images_per_s", "{:,.0f}")),
        ("MFU (median)", median("mfu", "{:.1%}")),
        ("Wall time, first record to last", duration(found.wall_s) if found else UNKNOWN),
        ("Share of it in steps that did not wait for data", f"{found.goodput:.1%}" if found else UNKNOWN),
        ("Peak memory of rank 0", f"{peak / 1e9:,.2f} GB" if peak is not None else UNKNOWN),
        ("Ranks", ", then ".join(map(str, data.world_sizes)) or UNKNOWN),
        ("Failures noted", f"{len(run.failures)}"),
    ]
    if run.evaluations:
        versions = run.evaluations[-1].trained_with
        rows.append(("Software", cell(", ".join(f"{name} {version}" for name, version in versions.items()))))
    return markdown_table(["", ""], rows) + "\n\nThe run's records do not name the kind of its devices."


def evaluation_section(run: Run, data: DataFacts) -> str:
    """The scores with their intervals, the published ones beside them."""
    rows = []
    published = published_beside(run, data.variants)
    newest = [one for one in run.evaluations if one.step == run.evaluations[-1].step]
    for key, answer in answers(run).items():
        score = answer.score
        note = f"partial: {score.partial}" if score.partial is not None else ""
        weights = f"step {answer.step:,}, {answer.weights}"
        number = number_for(published, key.set, key.protocol)
        rows.append(
            (
                *(cell(key.set), key.protocol_name, cell(key.metric), answer.percent, answer.interval or "-"),
                *(f"{number:.1f}" if number is not None else "-", f"{score.pictures:,}", weights, cell(note)),
            )
        )
    heads = ["set", "protocol", "metric", "%", "95 % interval", "published %", "pictures", "weights", ""]
    parts = [markdown_table(heads, rows)] if rows else ["Not evaluated by `slip evaluate` yet."]
    if published is not None and any(row[5] != "-" for row in rows):
        parts.append(f"Published: {published.words()} ({SOURCE}).")
    parts += [f"Weights of step {one.step:,}, {one.weights}: sha256 `{one.weights_sha256}`." for one in newest]
    unread = {one.set: one for evaluation in newest for one in evaluation.unread}
    missing = [cell(name) for name, one in unread.items() if one.missing]
    if missing:
        parts.append(f"Not there to be evaluated on: {', '.join(missing)}.")
    failed = [one for one in unread.values() if not one.missing]
    parts += [f"{cell(one.set)} could not be evaluated on: {cell(one.error)}" for one in failed]
    training = run.points("zeroshot/top1")
    if training:
        (last, value), (record, best) = training[-1], max(training, key=lambda point: point[1])
        parts.append(
            f"In training, zero-shot on `{cell(str(run.config.eval.zeroshot))}`: {value:.2%} at step {last.step:,}, at "
            f"best {best:.2%} at step {record.step:,}."
        )
    return "\n\n".join(parts)


def loading_section(run: Run) -> str:
    """Commands."""
    step = (
        run.best[0] if run.best is not None and run.best[0] in run.checkpoints else max(run.checkpoints, default=None)
    )
    if step is None:
        return "The run has no checkpoint yet."
    checkpoint = f"checkpoints/step-{step:08d}.pt"
    has_text = run.config.objective.name in ("clip", "siglip", "slip")
    target, protocol = ("open_clip", "zeroshot") if has_text else ("timm", "knn")
    return (
        f"In the run's folder, with this project installed:\n\n```bash\n"
        f"slip export {checkpoint} --to {target} --output exported\n"
        f"slip evaluate {checkpoint} --protocol {protocol} --suite imagenet\n```\n\n"
        "`exported/README.md` says how to load what was exported; `--to safetensors` and `--to onnx` are the other "
        "forms."
    )


def limits_section(run: Run, data: DataFacts) -> str:
    """What nobody looked at."""
    done = {key.protocol for key in answers(run)}
    missing = [said for name, said in PROTOCOLS.items() if name not in done]
    sets = sorted({key.set for key in answers(run)})
    lines = []
    if missing:
        lines.append(f"Not evaluated: {', '.join(missing)}.")
    if sets:
        lines.append(f"Evaluated on {', '.join(map(cell, sets))} only; of other pictures nothing is known.")
    if run.best is not None and run.config.eval.zeroshot is not None:
        lines.append(
            "The best checkpoint was chosen by its accuracy on the set that training evaluated; that number is "
            "therefore too good."
        )
    planned = run.planned_steps
    if planned is None or run.step < planned:
        lines.append("Training had not reached its last step when this card was made.")
    if "sample" in data.variants:
        lines.append("Trained on generated pictures: of no use beyond a demonstration.")
    lines += [
        "Pictures and captions were not filtered for harmful content beyond what the data set's rules say; biases of "
        "the data were not measured.",
        *run.notes,
    ]
    return "\n".join(f"- {line}" for line in lines)
