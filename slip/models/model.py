"""The network of every objective: an image tower, and beside it a text tower, an SSL head, or both.

Parameters carry the published names (github.com/facebookresearch/SLIP), which is why the text tower's parts lie flat
in `Model`. Shape letters: B samples on this rank, S side of a view in pixels, L tokens, D width of the shared
embedding, E width of the SSL embedding, W width of a tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slip.models.heads import SSLHead
from slip.models.text import TextShape, Transformer, at_end_token

if TYPE_CHECKING:
    from slip.data.view_params import ViewKind

LOGIT_SCALE_START = math.log(1 / 0.07)
LOGIT_SCALE_MAX = math.log(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """What a forward pass gives the objective, in float32 or wider, not normalised; None or () where not asked for."""

    image: Tensor | None = None
    """(B, D), of the clip view."""
    text: Tensor | None = None
    """(B, D), row i captions row i of `image`."""
    ssl: tuple[Tensor, ...] = ()
    """One (B, E) for each ssl view."""
    logit_scale: Tensor | None = None
    """Scalar 1 / temperature, exponentiated."""


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Model(nn.Module):
    """Towers and heads; one call per step embeds all views and captions, so DDP sees every parameter used once."""

    def __init__(
        self, *, visual: nn.Module, visual_width: int, embed_dim: int, text: TextShape | None, head: SSLHead | None
    ) -> None:
        super().__init__()
        self.visual = visual
        self.has_text = text is not None
        if text is not None:
            self.transformer = Transformer(text)
            self.token_embedding = nn.Embedding(text.vocabulary, text.width)
            self.positional_embedding = nn.Parameter(torch.empty(text.context, text.width))
            self.ln_final = nn.LayerNorm(text.width)
            self.image_projection = nn.Parameter(torch.empty(visual_width, embed_dim))
            self.text_projection = nn.Parameter(torch.empty(text.width, embed_dim))
            self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START))
            nn.init.normal_(self.token_embedding.weight, std=0.02)
            nn.init.normal_(self.positional_embedding, std=0.01)
            nn.init.normal_(self.image_projection, std=visual_width**-0.5)
            nn.init.normal_(self.text_projection, std=text.width**-0.5)
        self.image_mlp = head

    def image_features(self, image_B3SS: Tensor) -> Tensor:
        """The image tower's feature, before any projection: (B, W). Linear probes read it."""
        feature_BW: Tensor = self.visual(image_B3SS)
        return feature_BW

    def _project(self, feature_BW: Tensor, projection_WD: Tensor) -> Tensor:
        # Both towers end in a layer norm, which autocast leaves in float32; the last product stays there, too.
        with torch.autocast(feature_BW.device.type, enabled=False):
            return _widen(feature_BW) @ _widen(projection_WD)

    def encode_image(self, image_B3SS: Tensor) -> Tensor:
        """Pictures in the space shared with captions (B, D); without a text tower the tower's feature (B, W)."""
        feature_BW = self.image_features(image_B3SS)
        return self._project(feature_BW, self.image_projection) if self.has_text else _widen(feature_BW)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Captions in the space shared with pictures: (B, D).

        L may be anything up to the context length that no caption's end token exceeds: the transformer is causal,
        so tokens after the end cannot change the feature there.
        """
        x_BLW = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        feature_BW = self.ln_final(at_end_token(self.transformer(x_BLW), tokens_BL))
        return self._project(feature_BW, self.text_projection)

    def forward(self, views: tuple[Tensor, ...], kinds: tuple[ViewKind, ...], tokens: Tensor | None) -> Embeddings:
        """Embed the views of B samples, each as its kind asks, and their captions."""
        if len({view.shape for view in views}) == 1:
            features = self.image_features(torch.cat(views)).chunk(len(views))
        else:
            features = tuple(self.image_features(view) for view in views)
        image: Tensor | None = None
        ssl: list[Tensor] = []
        for feature_BW, kind in zip(features, kinds, strict=True):
            if kind == "clip":
                image = self._project(feature_BW, self.image_projection)
            else:
                assert self.image_mlp is not None
                # View by view, as published: each has its own batch statistics.
                ssl.append(_widen(self.image_mlp(feature_BW)))
        if tokens is None:
            return Embeddings(image=image, ssl=tuple(ssl))
        return Embeddings(
            image=image, text=self.encode_text(tokens), ssl=tuple(ssl), logit_scale=_widen(self.logit_scale).exp()
        )

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep 1 / temperature between 1 and 100; called after every optimizer step."""
        if self.has_text:
            self.logit_scale.clamp_(0.0, LOGIT_SCALE_MAX)
