"""LGN-Net's decoder with less to compute once the memory is read; equal to it up to rounding. On a CPU, in float32."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.memory import Lookup


def shorten(model: nn.Module) -> bool:
    """Give a network a `ShortDecoder`, in place, where it fits; return whether it does.

    It fits LGN-Net and LGN-ST: local features, a memory of far fewer items than features, no skips.
    """
    network: Any = model
    if type(model) is not LGNNet or not network.local_branch or not network.memory or network.skips \
            or 4 * len(network.memory.items) > network.memory.items.shape[1]:
        return False
    head, short = network.decoder.head[0], ShortDecoder(network)
    network.local_branch.deconv.append(half(head, 1))
    network.decoder, network.decode = short, short.decode        # which takes more of a lookup than its prototypes
    if network.concat_query:
        network.encode = short.encode
    return True


def half(conv: Any, which: int) -> nn.Conv2d:
    """Make a convolution of the first (0) or second (1) half of a 3x3 convolution's input channels, without a bias."""
    part = nn.Conv2d(conv.in_channels // 2, conv.out_channels, 3, padding=1, bias=False, device="meta")
    weight = conv.weight.chunk(2, dim=1)[which]
    part.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    return part


class ShortDecoder(nn.Module):
    """D_lg, whose first convolution is of M read weights in place of D features: the items are convolved instead.

    Local features, and queries where the decoder gets them, have passed their half of a convolution already.
    """

    def __init__(self, network: Any):
        super().__init__()
        decoder, self.memory, D = network.decoder, network.memory, network.memory.items.shape[1]
        first, head = decoder.block4[0], decoder.head[0]
        self.weight, self.bias = first.weight[:, -D:].detach(), first.bias
        self.of_queries = half(first, 0) if network.concat_query else None
        self.encode_all = network.encode
        self.block4, self.up4, self.block3, self.up3 = decoder.block4[1:], decoder.up4, decoder.block3, decoder.up3
        self.block2, self.up2, self.tail = decoder.block2, decoder.up2, decoder.head[1:]
        self.head = half(head, 0)
        self.head.bias = head.bias
        self.items = self.kernels = torch.zeros(0)

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `FramePredictor.encode`; the context has the first convolution of the queries, too."""
        queries, context = self.encode_all(clip, gates)
        return queries, context | {"queries": self.of_queries(queries[0])}                     # type: ignore[misc]

    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`; the context's "local" has passed the head's first convolution."""
        lookup, = lookups
        if not torch.equal(self.items, self.memory.items):
            self.items = self.memory.items.clone()
            self.kernels = torch.einsum("kcij,mc->kmij", self.weight, self.items)              # (8 * width, M, 3, 3)
        B, _, h, w = lookup.queries.shape
        read_weights = lookup.similarity.softmax(dim=1).view(B, h, w, -1).permute(0, 3, 1, 2)  # (B, M, h, w)
        x = F.conv2d(read_weights, self.kernels, self.bias, padding=1) + context.get("queries", 0)
        x = self.up4(self.block4(x))
        x = self.up3(self.block3(x))
        x = self.up2(self.block2(x))                                                           # (B, width, H, W)
        return self.tail(self.head(x).add_(context["local"]))
