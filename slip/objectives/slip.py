"""The sum that is minimised: an image-text term, self-supervised terms, or SLIP, which is one plus the others.

In: the embeddings of a forward pass. Out: "loss", which is minimised, and its parts for the metrics: "loss/NAME" (terms
without weight) and "acc/NAME" (shares from 0 to 1 of this rank's rows that pick their partner).
"""

from __future__ import annotations

import torch
from torch import Tensor

from slip.config import ObjectiveConfig, SSLName
from slip.objectives.byol import byol_term
from slip.objectives.clip import clip_term
from slip.objectives.embeddings import Embeddings
from slip.objectives.mim import mim_term
from slip.objectives.mocov3 import mocov3_term
from slip.objectives.siglip import siglip_term
from slip.objectives.simclr import simclr_term
from slip.objectives.term import Term


def _mean(terms: list[Term]) -> Term:
    accuracies = [term.accuracy for term in terms if term.accuracy is not None]
    return Term(
        loss=torch.stack([term.loss for term in terms]).mean(),
        accuracy=torch.stack(accuracies).mean() if accuracies else None,
    )


def _image_text(found: Embeddings, config: ObjectiveConfig) -> dict[str, Term]:
    """The image-text term, if the objective has one: the mean over the views matched with the caption."""
    if not found.image:
        return {}
    assert found.text is not None
    assert found.logit_scale is not None
    if found.logit_bias is not None:
        bias = found.logit_bias
        return {"siglip": _mean([siglip_term(image, found.text, found.logit_scale, bias) for image in found.image])}
    return {"clip": _mean([clip_term(image, found.text, found.logit_scale, config.gather) for image in found.image])}


def _self_supervised(found: Embeddings, config: ObjectiveConfig) -> dict[SSLName, Term]:
    """The terms for which there are embeddings."""
    terms: dict[SSLName, Term] = {}
    if found.simclr is not None:
        terms["simclr"] = simclr_term(*found.simclr, config.ssl_temperature)
    if found.mocov3 is not None:
        terms["mocov3"] = mocov3_term(*found.mocov3, config.moco_temperature)
    if found.byol is not None:
        terms["byol"] = byol_term(*found.byol)
    if found.mim is not None:
        terms["mim"] = mim_term(*found.mim)
    return terms


def objective_terms(found: Embeddings, config: ObjectiveConfig) -> dict[str, Tensor]:
    """SLIP (2112.12750, sec. 3): the image-text term plus `ssl_scale` times the SSL terms; alone, each has weight 1."""
    image_text, ssl = _image_text(found, config), _self_supervised(found, config)
    weight = config.ssl_scale if config.name == "slip" else 1.0
    loss = torch.stack([*(t.loss for t in image_text.values()), *(weight * t.loss for t in ssl.values())]).sum()
    parts: dict[str, Tensor] = {"loss": loss}
    for name, term in [*image_text.items(), *ssl.items()]:
        parts[f"loss/{name}"] = term.loss.detach()
        if term.accuracy is not None:
            parts[f"acc/{name}"] = term.accuracy
    return parts
