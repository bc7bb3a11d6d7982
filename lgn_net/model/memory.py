"""The memory of prototypes: look up, update (paper, Section III-B)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.distributed import reduce


class Lookup(NamedTuple):
    """What a memory finds for queries: shared by decoder, losses, distance and update. N = B*h*w, in the order of B."""

    prototypes: Tensor     # (B, D, h, w)   F_glo: what the decoder sees
    queries: Tensor        # (B, D, h, w)   of unit length over D
    similarity: Tensor     # (N, M)         cosines of queries and items
    nearest: Tensor        # (N, 2)         indices of the most and the second most similar item

    @property
    def flat(self) -> Tensor:
        """Queries as rows, (N, D), in the order b, row, column."""
        return self.queries.permute(0, 2, 3, 1).flatten(0, 2)

    def part(self, first: int, end: int) -> "Lookup":
        """Keep some of the B frames, without gradients."""
        rows = len(self.similarity) // len(self.queries)
        return Lookup(*(x[first:end].detach() for x in self[:2]),
                      *(x[rows * first:rows * end].detach() for x in self[2:]))


class PrototypeMemory(nn.Module):
    """M unit vectors of D features that stand for normality. They are a buffer: no gradient ever reaches them.

    All arithmetic is in float32, also under autocast, since bfloat16 similarities tie.

    Args:
        num_items: M, at least 2, since the separateness loss needs a second nearest item.
        dim: D.
        read_grad: let the prediction loss reach the queries through the read weights (eq. 2-3). The authors' code
            detaches the read weights; see docs/differences.md, 1.
        update_max: take the maximum in the update weights over "all" queries of the batch (authors' code) or over
            the item's "own" queries (eq. 6); see docs/differences.md, 3.
    """

    def __init__(self, num_items: int, dim: int, read_grad: bool = False, update_max: str = "all"):
        super().__init__()
        self.items: Tensor
        self.register_buffer("items", F.normalize(torch.rand(num_items, dim), dim=1))     # (M, D)
        self.read_grad = read_grad
        self.update_max = update_max

    def lookup(self, queries: Tensor) -> Lookup:
        """Compare queries (B, D, h, w), of unit length over D, with all items and read prototypes (eq. 2-3)."""
        B, D, h, w = queries.shape
        with torch.autocast(queries.device.type, enabled=False):
            flat = queries.float().permute(0, 2, 3, 1).flatten(0, 2)                       # (N, D)
            similarity = flat @ self.items.T                                               # (N, M)
            weights = similarity.softmax(dim=1)                                            # (N, M): over items
            if not self.read_grad:
                weights = weights.detach()    # the prediction loss stops here, see docs/differences.md, 1
            prototypes = (weights @ self.items).view(B, h, w, D).permute(0, 3, 1, 2)       # (B, D, h, w)
        return Lookup(prototypes, queries, similarity, similarity.detach().topk(2, dim=1).indices)

    @torch.no_grad()
    def update_(self, lookup: Lookup) -> Tensor:
        """Move every item towards the queries whose nearest item it is, and normalise it again (eq. 4-6).

        An item that is nobody's nearest stays. In training on several processes the queries of all processes count,
        and the items stay the same everywhere. Returns the number of queries whose nearest item each is, (M,).
        """
        M, shared = len(self.items), self.training
        similarity = lookup.similarity                                                     # (N, M)
        chosen = F.one_hot(lookup.nearest[:, 0], M).float()                                # (N, M): 1 at the nearest
        counted = similarity if self.update_max == "all" else torch.where(chosen > 0, similarity, -1.0)
        highest = torch.cat([counted, counted.new_full((1, M), -1.0)]).amax(dim=0)         # (M,), -1 for no query
        if shared:
            highest = reduce(highest, "MAX")
        weight = chosen * torch.exp(similarity - highest)                                  # (N, M) in [0, 1]
        with torch.autocast(similarity.device.type, enabled=False):
            moves = weight.T @ lookup.flat.float()                     # (M, D)
        moves = torch.cat([moves, chosen.sum(dim=0)[:, None]], dim=1)                      # one reduction for both
        moves, count = (reduce(moves) if shared else moves).split([self.items.shape[1], 1], dim=1)
        self.items.copy_(torch.where(count > 0, F.normalize(self.items + moves, dim=1), self.items))
        return count[:, 0]

    @torch.no_grad()
    def redundancy(self) -> float:
        """Return the mean cosine of two different items; near 1 all items are the same."""
        M = len(self.items)
        return ((self.items.sum(dim=0).square().sum() - M) / (M * (M - 1))).item()
