"""The memory of prototypes: read, nearest items, update."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrototypeMemory(nn.Module):
    """M unit vectors of D features that stand for normality. A buffer, not a parameter: no gradient ever reaches it.

    Similarity of query and item is their dot product, the cosine, since both have unit length. All arithmetic is in
    float32, also under autocast: bfloat16 similarities tie.

    Args:
        num_items: M, at least 2 (separateness needs a second nearest item).
        dim: D.
        read_grad: let the prediction loss reach the queries through the read weights (paper, eq. 2-3). The authors'
            code detaches them; see docs/differences.md, 1.
        update_max: over which queries the maximum in the update weights is taken: "all" of the batch (authors' code)
            or the item's "own" (paper, eq. 6); see docs/differences.md, 3.
    """

    def __init__(self, num_items: int, dim: int, read_grad: bool = False, update_max: str = "all"):
        super().__init__()
        self.register_buffer("items", F.normalize(torch.rand(num_items, dim), dim=1))     # (M, D)
        self.read_grad = read_grad
        self.update_max = update_max

    def similarity(self, queries: Tensor) -> Tensor:
        """queries (B, D, h, w) of unit length -> cosines (N, M), N = B*h*w in the order b, row, column."""
        with torch.autocast(queries.device.type, enabled=False):
            return flatten_queries(queries).float() @ self.items.T

    def read(self, queries: Tensor) -> Tensor:
        """queries (B, D, h, w) -> prototypes F_glo (B, D, h, w), each a softmax-weighted mean of items (eq. 2-3)."""
        weights = self.similarity(queries).softmax(dim=1)                                  # (N, M): over items
        if not self.read_grad:
            weights = weights.detach()        # the prediction loss stops here, see docs/differences.md, 1
        with torch.autocast(queries.device.type, enabled=False):
            prototypes = weights @ self.items                                              # (N, D)
        return prototypes.view(*queries.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)

    @torch.no_grad()
    def nearest(self, queries: Tensor, k: int = 1) -> Tensor:
        """queries (B, D, h, w) -> indices (N, k) of the k most similar items, the nearest first."""
        return self.similarity(queries).topk(k, dim=1).indices

    def live_items(self, queries: Tensor) -> int:
        """How many items are the nearest of at least one of the queries (B, D, h, w)."""
        return self.nearest(queries).unique().numel()

    @torch.no_grad()
    def update_(self, queries: Tensor) -> None:
        """Move every item towards the queries (B, D, h, w) it is nearest to (eq. 4-6), and back to unit length.

        Items that no query chose stay as they are.
        """
        similarity = self.similarity(queries)                                              # (N, M)
        score, nearest = similarity.max(dim=1)                                             # (N,), (N,)
        if self.update_max == "all":
            highest = similarity.amax(dim=0)                                               # (M,)
        else:
            highest = torch.full_like(similarity[0], -1.0).scatter_reduce(0, nearest, score, "amax")
        weight = torch.exp(score - highest[nearest])                                       # (N,) in (0, 1]
        flat = flatten_queries(queries).float()
        update = torch.zeros_like(self.items).index_add_(0, nearest, weight[:, None] * flat)
        chosen = torch.zeros_like(highest, dtype=torch.bool).index_fill_(0, nearest, True)
        self.items.copy_(torch.where(chosen[:, None], F.normalize(self.items + update, dim=1), self.items))


def flatten_queries(queries: Tensor) -> Tensor:
    """(B, D, h, w) -> (N, D), N = B*h*w in the order b, row, column."""
    return queries.permute(0, 2, 3, 1).flatten(0, 2)
