"""From settings to a network: which towers and heads an objective needs, at which size, from which seed."""

from __future__ import annotations

import torch

from slip.config import ModelConfig, ObjectiveConfig, SSLName
from slip.models.image import image_tower
from slip.models.model import Model
from slip.models.shapes import text_shape
from slip.objectives.needs import needs_of

# Heads in the order in which they draw their seeds; the order must never change.
_HEADS: tuple[SSLName, ...] = ("simclr", "mocov3", "byol", "mim")


def build_model(model: ModelConfig, objective: ObjectiveConfig, *, seed: int = 0) -> Model:
    """Build the network an objective trains, on the CPU (or the device of an enclosing `torch.device` context).

    Initial weights depend on the settings and the seed only, and torch's global random state is left as it was.
    Parts of equal shape start from the same weights under every objective.
    """
    needs = needs_of(objective, model)
    draw = torch.Generator(device="cpu").manual_seed(seed)
    visual_seed, simclr_seed, text_seed, *rest = torch.randint(2**62, (6,), generator=draw, device="cpu").tolist()
    head_seeds = dict(zip(_HEADS, [simclr_seed, *rest], strict=True))
    # The CPU's generator alone: torch.manual_seed would also seed every GPU's, which fork_rng then must restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(visual_seed)
        visual = image_tower(model, class_only=needs.hidden_view is None)
        torch.default_generator.manual_seed(text_seed)
        text = text_shape(model.tower, model.context_length) if needs.text else None
        network = Model(model, needs, visual=visual, text=text)
        for name, head_seed in head_seeds.items():
            if name in needs.heads:
                torch.default_generator.manual_seed(head_seed)
                network.add_head(name, model)
        if "mocov3" in needs.heads:
            # Training is unstable with a learnt patch projection (MoCo v3, 2104.02057, sec. 4): it stays random.
            visual.patch_embed.requires_grad_(False)
        if needs.momentum_views:
            network.add_momentum()
        if model.activation_checkpointing:
            visual.set_grad_checkpointing(True)
            if needs.text:
                network.transformer.activation_checkpointing = True
        return network
