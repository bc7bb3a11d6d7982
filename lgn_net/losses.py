"""The three losses: prediction, compactness, separateness."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lgn_net.model.lgn_net import LGNOutput
from lgn_net.model.memory import PrototypeMemory, flatten_queries


class Losses(NamedTuple):
    """Scalars; `total` is the weighted sum that is minimised."""

    total: Tensor
    prediction: Tensor
    compactness: Tensor
    separateness: Tensor


def compute_losses(out: LGNOutput, target: Tensor, memory: PrototypeMemory, compactness_weight: float,
                   separateness_weight: float, margin: float) -> Losses:
    """L = L_prediction + lambda_c L_compactness + lambda_s L_separateness (eq. 9-12; means as in the authors' code).

    Args:
        out: forward pass of the model on B clips.
        target: the true next frames (B, C, H, W) in [-1, 1].
        memory: the items the queries are compared with, before this step's update. They get no gradient.
        compactness_weight, separateness_weight: lambda_c, lambda_s.
        margin: of the triplet loss, in units of Euclidean distance.
    """
    queries = flatten_queries(out.queries)                                     # (N, D)
    nearest, second = memory.nearest(out.queries, k=2).unbind(1)               # (N,), (N,)
    prediction = F.mse_loss(out.prediction.float(), target)
    compactness = F.mse_loss(queries, memory.items[nearest])
    separateness = F.triplet_margin_loss(queries, memory.items[nearest], memory.items[second], margin=margin)
    total = prediction + compactness_weight * compactness + separateness_weight * separateness
    return Losses(total, prediction, compactness, separateness)
