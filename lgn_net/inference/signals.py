"""The signals of a predicted frame: PSNR, regular score R, distance D (eq. 7-8, 13-14)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lgn_net.model.memory import Lookup, PrototypeMemory

FINEST = 1e-12     # mean squared error below which a prediction counts as perfect: 120 dB at peak 1


def psnr(predicted: Tensor, target: Tensor, peak: str = "one") -> Tensor:
    """Compute the PSNR in dB, (B,), of frames (B, C, H, W) in [-1, 1], compared on [0, 1] (eq. 13).

    `peak` is "one", or the maximum of the "prediction" (docs/differences.md, 6).
    """
    mse = ((predicted - target) / 2).square().mean(dim=(1, 2, 3)).clamp_min(FINEST)
    top = 1.0 if peak == "one" else ((predicted + 1) / 2).amax(dim=(1, 2, 3)).square().clamp_min(FINEST)
    return 10 * torch.log10(top / mse)


def regular_score(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute R = sum((1 - exp(-e)) e) / sum(1 - exp(-e)) over the squared errors e of each frame, (B,) (eq. 7-8).

    R has the scale of a squared error on [0, 1] (docs/differences.md, 7). Frames as in `psnr`.
    """
    error = ((predicted - target) / 2).square()                               # (B, C, H, W), on [0, 1]
    weight = -torch.expm1(-error)                                             # 1 - exp(-e)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight * error).sum(dim=(1, 2, 3)) / total


def query_distance(lookup: Lookup, memory: PrototypeMemory) -> Tensor:
    """Compute D, (B,): mean of (q - nearest item)^2 over h*w*D entries of queries (eq. 14; docs/differences.md, 5)."""
    nearest = memory.items[lookup.nearest[:, 0]]                              # (B*h*w, D)
    difference = F.mse_loss(lookup.flat, nearest, reduction="none")
    return difference.reshape(len(lookup.queries), -1).mean(dim=1)
