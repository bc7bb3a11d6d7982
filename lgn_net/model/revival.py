"""Two remedies for items that no query chooses. Neither is published; docs/results.md says what they do."""

import torch
from torch import Tensor

from lgn_net.distributed import collect
from lgn_net.model.memory import Lookup, PrototypeMemory


@torch.no_grad()
def sample_items_(memory: PrototypeMemory, lookup: Lookup) -> None:
    """Replace the items by queries drawn at random (`model.memory_init queries`).

    Queries of zeros, which a ReLU can leave, are not drawn. Where there are fewer queries than items, the other items
    stay. Of several processes the first one draws, from its own queries.
    """
    flat = lookup.flat.float()
    flat = flat[flat.any(dim=1)]                                                           # (N, D)
    drawn = flat[torch.randperm(len(flat))[:len(memory.items)].to(flat.device)]
    memory.items[:len(drawn)] = drawn
    memory.items.copy_(collect(memory.items.cpu())[0])


class RevivingMemory(PrototypeMemory):
    """A memory that replaces items which stay unused in training.

    After `revive_after` updates without a query an item becomes the query that is least similar to its nearest item.
    """

    def __init__(self, num_items: int, dim: int, revive_after: int, **others):
        super().__init__(num_items, dim, **others)
        self.idle: Tensor
        self.register_buffer("idle", torch.zeros(num_items, dtype=torch.long))             # updates without a query
        self.revive_after = revive_after

    @torch.no_grad()
    def update_(self, lookup: Lookup) -> Tensor:
        """Update the items as `PrototypeMemory.update_` does, and in training replace those that were idle too long."""
        count = super().update_(lookup)
        if not self.training:
            return count
        self.idle.copy_(torch.where(count > 0, 0, self.idle + 1))
        dead = (self.idle >= self.revive_after).nonzero()[:, 0]
        if len(dead):
            # Every process offers its least similar queries, and all take the same ones. Zeros are no candidates.
            flat = lookup.flat.float()
            score = lookup.similarity.gather(1, lookup.nearest[:, :1])[:, 0].masked_fill(~flat.any(dim=1), 2.0)
            lowest = score.argsort()[:len(self.items)]
            score, flat = (torch.cat(collect(x[lowest].cpu())).to(x.device) for x in (score, flat))
            farthest = score.argsort(stable=True)[:len(dead)]
            farthest = farthest[score[farthest] < 2]
            self.items[dead[:len(farthest)]] = flat[farthest]
            self.idle[dead] = 0
        return count
