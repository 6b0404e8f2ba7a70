"""From settings to a network: which towers and heads an objective needs, at which size, from which seed."""

from __future__ import annotations

import torch

from slip.config import ModelConfig, ObjectiveConfig
from slip.models.heads import SSLHead
from slip.models.image import IMAGE_SHAPES, image_tower
from slip.models.model import Model
from slip.models.text import text_shape
from slip.objectives.registry import objective as find_objective


def build_model(model: ModelConfig, objective: ObjectiveConfig, *, seed: int = 0) -> Model:
    """Build the network an objective trains, on the CPU (or the device of an enclosing `torch.device` context).

    Initial weights depend on the settings and the seed only, and torch's global random state is left as it was.
    Towers of equal shape start from the same weights under every objective.
    """
    needs = find_objective(objective)
    width = IMAGE_SHAPES[model.tower].width
    draw = torch.Generator(device="cpu").manual_seed(seed)
    visual_seed, head_seed, text_seed = torch.randint(2**62, (3,), generator=draw, device="cpu").tolist()
    # The CPU's generator alone: torch.manual_seed would also seed every GPU's, which fork_rng then must restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(visual_seed)
        visual = image_tower(model.tower, model.image_size)
        torch.default_generator.manual_seed(head_seed)
        head = SSLHead(width, model.ssl_hidden, model.ssl_dim) if "ssl" in needs.views else None
        torch.default_generator.manual_seed(text_seed)
        return Model(
            visual=visual,
            visual_width=width,
            embed_dim=model.embed_dim,
            text=text_shape(model.tower, model.context_length) if needs.needs_text else None,
            head=head,
        )
