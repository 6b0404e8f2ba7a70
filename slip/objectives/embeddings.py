"""What an objective is a function of: the embeddings of one forward pass, in float32 or wider, not normalised.

Shape letters: B samples on this rank, D width of the shared embedding, E width of an SSL embedding, M hidden patches
of a sample, P values of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """What the heads make of a batch; None or () where the objective does not ask for it."""

    image: tuple[Tensor, ...] = ()
    """(B, D) for each view that is matched with the caption."""
    text: Tensor | None = None
    """(B, D), row i captions row i of every `image`."""
    logit_scale: Tensor | None = None
    """Scalar 1 / temperature, exponentiated."""
    logit_bias: Tensor | None = None
    """Scalar added to the logits of siglip."""
    simclr: Pair | None = None
    """(B, E) of the two views that are compared."""
    mocov3: tuple[Pair, Pair] | None = None
    """Queries and momentum keys, (B, E) each, of the two views that are compared."""
    byol: tuple[Pair, Pair] | None = None
    """Predictions and momentum targets, (B, E) each, of the two views that are compared."""
    mim: Pair | None = None
    """Predicted and true pixels of the hidden patches, (B, M, P)."""

    def rows(self) -> list[Tensor]:
        """Every embedding, first dimension B."""
        pairs = [*(self.mocov3 or ()), *(self.byol or ())]
        singles = [*self.image, *(self.simclr or ()), *(self.mim or ()), *(x for pair in pairs for x in pair)]
        return singles if self.text is None else [*singles, self.text]
