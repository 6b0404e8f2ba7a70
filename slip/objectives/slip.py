"""The three objectives as functions of a forward pass's embeddings: CLIP's, SimCLR's, and SLIP, their sum.

Each returns "loss", which is minimised, and its parts for the metrics: "clip" and "ssl" (unweighted terms),
"clip_acc" and "ssl_acc" (shares from 0 to 1 of this rank's rows that pick their partner).
"""

from __future__ import annotations

from torch import Tensor

from slip.config import ObjectiveConfig
from slip.models.model import Embeddings
from slip.objectives.clip import clip_terms
from slip.objectives.simclr import simclr_terms


def clip_objective(found: Embeddings, config: ObjectiveConfig) -> dict[str, Tensor]:
    """CLIP: each picture its caption, each caption its picture."""
    if found.image is None or found.text is None or found.logit_scale is None:
        raise ValueError("the CLIP term needs an image, a text embedding and a logit scale")
    loss, accuracy = clip_terms(found.image, found.text, found.logit_scale)
    return {"loss": loss, "clip": loss.detach(), "clip_acc": accuracy}


def simclr_objective(found: Embeddings, config: ObjectiveConfig) -> dict[str, Tensor]:
    """SimCLR: each view the other view of its picture."""
    if len(found.ssl) != 2:
        raise ValueError(f"the SSL term compares 2 views, found {len(found.ssl)}")
    loss, accuracy = simclr_terms(found.ssl[0], found.ssl[1], config.ssl_temperature)
    return {"loss": loss, "ssl": loss.detach(), "ssl_acc": accuracy}


def slip_objective(found: Embeddings, config: ObjectiveConfig) -> dict[str, Tensor]:
    """SLIP (2112.12750, sec. 3): CLIP's term plus `ssl_scale` times SimCLR's."""
    clip, ssl = clip_objective(found, config), simclr_objective(found, config)
    return {**clip, **ssl, "loss": clip["loss"] + config.ssl_scale * ssl["loss"]}
