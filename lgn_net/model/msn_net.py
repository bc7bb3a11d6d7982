"""MSN-Net (ICASSP 2023): prototypes at three scales. Public as an abstract only; what is ours: docs/differences.md."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.lgn_net import FramePredictor, MemoryMaker
from lgn_net.model.memory import Lookup
from lgn_net.model.prototype_branch import Decoder, PrototypeEncoder


class MSNNet(FramePredictor):
    """Predicts frame n+1 from n frames whose features at 1/2, 1/4 and 1/8 resolution are rewritten by three memories.

    Args as in `LGNNet`. The memories are of depth 2, 4 and 8 * base_width, and their reads pass the gradient on.
    """

    def __init__(self, make_memory: MemoryMaker, input_frames: int = 4, channels: int = 3, base_width: int = 64):
        super().__init__()
        self.encoder = PrototypeEncoder(input_frames * channels, base_width)
        self.memories: Any = nn.ModuleList(make_memory(factor * base_width) for factor in (2, 4, 8))
        self.decoder = Decoder(8 * base_width, base_width, channels, skips=(4 * base_width, 2 * base_width, 0))

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `FramePredictor.encode`: queries (B, 2w, H/2, W/2), (B, 4w, H/4, W/4), (B, 8w, H/8, W/8); no context."""
        return [F.normalize(features.float(), dim=1) for features in self.encoder(clip)[1:]], {}

    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`."""
        skip2, skip4, bottom = (lookup.prototypes for lookup in lookups)
        return self.decoder(bottom, skip4=skip4, skip2=skip2)
