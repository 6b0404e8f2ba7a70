"""What an objective asks of a batch and a model: views, captions, heads, a momentum tower; from the settings alone.

Imports no torch, so a plan of a run can be made without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slip.config import ModelConfig, ObjectiveConfig, SSLName

if TYPE_CHECKING:
    from slip.data.view_params import ViewKind


BLOCK_ELEMENTS = 1 << 25
"""Similarities that a contrast holds at a time: 128 MB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one step takes. Views are numbered in the order in which the model is given them."""

    views: tuple[ViewKind, ...]
    """Augmentation of each view."""
    caption_views: tuple[int, ...]
    """Views matched with the caption; none: captions are not read."""
    pair: tuple[int, int] | None
    """The two views of a picture that simclr, mocov3 and byol compare."""
    hidden_view: int | None
    """The view of which patches are hidden, for mim; always the last."""
    heads: tuple[SSLName, ...]
    """SSL terms, each with heads of its own."""
    bias: bool
    """Whether logits have a learnt bias (siglip)."""
    target_views: tuple[int, ...]
    """Views whose momentum features are targets."""
    scored_views: tuple[int, ...]
    """Views whose patches the momentum tower's attention chooses."""

    @property
    def text(self) -> bool:
        """Whether captions are read."""
        return bool(self.caption_views)

    @property
    def momentum_views(self) -> tuple[int, ...]:
        """Views that pass the momentum tower (without gradient); none: there is no such tower."""
        return tuple(sorted({*self.target_views, *self.scored_views}))

    @property
    def own_views(self) -> tuple[int, ...]:
        """Views that show the SSL terms' picture only, and may be of another data set than the captioned ones."""
        return tuple(number for number in range(len(self.views)) if number not in self.caption_views)


def needs_of(objective: ObjectiveConfig, model: ModelConfig) -> Needs:
    """What training with these settings takes."""
    contrasts_text = objective.name in ("clip", "siglip", "slip")
    heads: tuple[SSLName, ...] = ()
    if objective.name == "slip":
        heads = objective.ssl
    elif objective.name in ("simclr", "mocov3", "byol", "mim"):
        heads = (objective.name,)
    views: list[ViewKind] = []
    caption_views: tuple[int, ...] = ()
    if contrasts_text and objective.clip_view != "shared":
        views.append(objective.clip_view)
        caption_views = (0,)
    pair = None
    if set(heads) - {"mim"}:
        pair = (len(views), len(views) + 1)
        views += ["ssl", "ssl"]
        if contrasts_text and objective.clip_view == "shared":
            caption_views = pair
    hidden_view = None
    if "mim" in heads:
        hidden_view = len(views)
        views.append("ssl")
    seen = tuple(number for number in range(len(views)) if number != hidden_view)
    return Needs(
        views=tuple(views),
        caption_views=caption_views,
        pair=pair,
        hidden_view=hidden_view,
        heads=heads,
        bias=objective.name == "siglip",
        target_views=pair if pair is not None and {"mocov3", "byol"} & set(heads) else (),
        scored_views=seen if model.masking == "attentive" else (),
    )
