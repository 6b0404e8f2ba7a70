"""The network of every objective: an image tower, and what the objective adds: text tower, heads, momentum tower.

A step goes through it in three parts, so that a batch can pass the towers in parts and the heads as a whole (see
`slip.exact_batch`): `look` (what has no gradient), `features` (the towers), `embed` (heads, batch norm). Parameters
carry the published names (github.com/facebookresearch/SLIP), which is why the text tower's parts lie flat in `Model`.

Shape letters: B samples on this rank, S side of a view in pixels, L tokens, D width of the shared embedding, W width
of a tower, K patches kept.
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slip.config import ModelConfig, SSLName
from slip.models.heads import byol_heads, mocov3_heads, simclr_head
from slip.models.image import ImageTower
from slip.models.inputs import Features, Targets, TowerInputs
from slip.models.momentum import MomentumTower
from slip.models.shapes import IMAGE_SHAPES, TextShape, momentum_grid, num_kept, patch_grid
from slip.models.text import Transformer, at_end_token
from slip.models.text_groups import TextGrouping, mean_length, text_groups
from slip.objectives.embeddings import Embeddings, Pair
from slip.objectives.mim import patch_targets
from slip.objectives.needs import Needs
from slip.objectives.term import widen

LOGIT_SCALE_START = {"softmax": math.log(1 / 0.07), "sigmoid": math.log(10)}
LOGIT_BIAS_START = -10.0
LOGIT_SCALE_MAX = math.log(100)


class Model(nn.Module):
    """Towers and heads."""

    def __init__(self, config: ModelConfig, needs: Needs, *, visual: ImageTower, text: TextShape | None) -> None:
        super().__init__()
        width = IMAGE_SHAPES[config.tower].width
        self.needs = needs
        self.patch = IMAGE_SHAPES[config.tower].patch
        self.num_kept = num_kept(config)
        self.grid, self.momentum_grid = patch_grid(config), momentum_grid(config)
        self.visual = visual
        self.text_grouping: TextGrouping = {"least_rows": 16, "multiple": 1, "context": config.context_length}
        """How captions are grouped by length; see `text_groups`."""
        self.has_text = text is not None
        if text is not None:
            self._add_text(text, width, config.embed_dim, bias=needs.bias)

    def _add_text(self, text: TextShape, visual_width: int, embed_dim: int, *, bias: bool) -> None:
        self.transformer = Transformer(text)
        self.token_embedding = nn.Embedding(text.vocabulary, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.image_projection = nn.Parameter(torch.empty(visual_width, embed_dim))
        self.text_projection = nn.Parameter(torch.empty(text.width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_START["sigmoid" if bias else "softmax"]))
        if bias:
            self.logit_bias = nn.Parameter(torch.tensor(LOGIT_BIAS_START))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.image_projection, std=visual_width**-0.5)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def add_head(self, name: SSLName, config: ModelConfig) -> None:
        """The parameters of one SSL term."""
        width = IMAGE_SHAPES[config.tower].width
        sizes = (width, config.ssl_hidden, config.ssl_dim)
        if name == "simclr":
            self.image_mlp = simclr_head(*sizes)
        elif name == "mocov3":
            self.mocov3_projector, self.mocov3_predictor = mocov3_heads(*sizes)
        elif name == "byol":
            self.byol_projector, self.byol_predictor = byol_heads(*sizes)
        else:
            self.mask_token = nn.Parameter(torch.empty(width))
            self.mim_head = nn.Linear(width, 3 * self.patch**2)
            nn.init.trunc_normal_(self.mask_token, std=0.02)
            nn.init.trunc_normal_(self.mim_head.weight, std=0.02)
            nn.init.zeros_(self.mim_head.bias)

    def add_momentum(self) -> None:
        """The momentum tower, equal to the others as they are now."""
        self.momentum = MomentumTower(self.visual, self.projectors())
        if self.needs.scored_views:
            # The last block's attention is looked at as well.
            cast(ImageTower, self.momentum.visual).set_class_only(False)

    def projectors(self) -> dict[str, nn.Module]:
        """The heads the momentum tower has copies of."""
        names = [name for name in ("mocov3", "byol") if name in self.needs.heads]
        return {name: self.get_submodule(f"{name}_projector") for name in names}

    def encode_image(self, image_B3SS: Tensor) -> Tensor:
        """Pictures in the space shared with captions (B, D); without a text tower the tower's feature (B, W)."""
        feature_BW = self.image_features(image_B3SS)
        return self._project(feature_BW, self.image_projection) if self.has_text else widen(feature_BW)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Captions in the space shared with pictures: (B, D); see `text_features`."""
        return self._project(self.text_features(tokens_BL), self.text_projection)

    def image_features(self, image_B3SS: Tensor) -> Tensor:
        """The image tower's feature, before any projection: (B, W). Linear probes read it."""
        feature_BW: Tensor = self.visual(image_B3SS)
        return feature_BW

    def text_features(self, tokens_BL: Tensor) -> Tensor:
        """The text tower's feature at each caption's end: (B, W).

        L may be anything up to the context length that no caption's end token exceeds: the transformer is causal,
        so tokens after the end cannot change the feature there.
        """
        x_BLW = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        feature_BW: Tensor = self.ln_final(at_end_token(self.transformer(x_BLW), tokens_BL))
        return feature_BW

    def _grouped_text(self, tokens_BL: Tensor, lengths_B: Tensor | None) -> Tensor:
        """`text_features`, captions of like length together: the same numbers for less."""
        if lengths_B is None:
            return self.text_features(tokens_BL)
        groups = text_groups(lengths_B, **self.text_grouping)
        found = []
        for group in groups:
            rows_b = group.rows.to(tokens_BL.device, non_blocking=True)
            tokens_bl = tokens_BL[rows_b, : group.length]
            found.append(self.text_features(F.pad(tokens_bl, (0, group.length - tokens_bl.shape[1]))))
        back_B = torch.cat([group.rows for group in groups]).argsort()
        return torch.cat(found)[back_B.to(tokens_BL.device, non_blocking=True)]

    def text_length(self, lengths_B: Tensor | None) -> float:
        """Tokens computed of a caption, on average, if these pass the tower together; 0 without captions."""
        return mean_length(text_groups(lengths_B, **self.text_grouping)) if lengths_B is not None else 0.0

    def _project(self, feature_BW: Tensor, projection_WD: Tensor) -> Tensor:
        # Both towers end in a layer norm, which autocast leaves in float32; the last product stays there, too.
        with torch.autocast(feature_BW.device.type, enabled=False):
            return widen(feature_BW) @ widen(projection_WD)

    def _seen_by_momentum(self, views: list[Tensor]) -> Tensor:
        together, side = torch.cat(views), self.momentum_grid * self.patch
        if side == together.shape[-1]:
            return together
        return F.interpolate(together, size=(side, side), mode="bilinear", antialias=True, align_corners=False)

    def _most_attended(self, scores_BN: Tensor) -> Tensor:
        """Numbers of the patches to keep (B, K), ascending, from scores on the momentum tower's grid."""
        coarse, fine = self.momentum_grid, self.grid
        scores_B1GG = scores_BN.view(-1, 1, coarse, coarse)
        if coarse != fine:
            scores_B1GG = F.interpolate(scores_B1GG, size=(fine, fine), mode="bilinear", align_corners=False)
        return scores_B1GG.flatten(1).topk(self.num_kept, dim=1).indices.sort(dim=1).values

    @torch.no_grad()
    def look(self, inputs: TowerInputs) -> tuple[TowerInputs, Targets]:
        """What is found without gradient: targets, and with attentive masking the patches to keep (in the inputs)."""
        needs, patches, keep = self.needs, None, inputs.keep
        if needs.hidden_view is not None and inputs.hidden is not None:
            patches = patch_targets(inputs.views[needs.hidden_view], inputs.hidden, self.patch)
        momentum: dict[int, Tensor] = {}
        if needs.momentum_views:
            views = self._seen_by_momentum([inputs.views[number] for number in needs.momentum_views])
            tower, num_views = cast(ImageTower, self.momentum.visual), len(needs.momentum_views)
            if needs.scored_views:
                features, scores = tower.attended(views)
                by_view = dict(zip(needs.momentum_views, scores.chunk(num_views), strict=True))
                keep = tuple(self._most_attended(by_view[number]) for number in needs.scored_views)
            else:
                features = tower.any_size_features(views)
            momentum = dict(zip(needs.momentum_views, features.chunk(num_views), strict=True))
        targets = Targets(momentum=tuple(momentum[number] for number in needs.target_views), patches=patches)
        return dataclasses.replace(inputs, keep=keep), targets

    def features(self, inputs: TowerInputs) -> Features:
        """What the towers make of views and captions."""
        whole = [view for number, view in enumerate(inputs.views) if number != self.needs.hidden_view]
        views: tuple[Tensor, ...] = ()
        if whole:
            together = torch.cat(whole)
            if inputs.keep:
                found: Tensor = self.visual.kept_features(together, torch.cat(inputs.keep))
            else:
                found = self.image_features(together)
            views = found.chunk(len(whole))
        hidden = None
        if inputs.hidden is not None:
            hidden = self.visual.hidden_features(inputs.views[-1], inputs.hidden, self.mask_token)
        text = self._grouped_text(inputs.tokens, inputs.lengths) if inputs.tokens is not None else None
        return Features(views=views, text=text, hidden=hidden)

    def embed(self, features: Features, targets: Targets) -> Embeddings:
        """What the heads make of the features of the whole batch.

        The two views that are compared pass each head one after the other, as published: each has its own batch
        statistics.
        """
        needs = self.needs
        pair: Pair | None = None
        if needs.pair is not None:
            pair = (features.views[needs.pair[0]], features.views[needs.pair[1]])
        found: dict[str, tuple[Pair, Pair]] = {}
        for name, projector in self.projectors().items():
            assert pair is not None
            predictor, follower = self.get_submodule(f"{name}_predictor"), self.momentum.projectors[name]
            queries = cast(Pair, tuple(widen(predictor(projector(view))) for view in pair))
            with torch.no_grad():
                keys = cast(Pair, tuple(widen(follower(target)) for target in targets.momentum))
            found[name] = (queries, keys)
        simclr = None
        if "simclr" in needs.heads:
            assert pair is not None
            simclr = cast(Pair, tuple(widen(self.image_mlp(view)) for view in pair))
        mim = None
        if features.hidden is not None:
            assert targets.patches is not None
            mim = (widen(self.mim_head(features.hidden)), targets.patches)
        images = tuple(self._project(features.views[i], self.image_projection) for i in needs.caption_views)
        has_text = features.text is not None
        return Embeddings(
            image=images,
            text=self._project(features.text, self.text_projection) if features.text is not None else None,
            logit_scale=widen(self.logit_scale).exp() if has_text else None,
            logit_bias=widen(self.logit_bias) if has_text and needs.bias else None,
            simclr=simclr,
            mocov3=found.get("mocov3"),
            byol=found.get("byol"),
            mim=mim,
        )

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep 1 / temperature between 1 and 100; called after every optimizer step."""
        if self.has_text:
            self.logit_scale.clamp_(0.0, LOGIT_SCALE_MAX)

    def update_momentum(self, momentum: float) -> None:
        """Let the momentum tower follow; called after every optimizer step."""
        if self.needs.momentum_views:
            self.momentum.update(self.visual, self.projectors(), momentum)
