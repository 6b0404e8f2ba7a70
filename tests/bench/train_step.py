"""A SLIP step against the published one, and a step by parts against the same step in one piece.

Comes in: a tower, a batch, a device. Goes out: samples per second, MFU, and the ratios, each the median of steps taken
in turns in this process. Pictures are synthetic and captions random, of the lengths people's captions have, so only the
step is measured. Correctness comes first: both formulations must give the same loss.

    python tests/bench/train_step.py --tower vits16 --batch 32                 # a CPU
    python tests/bench/train_step.py --tower vitb16 --batch 512 --device cuda  # a GPU: bf16, compiled

The published formulation (github.com/facebookresearch/SLIP, written here from its description): three calls of the
image tower, captions of 77 tokens, torch's multi-head attention with a mask, plain AdamW, nothing compiled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slip.config import ModelConfig, ObjectiveConfig, OptimConfig, TowerName, TrainConfig
from slip.exact_batch import ExactBatch
from slip.gradients import GradientAverager
from slip.model_cost import flops_per_sample
from slip.models.inputs import TowerInputs
from slip.models.model import Model
from slip.models.registry import build_model
from slip.models.text import Block
from slip.optim import build_optimizer, decay_groups
from slip.parallel import compile_blocks
from slip.peak_flops import mfu, peak_flops

# Tenths of the lengths (tokens, start and end included) of 324 titles and descriptions of YFCC100M.
LENGTHS = (5, 6, 7, 8, 10, 12, 15, 20, 34, 77)


class PublishedText(nn.Module):
    """The text tower with torch's multi-head attention and an additive mask, sequence first, always 77 tokens."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.blocks = nn.ModuleList()
        for block in model.transformer.resblocks:
            assert isinstance(block, Block)
            width = block.ln_1.normalized_shape[0]
            attention = nn.MultiheadAttention(width, block.attn.heads)
            attention.load_state_dict(block.attn.state_dict())
            self.blocks.append(attention)
        mask = torch.full((77, 77), float("-inf")).triu_(1)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, 77) -> (B, D)."""
        model = self.model
        x_LBW = (model.token_embedding(tokens_BL) + model.positional_embedding).permute(1, 0, 2)
        for block, attention in zip(model.transformer.resblocks, self.blocks, strict=True):
            assert isinstance(block, Block)
            normal = block.ln_1(x_LBW)
            mask = self.mask.to(normal.dtype)
            x_LBW = x_LBW + attention(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
            x_LBW = x_LBW + block.mlp(block.ln_2(x_LBW))
        x_BLW = model.ln_final(x_LBW.permute(1, 0, 2))
        found: Tensor = x_BLW[torch.arange(len(x_BLW)), tokens_BL.argmax(dim=-1)] @ model.text_projection
        return found


def published_loss(model: Model, text: PublishedText, views: tuple[Tensor, ...], tokens_BL: Tensor) -> Tensor:
    """SLIP's loss on one process, term by term as published."""
    image = F.normalize(model.visual(views[0]) @ model.image_projection, dim=-1)
    a, b = (F.normalize(model.image_mlp(model.visual(view)), dim=-1) for view in views[1:])
    caption = F.normalize(text(tokens_BL), dim=-1)
    labels = torch.arange(len(image), device=image.device)
    scale = model.logit_scale.exp()
    clip = F.cross_entropy(scale * image @ caption.T, labels) + F.cross_entropy(scale * caption @ image.T, labels)
    mask = F.one_hot(labels, len(a)) * 1e9
    logits = [torch.cat([x @ y.T / 0.1, x @ x.T / 0.1 - mask], dim=1) for x, y in ((a, b), (b, a))]
    return clip / 2 + sum(F.cross_entropy(x, labels) for x in logits) / 2


def make_inputs(batch: int, needs_views: int, device: torch.device, dtype: torch.dtype) -> TowerInputs:
    """Random pictures and captions of people's lengths."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)[torch.randint(len(LENGTHS), (batch,), generator=draw)]
    lengths[0] = 77
    tokens = torch.randint(1, 49_000, (batch, 77), generator=draw)
    tokens = torch.where(torch.arange(77) < lengths[:, None], tokens, 0)
    tokens[torch.arange(batch), lengths - 1] = 49_407
    views = tuple(torch.randn(batch, 3, 224, 224, generator=draw).to(device, dtype) for _ in range(needs_views))
    return TowerInputs(views=views, tokens=tokens.to(device), lengths=lengths)


def timed(step: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", choices=("vits16", "vitb16", "vitl16"), default="vits16")
    parser.add_argument("--batch", type=int, default=32, help="samples of a step")
    parser.add_argument("--micro-batch", type=int, default=0, help="samples of a part; default a quarter of the batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=5, help="steps of each kind, after one that warms up")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    args = parser.parse_args()
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu)
    tower: TowerName = args.tower
    config = TrainConfig(
        model=ModelConfig(tower=tower),
        objective=ObjectiveConfig(name="slip"),
        optim=OptimConfig(global_batch=args.batch),
    )
    models = [build_model(config.model, config.objective).to(device) for _ in range(3)]
    inputs = make_inputs(args.batch, 3, device, dtype)
    tokens_BL = inputs.tokens
    assert tokens_BL is not None
    text = PublishedText(models[0]).to(device)
    published = [*models[0].named_parameters(), *text.blocks.named_parameters(prefix="blocks")]
    used = [(name, p) for name, p in published if ".resblocks." not in name or ".attn." not in name]
    plain = torch.optim.AdamW(decay_groups(used, 0.1), lr=1e-5, betas=(0.9, 0.98), eps=1e-8)
    micro = args.micro_batch or max(1, args.batch // 4)
    ours = [build_optimizer(model, config.optim) for model in models[1:]]
    exact = [
        ExactBatch(model, config.objective, GradientAverager(model), micro_batch=size, autocast=autocast)
        for model, size in zip(models[1:], (0, micro), strict=True)
    ]
    for model in models[1:]:
        model.text_grouping["least_rows"] = 64 if on_gpu else 16
        if args.compile or (args.compile is None and on_gpu):
            compile_blocks(model)

    def published_step() -> Tensor:
        plain.zero_grad(set_to_none=True)
        with autocast:
            loss = published_loss(models[0], text, inputs.views, tokens_BL)
        torch.autograd.backward(loss)
        plain.step()
        models[0].clamp_logit_scale()
        return loss.detach()

    def our_step(number: int) -> Tensor:
        _, terms = exact[number](inputs, seed=0)
        ours[number].step()
        models[number + 1].clamp_logit_scale()
        return terms["loss"].detach()

    steps: dict[str, Callable[[], Tensor]] = {
        "published": published_step,
        "ours": lambda: our_step(0),
        f"ours in parts of {micro}": lambda: our_step(1),
    }
    losses = {name: float(step()) for name, step in steps.items()}
    print("first loss:", ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items()))
    spread = max(losses.values()) - min(losses.values())
    assert spread < (0.05 if on_gpu else 1e-3), f"formulations differ by {spread}"
    peaks: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.steps):
        for name, step in steps.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds[name].append(timed(step, device))
            if on_gpu:
                peaks[name] = torch.cuda.max_memory_allocated() / 1e9
    peak, source = peak_flops(device, dtype)
    length = models[1].text_length(inputs.lengths)
    print(f"captions: {length:.1f} tokens computed of each, 77 in the published step")
    print(f"peak: {peak / 1e12:.3g} TFLOP/s ({source})")
    flops = flops_per_sample(config, round(length))
    print("| step | seconds (median) | samples/s | MFU | peak GB |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        rate = args.batch / statistics.median(values)
        memory = f"{peaks[name]:.1f}" if name in peaks else "-"
        print(f"| {name} | {statistics.median(values):.3f} | {rate:.1f} | {mfu(flops, rate, 1, peak):.1%} | {memory} |")
    base, own, parts = seconds.values()
    ratios = [b / o for b, o in zip(base, own, strict=True)]
    costs = [p / o for p, o in zip(parts, own, strict=True)]
    print(f"ours is {statistics.median(ratios):.2f} times as fast as published ({min(ratios):.2f}-{max(ratios):.2f})")
    print(f"in parts it takes {statistics.median(costs):.2f} times as long ({min(costs):.2f}-{max(costs):.2f})")


if __name__ == "__main__":
    main()
