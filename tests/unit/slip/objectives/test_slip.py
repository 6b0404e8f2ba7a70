from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from slip.config import ObjectiveConfig, ObjectiveName
from slip.objectives.byol import byol_term
from slip.objectives.clip import clip_term
from slip.objectives.embeddings import Embeddings
from slip.objectives.mim import mim_term
from slip.objectives.mocov3 import mocov3_term
from slip.objectives.siglip import siglip_term
from slip.objectives.simclr import simclr_term
from slip.objectives.slip import objective_terms
from slip.objectives.term import Term

DRAW = torch.Generator().manual_seed(0)


def rows() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64, generator=DRAW).requires_grad_()


IMAGES, TEXT = (rows(), rows()), rows()
SCALE, BIAS = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (5.0, -3.0))
SIMCLR, QUERIES, KEYS, PREDICTIONS, TARGETS, PIXELS = ((rows(), rows()) for _ in range(6))
CLIP = Embeddings(image=IMAGES[:1], text=TEXT, logit_scale=SCALE)
SSL = Embeddings(simclr=SIMCLR, mocov3=(QUERIES, KEYS), byol=(PREDICTIONS, TARGETS), mim=PIXELS)
TERMS: dict[ObjectiveName, Term] = {
    "clip": clip_term(IMAGES[0], TEXT, SCALE),
    "siglip": siglip_term(IMAGES[0], TEXT, SCALE, BIAS),
    "simclr": simclr_term(*SIMCLR, 0.3),
    "mocov3": mocov3_term(QUERIES, KEYS, 0.4),
    "byol": byol_term(PREDICTIONS, TARGETS),
    "mim": mim_term(*PIXELS),
}
ALONE: dict[ObjectiveName, Embeddings] = {
    "clip": CLIP,
    "siglip": dataclasses.replace(CLIP, logit_bias=BIAS),
    "simclr": Embeddings(simclr=SIMCLR),
    "mocov3": Embeddings(mocov3=(QUERIES, KEYS)),
    "byol": Embeddings(byol=(PREDICTIONS, TARGETS)),
    "mim": Embeddings(mim=PIXELS),
}


def config(name: ObjectiveName) -> ObjectiveConfig:
    return ObjectiveConfig(name=name, ssl_scale=0.25, ssl_temperature=0.3, moco_temperature=0.4)


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def metrics(name: ObjectiveName) -> dict[str, float]:
    """What a term adds to the metrics."""
    term = TERMS[name]
    found = {f"loss/{name}": term.loss.item()}
    return found if term.accuracy is None else {**found, f"acc/{name}": term.accuracy.item()}


@pytest.mark.parametrize("name", ALONE)
def test_alone_a_term_has_weight_one(name: ObjectiveName) -> None:
    found = numbers(objective_terms(ALONE[name], config(name)))
    assert found == pytest.approx({"loss": TERMS[name].loss.item(), **metrics(name)}, rel=1e-12)


def test_slip_is_the_weighted_sum_of_its_parts() -> None:
    found = numbers(
        objective_terms(dataclasses.replace(SSL, image=IMAGES[:1], text=TEXT, logit_scale=SCALE), config("slip"))
    )
    ssl: tuple[ObjectiveName, ...] = ("simclr", "mocov3", "byol", "mim")
    loss = TERMS["clip"].loss.item() + 0.25 * sum(TERMS[name].loss.item() for name in ssl)
    expected = {"loss": loss} | metrics("clip")
    for name in ssl:
        expected |= metrics(name)
    assert found == pytest.approx(expected, rel=1e-12)
    assert list(found) == [
        *("loss", "loss/clip", "acc/clip", "loss/simclr", "acc/simclr", "loss/mocov3", "acc/mocov3"),
        *("loss/byol", "loss/mim"),
    ]


def test_views_that_share_a_caption_are_averaged() -> None:
    shared = Embeddings(image=IMAGES, text=TEXT, logit_scale=SCALE)
    terms = [clip_term(image, TEXT, SCALE) for image in IMAGES]
    found = numbers(objective_terms(shared, config("clip")))
    assert found["loss/clip"] == pytest.approx(sum(term.loss.item() for term in terms) / 2, rel=1e-12)
    assert found["acc/clip"] == pytest.approx(
        sum(term.accuracy.item() for term in terms if term.accuracy is not None) / 2, rel=1e-12
    )


def test_gradient_is_that_of_the_sum_and_of_nothing_else() -> None:
    whole = dataclasses.replace(SSL, image=IMAGES[:1], text=TEXT, logit_scale=SCALE)
    terms = objective_terms(whole, config("slip"))
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]
    leaves = (IMAGES[0], TEXT, SCALE, *SIMCLR, *QUERIES, *PREDICTIONS, PIXELS[0])
    ssl: tuple[ObjectiveName, ...] = ("simclr", "mocov3", "byol", "mim")
    total = TERMS["clip"].loss + 0.25 * torch.stack([TERMS[name].loss for name in ssl]).sum()
    torch.testing.assert_close(
        torch.autograd.grad(terms["loss"], leaves),
        torch.autograd.grad(total, leaves, retain_graph=True),
        rtol=0,
        atol=1e-12,
    )


def test_all_embeddings_are_listed() -> None:
    whole = dataclasses.replace(SSL, image=IMAGES, text=TEXT, logit_scale=SCALE)
    assert len(whole.rows()) == 2 + 1 + 2 + 4 + 4 + 2
    assert all(len(x) == 6 for x in whole.rows())
    assert Embeddings().rows() == []
