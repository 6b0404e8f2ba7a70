"""The plan of a run as a table for people, and as plain data for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from slip.config import TrainConfig
from slip.memory_cost import Memory, computes_in_bf16
from slip.model_cost import PARTS
from slip.run_plan import Gpu, RunPlan

_GIB = 2**30
_LABELS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "average": "average of weights",
    "momentum": "momentum tower",
    "copies": "weights in bf16, gathered blocks",
    "pictures": "batches on the GPU",
    "features": "features and heads",
    "activations": "activations",
    "losses": "blocks of logits",
}

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a plan was made for, and where its numbers are from."""

    name: str
    """Of the recipe."""
    gpu: Gpu
    num_gpus: int
    mfu: float
    mfu_source: str
    epoch_samples: int
    samples_source: str
    text_length: int
    price: float | None


def _table(rows: Rows) -> list[str]:
    """Columns aligned: the first to the left, numbers to the right, remarks (the fourth) to the left."""
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(4)]

    def line(row: tuple[str, ...]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(widths[i]) for i, cell in enumerate(row[1:3], 1)), *row[3:]]
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def _parameter_rows(plan: RunPlan) -> Rows:
    rows: Rows = [("parameters", "trained", "in all")]

    def row(label: str, trained: int, frozen: int) -> tuple[str, ...]:
        return (label, f"{trained / 1e6:,.1f} M", f"{(trained + frozen) / 1e6:,.1f} M")

    for part in PARTS:
        pieces = [piece for piece in plan.pieces if piece.part == part]
        if pieces:
            rows.append(row(f"  {part}", sum(p.trained for p in pieces), sum(p.frozen for p in pieces)))
    return [*rows, row("  total", sum(p.trained for p in plan.pieces), sum(p.frozen for p in plan.pieces))]


def _flops_rows(plan: RunPlan, told: Assumptions) -> Rows:
    flops = plan.flops
    rows: Rows = [("GFLOP of a sample", "", "")]

    def row(label: str, value: float, remark: str = "") -> None:
        rows.append((f"  {label}", f"{value / 1e9:,.3g}" if value < 1e11 else f"{value / 1e9:,.0f}", "", remark))

    row("image tower, forward", flops.image_forward, "one view as in training")
    if flops.text_forward:
        row("text tower, forward", flops.text_forward, f"{told.text_length} tokens")
    row("trained, model", flops.model, "forward and backward; MFU counts these")
    row("trained, hardware", flops.hardware, "with what is computed twice")
    return rows


def _memory_rows(plan: RunPlan, told: Assumptions) -> Rows:
    rows: Rows = [("GiB of each GPU (estimate)", "", "")]
    remarks = {"activations": f"{plan.in_flight:,} of {plan.rank_batch:,} samples at a time"}
    if plan.sharded:
        remarks["weights"] = "towers in shards (fsdp)"
    for name, label in _LABELS.items():
        value = getattr(plan.memory, name)
        if value:
            rows.append((f"  {label}", f"{value / _GIB:,.2f}", "", remarks.get(name, "")))
    fits = "fits" if plan.fits else "does not fit"
    room = f"{fits}: {plan.memory_limit / _GIB:,.1f} of {told.gpu.memory_mib / 1024:,.1f} are for tensors"
    return [*rows, ("  total", f"{plan.memory.total / _GIB:,.2f}", "", room)]


def _suggestion_line(plan: RunPlan, config: TrainConfig) -> list[str]:
    if plan.fits:
        return []
    found = plan.suggestion
    if found is None:
        return ["Nothing fits, not even one sample at a time: take more GPUs with --parallel fsdp, or larger ones."]
    words = []
    if found.micro_batch != config.optim.micro_batch:
        words.append(f"--optim.micro-batch {found.micro_batch}")
    if found.activation_checkpointing != config.model.activation_checkpointing:
        words.append("--model.activation-checkpointing")
    return [f"It fits with {' '.join(words)}: {found.memory.total / _GIB:,.1f} GiB and {found.hours:,.1f} hours."]


def _time_rows(plan: RunPlan, told: Assumptions, config: TrainConfig) -> Rows:
    peak = told.gpu.bf16 if computes_in_bf16(config) else told.gpu.fp32
    rate, gpu_hours = plan.samples / (plan.hours * 3600), plan.hours * told.num_gpus
    told_mfu = f"{told.mfu_source}; of {peak:,.4g} TFLOP/s a GPU"
    if plan.flops.repeated > 1:
        told_mfu += f"; {told.mfu / plan.flops.repeated:.3f} with what is computed twice"
    rows: Rows = [
        ("run", "", ""),
        ("  samples of the data set", f"{told.epoch_samples:,}", "", told.samples_source),
        ("  epochs", f"{plan.samples / told.epoch_samples:,.4g}", ""),
        ("  steps", f"{plan.steps:,}", "", f"of {config.optim.global_batch:,} samples"),
        ("  samples", f"{plan.samples:,}", ""),
        ("  MFU", f"{told.mfu:.3f}", "", told_mfu),
        ("  samples a second", f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}", ""),
        ("  hours", f"{plan.hours:,.1f}" if plan.hours >= 1 else f"{plan.hours:.2g}", ""),
        ("  GPU-hours", f"{gpu_hours:,.1f}" if gpu_hours >= 1 else f"{gpu_hours:.2g}", ""),
    ]
    if told.price is not None:
        rows.append(("  cost", f"{gpu_hours * told.price:,.2f}", "", f"{told.price:g} a GPU-hour"))
    return rows


def plan_text(plan: RunPlan, told: Assumptions, config: TrainConfig) -> str:
    """The plan as one table."""
    unit = "bf16" if computes_in_bf16(config) else "fp32"
    rows: Rows = [
        *_parameter_rows(plan),
        *(("",), *_flops_rows(plan, told)),
        *(("",), *_memory_rows(plan, told)),
        *(("",), *_time_rows(plan, told, config)),
    ]
    heading = f"{told.name} on {told.num_gpus} {told.gpu.name}, {unit}"
    return "\n".join([heading, "", *_table(rows), *_suggestion_line(plan, config)]) + "\n"


def _memory_data(memory: Memory) -> dict[str, float]:
    return {**{name: round(value) for name, value in dataclasses.asdict(memory).items()}, "total": round(memory.total)}


def plan_data(plan: RunPlan, told: Assumptions) -> dict[str, Any]:
    """The plan for programs; memory in bytes."""
    gpu_hours = plan.hours * told.num_gpus
    found = plan.suggestion
    suggestion = None if found is None else dataclasses.asdict(found) | {"memory": _memory_data(found.memory)}
    parameters = {
        part: {
            "trained": sum(piece.trained for piece in plan.pieces if piece.part == part),
            "all": sum(piece.trained + piece.frozen for piece in plan.pieces if piece.part == part),
        }
        for part in PARTS
    }
    return {
        **dataclasses.asdict(told),
        "parameters": parameters,
        "flops": dataclasses.asdict(plan.flops),
        "memory": _memory_data(plan.memory),
        "memory_limit": round(plan.memory_limit),
        "fits": plan.fits,
        "suggestion": suggestion,
        "rank_batch": plan.rank_batch,
        "in_flight": plan.in_flight,
        "sharded": plan.sharded,
        "steps": plan.steps,
        "samples": plan.samples,
        "hours": plan.hours,
        "gpu_hours": gpu_hours,
        "cost": None if told.price is None else gpu_hours * told.price,
    }
