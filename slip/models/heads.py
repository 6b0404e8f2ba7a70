"""The head on which views of one picture are compared, with batch norm over the batch of all ranks.

torch's SyncBatchNorm does the same on GPUs only; this one runs on any backend, so what is tested on CPUs is what
trains. Shape letters: B rows on this rank, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slip.distributed import all_reduce_sum, world_size


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` of the rows of all ranks together: same names, same running statistics, exact gradient."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

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
            scale_H = self.weight * torch.rsqrt(squares_H / num_rows + self.eps)
            self._track(mean_H.detach(), squares_H.detach() / (num_rows - 1).clamp(min=1))
            return (centred * scale_H + self.bias).to(x_BH.dtype)

    def _track(self, mean_H: Tensor, unbiased_variance_H: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_H.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance_H.to(self.running_var.dtype), self.momentum)


class SSLHead(nn.Module):
    """Three linear layers, batch norm and ReLU between them (SLIP, 2112.12750, sec. 4.1)."""

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(width, hidden)
        self.bn1 = GlobalBatchNorm1d(hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.bn2 = GlobalBatchNorm1d(hidden)
        self.layer3 = nn.Linear(hidden, dim)

    def forward(self, feature_BW: Tensor) -> Tensor:
        x_BH = torch.relu(self.bn1(self.layer1(feature_BW)))
        x_BH = torch.relu(self.bn2(self.layer2(x_BH)))
        out_BE: Tensor = self.layer3(x_BH)
        return out_BE
