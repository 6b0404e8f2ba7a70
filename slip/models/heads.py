"""The heads on which views of one picture are compared, with batch norm over the batch of all ranks.

torch's SyncBatchNorm does the same on GPUs only; this one runs on any backend, so what is tested on CPUs is what
trains. Shape letters: B rows on this rank, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slip.distributed import all_reduce_sum, world_size


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` of the rows of all ranks together: same names, same running statistics, exact gradient."""

    def __init__(self, num_features: int, *, affine: bool = True) -> None:
        super().__init__(num_features, affine=affine)

    def forward(self, x_BH: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x_BH)
        with torch.autocast(x_BH.device.type, enabled=False):
            x = x_BH.to(torch.promote_types(x_BH.dtype, torch.float32))
            num_rows = all_reduce_sum(x.new_tensor(float(x.shape[0])))
            mean_H = all_reduce_sum(x.sum(dim=0)) / num_rows
            # A second reduction of centred squares: E[x^2] - E[x]^2 cancels when the mean is large.
            centred = x - mean_H
            squares_H = all_reduce_sum(centred.square().sum(dim=0))
            normal = centred * torch.rsqrt(squares_H / num_rows + self.eps)
            self._track(mean_H.detach(), squares_H.detach() / (num_rows - 1).clamp(min=1))
            return (normal * self.weight + self.bias if self.affine else normal).to(x_BH.dtype)

    def _track(self, mean_H: Tensor, unbiased_variance_H: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_H.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance_H.to(self.running_var.dtype), self.momentum)


class MLPHead(nn.Module):
    """Linear layers with batch norm and ReLU between them: layer1, bn1, layer2, ... as SLIP names them.

    `plain` leaves out the biases that a batch norm after them would take away, and normalises the output as well,
    without scale or shift (MoCo v3, github.com/facebookresearch/moco-v3).
    """

    def __init__(self, width: int, hidden: int, dim: int, *, layers: int, plain: bool = False) -> None:
        super().__init__()
        self.num_layers = layers
        widths = [width, *[hidden] * (layers - 1), dim]
        for number in range(1, layers + 1):
            last = number == layers
            self.add_module(f"layer{number}", nn.Linear(widths[number - 1], widths[number], bias=not plain))
            if not last or plain:
                self.add_module(f"bn{number}", GlobalBatchNorm1d(widths[number], affine=not last))

    def forward(self, x_BH: Tensor) -> Tensor:
        for number in range(1, self.num_layers + 1):
            x_BH = self.get_submodule(f"layer{number}")(x_BH)
            if hasattr(self, f"bn{number}"):
                x_BH = self.get_submodule(f"bn{number}")(x_BH)
            if number < self.num_layers:
                x_BH = torch.relu(x_BH)
        return x_BH


def simclr_head(width: int, hidden: int, dim: int) -> MLPHead:
    """SimCLR's head as SLIP has it (2112.12750, sec. 4.1): three layers."""
    return MLPHead(width, hidden, dim, layers=3)


def mocov3_heads(width: int, hidden: int, dim: int) -> tuple[MLPHead, MLPHead]:
    """MoCo v3's projector (three layers) and predictor (two), all normalised (2104.02057, sec. 5.1)."""
    return MLPHead(width, hidden, dim, layers=3, plain=True), MLPHead(dim, hidden, dim, layers=2, plain=True)


def byol_heads(width: int, hidden: int, dim: int) -> tuple[MLPHead, MLPHead]:
    """BYOL's projector and predictor, two layers each, their output not normalised (2006.07733, sec. 3.3)."""
    return MLPHead(width, hidden, dim, layers=2), MLPHead(dim, hidden, dim, layers=2)
