"""Single windows decoded as one CUDA graph: to launch their kernels one by one takes longer than to run them."""

from collections.abc import Callable

import torch
from torch import Tensor

from lgn_net.model.memory import Lookup


class GraphDecoder:
    """A model's `decode`, captured when a first window comes alone; windows decoded at once take the usual way.

    On a CPU, or where PyTorch cannot capture it, it is the usual way for single windows, too.
    """

    def __init__(self, decode: Callable[[list[Lookup], dict[str, Tensor]], Tensor]):
        self.decode, self.replay = decode, torch.compile(decode, backend="cudagraphs", dynamic=False)

    def __call__(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`."""
        if len(lookups[0].queries) > 1:
            return self.decode(lookups, context)
        return self.replay(lookups, context).clone()                          # the next window's overwrites it
