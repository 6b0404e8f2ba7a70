"""Image towers: timm's vision transformer without a head, read out at the class token, whole or from some patches.

Letters: B pictures, S their side in pixels, N patches of a picture, K of them kept, M of them hidden, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError
from slip.config import ModelConfig
from slip.models.shapes import IMAGE_SHAPES
from slip.torchvision_compat import import_timm

# timm imports torchvision.
import_timm()
from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402
from timm.models import checkpoint_seq  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402


class ReadoutBlock(Block):
    """timm's block; as the last one of a tower that is read out at the class token it computes that token alone.

    The other tokens' queries, projections and MLPs would be thrown away: 20 of 24 T W^2 of the block's products, 7 %
    of a tower of 12 blocks. Keys and values are those of all tokens, so the feature is the same.
    """

    class_only = False
    num_heads: int

    def forward(self, x_BTW: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, T, W) -> (B, T, W), or (B, 1, W)."""
        if not self.class_only:
            whole: Tensor = super().forward(x_BTW, attn_mask, is_causal)
            return whole
        (B, T, W), qkv = x_BTW.shape, self.get_submodule("attn.qkv")
        assert isinstance(qkv, nn.Linear)
        assert qkv.bias is not None
        normal_BTW, weight, bias = self.norm1(x_BTW), qkv.weight, qkv.bias
        heads = (self.num_heads, W // self.num_heads)
        query = F.linear(normal_BTW[:, :1], weight[:W], bias[:W]).view(B, 1, *heads).transpose(1, 2)
        key, value = F.linear(normal_BTW, weight[W:], bias[W:]).view(B, T, 2, *heads).permute(2, 0, 3, 1, 4)
        mixed_B1W = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(B, 1, W)
        attended_B1W = self.get_submodule("attn.proj")(mixed_B1W)
        first_B1W = x_BTW[:, :1] + self.drop_path1(self.ls1(attended_B1W))
        out_B1W: Tensor = first_B1W + self.drop_path2(self.ls2(self.mlp(self.norm2(first_B1W))))
        return out_B1W


class ImageTower(VisionTransformer):
    """timm's VisionTransformer, same parameters and names, that can leave out or hide patches.

    Called as such it gives the feature of each whole picture at the class token: (B, 3, S, S) -> (B, W).
    """

    num_heads: int

    def set_class_only(self, class_only: bool) -> None:
        """Whether the last block computes the class token alone."""
        last = self.blocks[-1]
        assert isinstance(last, ReadoutBlock)
        last.class_only, last.num_heads = class_only, self.num_heads

    def pool(self, x_BTW: Tensor, pool_type: str | None = None) -> Tensor:
        """The class token, copied: a view of the tower's whole output would keep all of it."""
        pooled: Tensor = super().pool(x_BTW, pool_type)
        return pooled.contiguous()

    def _tokens(self, image_B3SS: Tensor, hidden_BM: Tensor | None, mask_token_W: Tensor | None) -> Tensor:
        """Class token and patches with their positions, before the blocks: (B, 1 + N, W)."""
        side, usual = image_B3SS.shape[-1], self.patch_embed.img_size[0]
        x_BNW = self.patch_embed(image_B3SS) if side == usual else self.patch_embed.proj(image_B3SS).flatten(2).mT
        if hidden_BM is not None:
            assert mask_token_W is not None
            hidden_BN1 = torch.zeros(x_BNW.shape[:2], dtype=torch.bool, device=x_BNW.device).scatter(1, hidden_BM, True)
            x_BNW = torch.where(hidden_BN1[..., None], mask_token_W.to(x_BNW.dtype), x_BNW)
        if side == usual:
            tokens: Tensor = self._pos_embed(x_BNW)
        else:
            # Positions of another grid lie between those that were learnt.
            grid = [side // self.patch_embed.patch_size[0]] * 2
            positions = resample_abs_pos_embed(self.pos_embed, grid, self.patch_embed.grid_size)
            assert self.cls_token is not None
            tokens = torch.cat([self.cls_token.expand(len(x_BNW), -1, -1), x_BNW], dim=1) + positions
        return tokens

    def _through_blocks(self, x_BTW: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            x_BTW = checkpoint_seq(self.blocks, x_BTW, use_reentrant=False)
        else:
            x_BTW = self.blocks(x_BTW)
        normal: Tensor = self.norm(x_BTW)
        return normal

    def kept_features(self, image_B3SS: Tensor, keep_BK: Tensor) -> Tensor:
        """Feature of each picture at the class token (B, W), of which only some patches pass the blocks.

        They have their own positions; the others cost nothing (FLIP, 2212.00794, sec. 3). `keep_BK` (int64) holds
        numbers of patches, counted along rows.
        """
        x_BTW = self._tokens(image_B3SS, None, None)
        kept_BKW = x_BTW[:, 1:].gather(1, keep_BK[..., None].expand(-1, -1, x_BTW.shape[-1]))
        return self.pool(self._through_blocks(torch.cat([x_BTW[:, :1], kept_BKW], dim=1)))

    def hidden_features(self, image_B3SS: Tensor, hidden_BM: Tensor, mask_token_W: Tensor) -> Tensor:
        """Features at hidden patches, whose content is replaced by `mask_token_W`: (B, M, W) (BEiT, 2106.08254)."""
        x_BTW = self._through_blocks(self._tokens(image_B3SS, hidden_BM, mask_token_W))
        return x_BTW[:, 1:].gather(1, hidden_BM[..., None].expand(-1, -1, x_BTW.shape[-1]))

    def any_size_features(self, image_B3SS: Tensor) -> Tensor:
        """Feature at the class token (B, W) of pictures of any multiple of the patch size."""
        return self.pool(self._through_blocks(self._tokens(image_B3SS, None, None)))

    def attended(self, image_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Feature at the class token (B, W), and how much it attends to each patch (B, N).

        The picture may be smaller than usual. The attention is the attention from the class token to each patch,
        averaged over the heads of all blocks (A-CLIP, 2212.08653, sec. 3.2 and its code). Only the class token's row
        of each attention is computed a second time.
        """
        seen: list[Tensor] = []

        def note(module: object, inputs: object, qkv_BTX: Tensor) -> None:
            B, T, _ = qkv_BTX.shape
            query, key, _ = qkv_BTX.float().view(B, T, 3, self.num_heads, -1).unbind(dim=2)
            logits_BHT = torch.einsum("bhd,bthd->bht", query[:, 0], key) * query.shape[-1] ** -0.5
            seen.append(logits_BHT.softmax(dim=-1)[:, :, 1:].mean(dim=1))

        products = [block.get_submodule("attn.qkv") for block in self.blocks]
        hooks = [product.register_forward_hook(note) for product in products]
        try:
            feature_BW = self.any_size_features(image_B3SS)
        finally:
            for hook in hooks:
                hook.remove()
        return feature_BW, torch.stack(seen).mean(dim=0)


def image_tower(model: ModelConfig, *, class_only: bool = True) -> ImageTower:
    """A tower for square pictures: (B, 3, image_size, image_size) -> (B, width), initialised as timm does.

    Without `class_only` its last block computes all tokens, for features at hidden patches.
    """
    shape = IMAGE_SHAPES[model.tower]
    if model.image_size < shape.patch or model.image_size % shape.patch:
        raise ConfigError(
            f"--model.image-size is {model.image_size}; tower {model.tower} cuts pictures into patches of "
            f"{shape.patch} x {shape.patch} pixels, so it must be a multiple of {shape.patch}"
        )
    tower = ImageTower(
        img_size=model.image_size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        num_classes=0,
        global_pool="token",
        drop_path_rate=model.drop_path,
        block_fn=ReadoutBlock,
    )
    tower.num_heads = shape.heads
    tower.set_class_only(class_only)
    return tower
