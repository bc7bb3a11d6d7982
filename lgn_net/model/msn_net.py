"""MSN-Net (ICASSP 2023): prototypes at three scales. Public as an abstract only; what is ours: docs/differences.md."""

import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.lgn_net import Output
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.prototype_branch import Decoder, PrototypeEncoder


class MSNNet(nn.Module):
    """Predicts frame n+1 from n frames whose features at 1/2, 1/4 and 1/8 resolution are rewritten by three memories.

    Args:
        input_frames, channels, base_width: see `LGNNet`.
        memory_items: M of each of the three.
        memory: further arguments of `PrototypeMemory`; its reads pass the gradient on.
    """

    def __init__(self, input_frames: int = 4, channels: int = 3, base_width: int = 64, memory_items: int = 10,
                 **memory: object):
        super().__init__()
        self.local_branch = None
        self.encoder = PrototypeEncoder(input_frames * channels, base_width)
        memory = memory | {"read_grad": True}
        self.memories = nn.ModuleList(PrototypeMemory(memory_items, factor * base_width, **memory)
                                      for factor in (2, 4, 8))
        self.decoder = Decoder(8 * base_width, base_width, channels, skips=(4 * base_width, 2 * base_width, 0))

    def forward(self, clip: Tensor) -> Output:
        """Clip (B, n, C, H, W) in [-1, 1], oldest frame first -> the predicted next frame and each scale's queries."""
        queries, context = self.encode(clip)
        return Output(self.decode(self.read(queries), queries, context), queries)

    def encode(self, clip: Tensor, gates: None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Queries (B, 2w, H/2, W/2), (B, 4w, H/4, W/4), (B, 8w, H/8, W/8), each of unit length; all depends on them."""
        return [F.normalize(features.float(), dim=1) for features in self.encoder(clip)[1:]], {}

    def read(self, queries: list[Tensor]) -> list[Tensor]:
        """The features of each scale, rewritten by its memory."""
        return [memory.read(q) for memory, q in zip(self.memories, queries)]

    def decode(self, prototypes: list[Tensor], queries: list[Tensor], context: dict[str, Tensor]) -> Tensor:
        """What `read` returned -> the predicted frame (B, C, H, W) in [-1, 1]."""
        skip2, skip4, bottom = prototypes
        return self.decoder(bottom, skip4=skip4, skip2=skip2)
