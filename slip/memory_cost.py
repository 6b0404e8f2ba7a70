"""What a training step keeps in the memory of each GPU, from its settings alone; no torch is imported.

An estimate of what tensors take at the step's highest point, summed up from the shapes that autograd and the optimizer
keep. What torch.compile saves is not counted.

Letters: T positions of a sequence, W width of a tower.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from slip.config import TrainConfig
from slip.layout import shards_towers
from slip.model_cost import Piece, pieces, seen_length
from slip.models.shapes import IMAGE_SHAPES, num_hidden, patch_grid, text_shape
from slip.objectives.needs import BLOCK_ELEMENTS, Needs, needs_of

_FP32 = 4
# Of a contrast: similarities, logits, and two products of them on the way to the gradient.
_BLOCKS_AT_ONCE = 4
# Of slip.data.device_feed: one in use, one that waits, one that is being made.
_BATCHES_ON_DEVICE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on each GPU at a step's highest point."""

    weights: float
    """Trained parameters, float32."""
    gradients: float
    moments: float
    """Both of AdamW."""
    average: float
    """Of the weights (ema_decay)."""
    momentum: float
    """Momentum tower."""
    copies: float
    """Weights in the towers' arithmetic, and with FSDP the gathered blocks."""
    pictures: float
    """Batches on the device."""
    features: float
    """Of the rank's whole batch, where it passes the towers in parts; and what heads keep of it."""
    activations: float
    """What towers keep for the gradient, of the part of the batch under way."""
    losses: float
    """Blocks of similarities and gathered embeddings."""

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(getattr(self, field.name) for field in dataclasses.fields(self)))


def computes_in_bf16(config: TrainConfig) -> bool:
    """Whether towers compute in bfloat16 on a GPU."""
    return config.precision != "fp32"


def block_bytes(length: int, width: int, heads: int, element: int, *, quick_gelu: bool) -> int:
    """What one transformer block keeps of one sequence for its gradient: 36 W bytes a position in bf16, 64 W in fp32.

    The residual stream and layer norms are float32 under autocast too: each of two norms keeps its input and two
    statistics. In the towers' arithmetic (`element` bytes): W entering qkv, 3 W of it, W of attention's output (and a
    number of each head), W entering the MLP, 4 W before and after its GELU. QuickGELU keeps its sigmoid, 4 W, as well.
    """
    kept = 2 * width * _FP32 + (18 if quick_gelu else 14) * width * element
    return length * (kept + 4 * heads + 4 * _FP32)


def _tower_bytes(
    length: int, width: int, depth: int, heads: int, element: int, *, quick_gelu: bool, checkpointing: bool
) -> int:
    """What a tower's blocks keep of one sequence; with checkpointing their inputs, and all of the one under way."""
    block = block_bytes(length, width, heads, element, quick_gelu=quick_gelu)
    return depth * length * width * _FP32 + block if checkpointing else depth * block


def activation_bytes(config: TrainConfig, text_length: int, element: int) -> int:
    """What both towers keep of a sample for the gradient of one pass.

    On a CPU, in float32 and bfloat16, autograd was found to hold 0 to 2 % more for vits16; no GPU was looked at.
    """
    model, needs = config.model, needs_of(config.objective, config.model)
    shape, checkpointing = IMAGE_SHAPES[model.tower], model.activation_checkpointing
    picture = 3 * model.image_size**2 * element
    whole, total = 1 + patch_grid(model) ** 2, 0
    for number in range(len(needs.views)):
        length = whole if number == needs.hidden_view else seen_length(model)
        total += picture + _tower_bytes(
            *(length, shape.width, shape.depth, shape.heads, element), quick_gelu=False, checkpointing=checkpointing
        )
        # The last norm's input and, since what is read out is a part of it, its output.
        total += 2 * length * shape.width * _FP32
    if needs.text:
        text = text_shape(model.tower, model.context_length)
        total += _tower_bytes(
            *(text_length, text.width, text.layers, text.heads, element), quick_gelu=True, checkpointing=checkpointing
        )
    return total


def _feature_bytes(config: TrainConfig, needs: Needs, element: int, *, by_parts: bool) -> int:
    """Of a sample: the towers' features with gradient, and what heads keep."""
    model = config.model
    width, hidden, total = IMAGE_SHAPES[model.tower].width, model.ssl_hidden, 0
    seen = len(needs.views) - (needs.hidden_view is not None)
    if by_parts:
        # Found part by part, gathered, and their gradient.
        total += seen * width * _FP32 * 3
        total += 3 * num_hidden(model) * width * _FP32 if needs.hidden_view is not None else 0
    # Around each batch norm: centred and normalised rows in float32, the latter in the towers' arithmetic as well.
    norms = {"simclr": 2, "mocov3": 3, "byol": 2}
    total += sum(2 * norms.get(name, 0) * hidden * (2 * _FP32 + element) for name in needs.heads)
    if "mim" in needs.heads:
        values = 3 * IMAGE_SHAPES[model.tower].patch ** 2
        total += num_hidden(model) * (width * element + 2 * values * _FP32)
    return total


def _loss_bytes(config: TrainConfig, needs: Needs, rank_batch: int) -> int:
    batch, model = config.optim.global_batch, config.model
    keys = 2 * batch if "simclr" in needs.heads else batch
    rows = min(rank_batch, max(1, BLOCK_ELEMENTS // keys))
    # Embeddings of both sides, from all ranks: gathered, in one piece each, their gradient.
    gathered = 3 * 2 * batch * max(model.embed_dim if needs.text else 0, model.ssl_dim if needs.heads else 0)
    return _FP32 * (_BLOCKS_AT_ONCE * rows * keys + gathered)


def memory_of(config: TrainConfig, num_gpus: int, text_length: int) -> Memory:
    """Bytes on each GPU."""
    needs, shape = needs_of(config.objective, config.model), IMAGE_SHAPES[config.model.tower]
    bf16, sharded = computes_in_bf16(config), shards_towers(config, num_gpus, on_gpu=True)
    element = 2 if bf16 else _FP32
    found = pieces(config.model, config.objective)

    def share(piece: Piece) -> float:
        return 1 / num_gpus if sharded and piece.sharded else 1.0

    trained = _FP32 * sum(piece.trained * share(piece) for piece in found)
    copies = 2.0 * sum(piece.in_blocks for piece in found) if bf16 else 0.0
    if sharded:
        # Two blocks whole, one under way and one ahead, weights and gradients.
        copies += 2 * 2 * _FP32 * 12 * shape.width**2
    rank_batch = config.optim.global_batch // num_gpus
    by_parts = 0 < config.optim.micro_batch < rank_batch
    in_flight = config.optim.micro_batch if by_parts else rank_batch
    pixels = 3 * config.model.image_size**2
    # Gradients of the block under way, beside what is kept: of 4 W before and after its GELU, of what goes in and out.
    views = len(needs.views)
    transient = views * seen_length(config.model) * shape.width * (8 * element + 2 * _FP32)
    return Memory(
        weights=trained,
        gradients=trained,
        moments=2 * trained,
        average=trained if config.ema_decay else 0.0,
        momentum=_FP32 * sum(piece.frozen * share(piece) for piece in found),
        copies=copies,
        pictures=rank_batch * pixels * (_BATCHES_ON_DEVICE * views * element + 2 * _FP32),
        features=rank_batch * _feature_bytes(config, needs, element, by_parts=by_parts),
        activations=in_flight * (activation_bytes(config, text_length, element) + transient),
        losses=_loss_bytes(config, needs, rank_batch),
    )
