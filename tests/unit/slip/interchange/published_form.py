"""The published networks and checkpoints, stated again from their description, as plainly as can be.

Architecture and names: SLIP (2112.12750) and github.com/facebookresearch/SLIP, models.py and main.py; the image tower
is ViT (2010.11929), as timm names it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def _parts(**modules: nn.Module) -> nn.Module:
    """A module that only holds others."""
    made = nn.Module()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


class Vit(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.patch_embed = _parts(proj=nn.Conv2d(3, width, patch, stride=patch))
        self.blocks = nn.ModuleList(
            _parts(
                norm1=nn.LayerNorm(width, eps=1e-6),
                attn=_parts(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                norm2=nn.LayerNorm(width, eps=1e-6),
                mlp=_parts(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def attend(self, block: nn.Module, x: Tensor) -> Tensor:
        part = block.get_submodule
        heads = []
        for q, k, v in zip(*(y.chunk(self.heads, -1) for y in part("attn.qkv")(x).chunk(3, -1)), strict=True):
            heads.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        out: Tensor = part("attn.proj")(torch.cat(heads, -1))
        return out

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed.get_submodule("proj")(image).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            part = block.get_submodule
            x = x + self.attend(block, part("norm1")(x))
            x = x + part("mlp.fc2")(nn.functional.gelu(part("mlp.fc1")(part("norm2")(x))))
        feature: Tensor = self.norm(x)[:, 0]
        return feature


class Published(nn.Module):
    """CLIP, SIMCLR or SLIP."""

    def __init__(
        self,
        *,
        vit: tuple[int, int, int, int, int],
        text: tuple[int, int, int, int] | None,
        head: tuple[int, int] | None,
        embed: int = 24,
    ) -> None:
        """Vit: width, depth, heads, patch, size; text: width, layers, heads, context; head: hidden and output width."""
        super().__init__()
        self.visual = Vit(*vit)
        if text is not None:
            width, layers, heads, context = text
            self.transformer = _parts(
                resblocks=nn.Sequential(
                    *(
                        _parts(
                            attn=nn.MultiheadAttention(width, heads),
                            ln_1=nn.LayerNorm(width),
                            mlp=_parts(c_fc=nn.Linear(width, 4 * width), c_proj=nn.Linear(4 * width, width)),
                            ln_2=nn.LayerNorm(width),
                        )
                        for _ in range(layers)
                    )
                )
            )
            self.token_embedding = nn.Embedding(49408, width)
            self.positional_embedding = nn.Parameter(torch.randn(context, width))
            self.ln_final = nn.LayerNorm(width)
            self.image_projection = nn.Parameter(torch.randn(vit[0], embed))
            self.text_projection = nn.Parameter(torch.randn(width, embed))
            self.logit_scale = nn.Parameter(torch.tensor(3.0))
        if head is not None:
            hidden, out = head
            self.image_mlp = nn.Sequential()
            self.image_mlp.add_module("layer1", nn.Linear(vit[0], hidden))
            self.image_mlp.add_module("bn1", nn.BatchNorm1d(hidden))
            self.image_mlp.add_module("relu1", nn.ReLU())
            self.image_mlp.add_module("layer2", nn.Linear(hidden, hidden))
            self.image_mlp.add_module("bn2", nn.BatchNorm1d(hidden))
            self.image_mlp.add_module("relu2", nn.ReLU())
            self.image_mlp.add_module("layer3", nn.Linear(hidden, out))
        # Away from what they start as, so that no two can be mistaken for each other.
        for name, tensor in self.state_dict().items():
            if "norm" in name or "ln_" in name or ".bn" in name or name.endswith("bias"):
                tensor.copy_(torch.rand_like(tensor, dtype=torch.float32) + 0.5)

    def encode_image(self, image: Tensor) -> Tensor:
        projected: Tensor = self.visual(image) @ self.image_projection
        return projected

    def encode_text(self, tokens: Tensor) -> Tensor:
        x = (self.token_embedding(tokens) + self.positional_embedding).transpose(0, 1)
        mask = torch.full((len(x), len(x)), float("-inf"), dtype=x.dtype).triu(1)
        for block in self.transformer.get_submodule("resblocks").children():
            part = block.get_submodule
            normal = part("ln_1")(x)
            x = x + part("attn")(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
            hidden = part("mlp.c_fc")(part("ln_2")(x))
            x = x + part("mlp.c_proj")(hidden * torch.sigmoid(1.702 * hidden))
        x = self.ln_final(x.transpose(0, 1))
        projected: Tensor = x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection
        return projected


def save(path: Path, network: nn.Module, *, model: str | None = None, zipped: bool = True, **changed: object) -> str:
    """Write a checkpoint as the published main.py does, after three steps; its path."""
    moments = {"step": 3, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    # The published schedule is a NumPy array, and so the rate in the file is a NumPy number.
    group = {"lr": np.float64(3e-3), "betas": (0.9, 0.98), "weight_decay": 0.1, "params": [0]}
    content: dict[str, object] = {
        "epoch": 25,
        "state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()},
        "optimizer": {"state": {0: moments}, "param_groups": [group]},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "best_acc1": 42.8,
    }
    if model is not None:
        content["args"] = argparse.Namespace(model=model, ssl_temp=0.2, ssl_scale=1.0, betas=(0.9, 0.98), gpu=0)
    torch.save(content | changed, path, _use_new_zipfile_serialization=zipped)
    return str(path)
