"""The loss: prediction, compactness, separateness (eq. 9-12)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lgn_net.config import LossConfig
from lgn_net.model.lgn_net import Output
from lgn_net.model.memory import PrototypeMemory


class Losses(NamedTuple):
    """Scalars. `total` is the weighted sum that is minimised. A further term needs one field here."""

    total: Tensor
    prediction: Tensor
    compactness: Tensor
    separateness: Tensor


def compute_losses(out: Output, target: Tensor, memories: Sequence[PrototypeMemory], weights: LossConfig) -> Losses:
    """Compute L = L_prediction + lambda_c L_compactness + lambda_s L_separateness, with means as in the authors' code.

    The memory losses are averaged over the memories; without a memory they are 0. Items get no gradient.

    Args:
        target: true next frames (B, C, H, W) in [-1, 1].
        memories: those that `out` was looked up in, before this step's update.
        weights: lambda_c, lambda_s, and the margin of the triplet loss, a Euclidean distance.
    """
    prediction = F.mse_loss(out.prediction.float(), target)
    compactness = separateness = prediction.new_zeros(())
    for memory, lookup in zip(memories, out.lookups, strict=True):
        nearest, second = memory.items[lookup.nearest].unbind(1)                              # (N, D), (N, D)
        triplet = F.triplet_margin_loss(lookup.flat, nearest, second, margin=weights.margin)
        compactness = compactness + F.mse_loss(lookup.flat, nearest) / len(memories)
        separateness = separateness + triplet / len(memories)
    total = prediction + weights.compactness * compactness + weights.separateness * separateness
    return Losses(total, prediction, compactness, separateness)
