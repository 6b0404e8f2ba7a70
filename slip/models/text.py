"""CLIP's text transformer (2103.00020, sec. 2.4): causal, pre-norm, QuickGELU; published parameter names.

Shape letters: B captions, L tokens of the longest caption, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from slip.models.shapes import TextShape


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        B, L, W = x_BLW.shape
        qkv = F.linear(x_BLW, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(B, L, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(B, L, W))
        return out


class Mlp(nn.Module):
    """Two linear layers with QuickGELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        hidden = self.c_fc(x_BLW)
        out: Tensor = self.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return out


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy and added back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = CausalAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        x_BLW = x_BLW + self.attn(self.ln_1(x_BLW))
        out: Tensor = x_BLW + self.mlp(self.ln_2(x_BLW))
        return out


class Transformer(nn.Module):
    """The stack of blocks, initialised as published."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.activation_checkpointing = False
        """Keep only what enters each block, and compute the rest again for the gradient."""
        self.resblocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        # What a block adds to the residual stream starts smaller the more of them there are (GPT-2's rule).
        residual_std = shape.width**-0.5 * (2 * shape.layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj_weight, std=shape.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * shape.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)

    def forward(self, x_BLW: Tensor) -> Tensor:
        for block in self.resblocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BLW = checkpoint(block, x_BLW, use_reentrant=False)
            else:
                x_BLW = block(x_BLW)
        return x_BLW


def at_end_token(x_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
    """Row of each caption's end token, the highest id of the vocabulary: (B, L, W) -> (B, W)."""
    return x_BLW[torch.arange(len(x_BLW), device=x_BLW.device), tokens_BL.argmax(dim=-1)]
