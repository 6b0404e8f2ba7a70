"""What a network costs: parameters of its parts, and floating-point operations (FLOPs) of a sample that is trained on.

In: settings. Out: numbers, by arithmetic alone; no torch is imported. Matrix products, convolutions and attention are
counted, a multiplication with its addition as 2 FLOPs (as torch's FlopCounterMode does, and as published). Causal
attention counts whole.

Model FLOPs are those the mathematics asks for: a forward pass, and twice that for the gradient of what is trained; MFU
is made of them. Hardware FLOPs add what is computed again to save memory: time is made of them.

Letters: N patches of a view, T positions of a sequence, W width, G samples of the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from slip.config import ModelConfig, ObjectiveConfig, SSLName, TrainConfig
from slip.models.shapes import IMAGE_SHAPES, ImageShape, momentum_grid, num_hidden, num_kept, patch_grid, text_shape
from slip.objectives.needs import Needs, needs_of

PartName = Literal["image tower", "text tower", "heads", "momentum tower"]
PARTS: tuple[PartName, ...] = ("image tower", "text tower", "heads", "momentum tower")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Parameters that lie alike on the ranks."""

    part: PartName
    trained: int
    frozen: int = 0
    in_blocks: int = 0
    """Those of `trained` that enter matrix products of blocks and heads."""
    sharded: bool = False
    """Whether FSDP leaves each rank a share (see slip.parallel)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFlops:
    """FLOPs of one sample with all its views and its caption."""

    image_forward: float
    """Image tower, one view as it is trained on (masked where `masking` says so), forward."""
    text_forward: float
    """Text tower, one caption, forward; 0 without one."""
    model: float
    """Forward and backward, nothing computed twice."""
    hardware: float
    """The same with what is computed twice."""

    @property
    def repeated(self) -> float:
        """Hardware FLOPs for each of the model's: 1 where nothing is computed twice."""
        return self.hardware / self.model


def _patch_values(model: ModelConfig) -> int:
    return 3 * IMAGE_SHAPES[model.tower].patch ** 2


def _block_parameters(width: int) -> int:
    """Attention (4 W^2 and biases), MLP (8 W^2 and biases), two layer norms."""
    return 12 * width**2 + 13 * width


def _head_layers(name: SSLName, model: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths along projector and predictor; () where there is none. See slip.models.heads."""
    width, hidden, dim = IMAGE_SHAPES[model.tower].width, model.ssl_hidden, model.ssl_dim
    if name == "simclr":
        return (width, hidden, hidden, dim), ()
    if name == "mocov3":
        return (width, hidden, hidden, dim), (dim, hidden, dim)
    if name == "byol":
        return (width, hidden, dim), (dim, hidden, dim)
    return (), ()


def _products(widths: tuple[int, ...]) -> int:
    """Multiplications of one row through linear layers: (768, 4096, 256) -> 768 * 4096 + 4096 * 256."""
    return sum(before * after for before, after in pairwise(widths))


def _mlp_parameters(widths: tuple[int, ...], *, plain: bool) -> int:
    """Of an MLPHead: weights; biases unless `plain`; scale and shift of the batch norms between layers."""
    biases = 0 if plain else sum(widths[1:])
    return _products(widths) + biases + 2 * sum(widths[1:-1])


def _head_parameters(name: SSLName, model: ModelConfig) -> tuple[int, int]:
    """Parameters of projector and predictor."""
    if name == "mim":
        width, values = IMAGE_SHAPES[model.tower].width, _patch_values(model)
        return width + width * values + values, 0
    projector, predictor = _head_layers(name, model)
    plain = name == "mocov3"
    return _mlp_parameters(projector, plain=plain), _mlp_parameters(predictor, plain=plain) if predictor else 0


def pieces(model: ModelConfig, objective: ObjectiveConfig) -> tuple[Piece, ...]:
    """All parameters of the network that slip.models.registry.build_model builds."""
    needs, shape = needs_of(objective, model), IMAGE_SHAPES[model.tower]
    width, num_patches = shape.width, patch_grid(model) ** 2
    embedding = _patch_values(model) * width + width
    blocks = shape.depth * _block_parameters(width)
    # Class token, positions, last layer norm.
    visual = blocks + width + (num_patches + 1) * width + 2 * width
    # With mocov3 the patch projection stays as it was drawn.
    frozen = embedding if "mocov3" in needs.heads else 0
    image = Piece(
        part="image tower", trained=visual + embedding - frozen, frozen=frozen, in_blocks=blocks, sharded=True
    )
    found = [image]
    heads = sum(sum(_head_parameters(name, model)) for name in needs.heads)
    shared = 0
    if needs.text:
        text = text_shape(model.tower, model.context_length)
        text_blocks = text.layers * _block_parameters(text.width)
        found.append(Piece(part="text tower", trained=text_blocks, in_blocks=text_blocks, sharded=True))
        found.append(Piece(part="text tower", trained=(text.vocabulary + text.context) * text.width + 2 * text.width))
        # Both projections and the logits' scale (and bias).
        shared = (width + text.width) * model.embed_dim + 1 + needs.bias
    if heads + shared:
        found.append(Piece(part="heads", trained=heads + shared, in_blocks=heads))
    if needs.momentum_views:
        followed = sum(_head_parameters(name, model)[0] for name in ("mocov3", "byol") if name in needs.heads)
        found.append(Piece(part="momentum tower", trained=0, frozen=visual + embedding, sharded=True))
        found.append(Piece(part="momentum tower", trained=0, frozen=followed))
    return tuple(found)


def blocks_flops(length: int, width: int, depth: int) -> float:
    """Forward pass of one sequence through transformer blocks: 24 T W^2 for products, 4 T^2 W for attention, each."""
    return float(depth * (24 * length * width**2 + 4 * length**2 * width))


def tower_flops(length: int, shape: ImageShape, *, class_only: bool) -> float:
    """Forward pass of a view through the image tower's blocks.

    With `class_only` the last block computes keys and values of all tokens, everything else of the class token only.
    """
    if not class_only:
        return blocks_flops(length, shape.width, shape.depth)
    last = 4 * length * shape.width**2 + 20 * shape.width**2 + 4 * length * shape.width
    return blocks_flops(length, shape.width, shape.depth - 1) + last


def seen_length(model: ModelConfig) -> int:
    """Positions of the image tower for a view in training: class token and patches, those kept where there is
    masking."""
    return 1 + (patch_grid(model) ** 2 if model.masking == "none" else num_kept(model))


def _embedding_flops(model: ModelConfig) -> float:
    """The patch projection of a whole view: masking leaves patches out after it."""
    return 2.0 * patch_grid(model) ** 2 * _patch_values(model) * IMAGE_SHAPES[model.tower].width


def _heads_flops(needs: Needs, model: ModelConfig, objective: ObjectiveConfig, global_batch: int) -> float:
    """Heads, projections and losses with their gradients, momentum heads without: model FLOPs of a sample."""
    width, total = IMAGE_SHAPES[model.tower].width, 0.0
    # A contrast with K keys of width D is 2 K D FLOPs for similarities and as many for each of two gradients.
    contrast = 6.0 * global_batch
    for name in needs.heads:
        projector, predictor = _head_layers(name, model)
        total += 3 * 2 * 2.0 * (_products(projector) + _products(predictor))
        if name in ("mocov3", "byol"):
            total += 2 * 2.0 * _products(projector)
        if name == "mim":
            total += 3 * 2.0 * num_hidden(model) * width * _patch_values(model)
        # Both views; for simclr among all other views, for mocov3 among the momentum tower's keys.
        total += {"simclr": 4.0, "mocov3": 2.0}.get(name, 0.0) * contrast * model.ssl_dim
    if needs.text:
        text_width, views = text_shape(model.tower, model.context_length).width, len(needs.caption_views)
        total += 3 * 2.0 * model.embed_dim * (views * width + text_width)
        # Softmax contrasts go both ways; a sigmoid's pairs are looked at once.
        ways = 1 if objective.name == "siglip" else 2
        total += ways * views * contrast * model.embed_dim
    return total


def sample_flops(config: TrainConfig, text_length: int | None = None, *, ranks: int = 1) -> SampleFlops:
    """FLOPs of a sample, as the settings train it.

    Args:
        text_length: tokens computed of a caption, on average (see `slip.models.text_groups`); None: the context length,
            which none exceeds.
        ranks: GPUs; a micro-batch as large as a rank's share of the batch repeats nothing.
    """
    model, needs = config.model, needs_of(config.objective, config.model)
    shape, whole = IMAGE_SHAPES[model.tower], 1 + patch_grid(model) ** 2
    embedding = _embedding_flops(model)

    hides = needs.hidden_view is not None
    seen = tower_flops(seen_length(model), shape, class_only=not hides)
    image_blocks = (len(needs.views) - hides) * seen
    if hides:
        image_blocks += tower_flops(whole, shape, class_only=False)
    text = 0.0
    if needs.text:
        length = model.context_length if text_length is None else text_length
        size = text_shape(model.tower, model.context_length)
        text = blocks_flops(length, size.width, size.layers)
    embeddings = len(needs.views) * embedding
    # Pictures need no gradient, so the patch projection has one for its weights alone; with mocov3 not even that.
    trained = 3 * (image_blocks + text) + (1 if "mocov3" in needs.heads else 2) * embeddings
    smaller = (momentum_grid(model) / patch_grid(model)) ** 2
    seen_by_momentum = 1 + momentum_grid(model) ** 2
    followed = tower_flops(seen_by_momentum, shape, class_only=not hides and not needs.scored_views)
    momentum = len(needs.momentum_views) * (followed + smaller * embedding)
    # Attentive masking computes the class token's row of each attention once more.
    if needs.scored_views:
        momentum += len(needs.momentum_views) * shape.depth * 2.0 * seen_by_momentum * shape.width
    total = trained + momentum + _heads_flops(needs, model, config.objective, config.optim.global_batch)
    repeated = 0.0
    if 0 < config.optim.micro_batch < config.optim.global_batch / ranks:
        repeated += image_blocks + text + embeddings
    if model.activation_checkpointing:
        repeated += image_blocks + text
    return SampleFlops(image_forward=embedding + seen, text_forward=text, model=total, hardware=total + repeated)


def flops_per_sample(config: TrainConfig, text_length: int | None = None) -> float:
    """Model FLOPs of a trained sample: what MFU is made of."""
    return sample_flops(config, text_length).model
