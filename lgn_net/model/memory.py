"""The memory of prototypes: read, nearest items, update."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.distributed import broadcast_, gather, reduce_max, reduce_sum


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
        read_temperature: divides the similarities before the softmax of the read; 1 in the paper.
        ema: 0 for the paper's update; else the share that an item keeps of itself when it moves to its queries' mean.
        revive_after: in training, an item that was nobody's nearest for so many updates becomes the query that lies
            farthest from all items; 0 for never.
    """

    def __init__(self, num_items: int, dim: int, read_grad: bool = False, update_max: str = "all",
                 read_temperature: float = 1.0, ema: float = 0.0, revive_after: int = 0):
        super().__init__()
        self.register_buffer("items", F.normalize(torch.rand(num_items, dim), dim=1))     # (M, D)
        self.read_grad = read_grad
        self.update_max = update_max
        self.read_temperature = read_temperature
        self.ema = ema
        self.revive_after = revive_after
        if revive_after:
            self.register_buffer("idle", torch.zeros(num_items, dtype=torch.long))         # updates without a query
        self.register_load_state_dict_pre_hook(fit_idle)

    def similarity(self, queries: Tensor) -> Tensor:
        """Queries (B, D, h, w) of unit length -> cosines (N, M), N = B*h*w in the order b, row, column."""
        with torch.autocast(queries.device.type, enabled=False):
            return flatten_queries(queries).float() @ self.items.T

    def read(self, queries: Tensor) -> Tensor:
        """Queries (B, D, h, w) -> prototypes F_glo (B, D, h, w), each a softmax-weighted mean of items (eq. 2-3)."""
        weights = (self.similarity(queries) / self.read_temperature).softmax(dim=1)        # (N, M): over items
        if not self.read_grad:
            weights = weights.detach()        # the prediction loss stops here, see docs/differences.md, 1
        with torch.autocast(queries.device.type, enabled=False):
            prototypes = weights @ self.items                                              # (N, D)
        return prototypes.view(*queries.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)

    @torch.no_grad()
    def nearest(self, queries: Tensor, k: int = 1) -> Tensor:
        """Queries (B, D, h, w) -> indices (N, k) of the k most similar items, the nearest first."""
        return self.similarity(queries).topk(k, dim=1).indices

    def usage(self, queries: Tensor) -> Tensor:
        """Of how many of the queries (B, D, h, w) each item is the nearest, (M,). An item with none is dead."""
        return torch.bincount(self.nearest(queries)[:, 0], minlength=len(self.items))

    @torch.no_grad()
    def redundancy(self) -> float:
        """Mean cosine between two different items; near 1 they have become one."""
        M = len(self.items)
        return ((self.items.sum(dim=0).square().sum() - M) / (M * (M - 1))).item()

    @torch.no_grad()
    def sample_(self, queries: Tensor) -> Tensor:
        """Make the items anew: M of the queries (B, D, h, w) but zeros, drawn at random; of fewer, only so many.

        Of several processes, the first one draws from its own. Returns what `update_` does, of the items before.
        """
        usage = reduce_sum(self.usage(queries))
        flat = flatten_queries(queries).float()
        flat = flat[flat.any(dim=1)]                                                       # a ReLU can leave zeros
        chosen = flat[torch.randperm(len(flat))[:len(self.items)].to(flat.device)]
        self.items[:len(chosen)] = chosen
        broadcast_(self.items)
        return usage

    @torch.no_grad()
    def update_(self, queries: Tensor) -> Tensor:
        """Move every item towards the queries (B, D, h, w) it is nearest to (eq. 4-6), and back to unit length.

        Items that no query chose stay as they are, unless they are revived. In training on several processes the
        queries are those of all of them, and the items stay the same everywhere.

        Returns:
            of how many queries each item was the nearest, (M,).
        """
        M, shared = len(self.items), self.training
        flat, similarity = flatten_queries(queries).float(), self.similarity(queries)      # (N, D), (N, M)
        score, nearest = similarity.max(dim=1)                                             # (N,), (N,)
        chosen = F.one_hot(nearest, M).float()                                             # (N, M)
        counted = similarity if self.update_max == "all" else torch.where(chosen > 0, similarity, -1.0)
        highest = torch.cat([counted, counted.new_full((1, M), -1.0)]).amax(dim=0)         # (M,)   also of no query
        if shared:
            highest = reduce_max(highest)
        weight = torch.ones_like(score) if self.ema else torch.exp(score - highest[nearest])     # (N,) in (0, 1]
        with torch.autocast(queries.device.type, enabled=False):
            added = (weight[:, None] * chosen).T @ flat                                    # (M, D)
        added = torch.cat([added, chosen.sum(dim=0)[:, None]], dim=1)
        added, count = (reduce_sum(added) if shared else added).split([flat.shape[1], 1], dim=1)
        if self.ema:
            moved = self.ema * self.items + (1 - self.ema) * added / count.clamp_min(1)
        else:
            moved = self.items + added
        self.items.copy_(torch.where(count > 0, F.normalize(moved, dim=1), self.items))
        if self.revive_after and self.training:
            self.idle.copy_(torch.where(count[:, 0] > 0, 0, self.idle + 1))
            dead = (self.idle >= self.revive_after).nonzero()[:, 0]
            if len(dead):
                score = score.masked_fill(~flat.any(dim=1), 2.0)                           # zeros, which a ReLU leaves
                lowest = score.argsort()[:M]
                score, flat = gather(score[lowest]), gather(flat[lowest])
                farthest = score.argsort(stable=True)[:len(dead)]
                farthest = farthest[score[farthest] < 2]                                   # may be fewer
                self.items[dead[:len(farthest)]] = flat[farthest]
                self.idle[dead] = 0
        return count[:, 0]


def fit_idle(memory: PrototypeMemory, state: dict, prefix: str, *_: object) -> None:
    """Weights of a run with another `revive_after`: the counts start at 0, or are left out."""
    name = f"{prefix}idle"
    if not memory.revive_after:
        state.pop(name, None)
    elif name not in state and f"{prefix}items" in state:
        state[name] = torch.zeros_like(memory.idle)


def flatten_queries(queries: Tensor) -> Tensor:
    """(B, D, h, w) -> (N, D), N = B*h*w in the order b, row, column."""
    return queries.permute(0, 2, 3, 1).flatten(0, 2)
