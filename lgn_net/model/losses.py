"""The three losses: prediction, compactness, separateness."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lgn_net.model.lgn_net import Output
from lgn_net.model.memory import PrototypeMemory, flatten_queries


class Losses(NamedTuple):
    """Scalars; `total` is the weighted sum that is minimised."""

    total: Tensor
    prediction: Tensor
    compactness: Tensor
    separateness: Tensor


def compute_losses(out: Output, target: Tensor, memories: Sequence[PrototypeMemory], compactness_weight: float,
                   separateness_weight: float, margin: float) -> Losses:
    """L = L_prediction + lambda_c L_compactness + lambda_s L_separateness (eq. 9-12; means as in the authors' code).

    Of several memories the losses are averaged; without one they are 0.

    Args:
        out: forward pass of the model on B clips.
        target: the true next frames (B, C, H, W) in [-1, 1].
        memories: whose items the queries are compared with, before this step's update. They get no gradient.
        compactness_weight, separateness_weight: lambda_c, lambda_s.
        margin: of the triplet loss, in units of Euclidean distance.
    """
    prediction = F.mse_loss(out.prediction.float(), target)
    compactness = separateness = prediction.new_zeros(())
    for memory, queries in zip(memories, out.queries, strict=True):
        nearest, second = memory.items[memory.nearest(queries, k=2)].unbind(1)                # (N, D), (N, D)
        flat = flatten_queries(queries)                                                       # (N, D)
        compactness = compactness + F.mse_loss(flat, nearest) / len(memories)
        separateness = separateness + F.triplet_margin_loss(flat, nearest, second, margin=margin) / len(memories)
    total = prediction + compactness_weight * compactness + separateness_weight * separateness
    return Losses(total, prediction, compactness, separateness)
