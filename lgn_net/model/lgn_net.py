"""LGN-Net: the two branches, the memory and the decoder, wired as in Fig. 2; and its relatives, switches of it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.local_branch import LocalBranch
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.prototype_branch import Decoder, PrototypeEncoder, head


class Output(NamedTuple):
    """What one forward pass yields."""

    prediction: Tensor         # (B, C, H, W) in [-1, 1]
    queries: list[Tensor]      # of each memory (B, D, h, w), float32, unit length over D


class LGNNet(nn.Module):
    """Predicts frame n+1 from n frames by local (ST-LSTM) and global (memory) normality. arXiv 2211.07454, Fig. 2.

    Height and width of the frames must be multiples of 8. LGN-ST, Glo-Net and MNAD are this network with another
    `cell`, `concat_query`, `skips` or `wide`; `build.py` has them by name.

    Args:
        input_frames: n.
        channels: image channels C, 3 (BGR) or 1.
        base_width: feature maps at full resolution, 64 in the paper; E_glo grows to 8 * base_width = D.
        hidden_width: feature maps of the recurrent states.
        lstm_layers: stacked recurrent cells.
        memory_items: M; 0 for no memory: the decoder gets the queries in place of prototypes.
        cell: "st_lstm", "conv_lstm" (LGN-ST), or None for no local branch (Glo-Net, MNAD).
        skips: hand the features of E_glo's first three blocks to the decoder (MNAD's prediction).
        wide: a decoder as wide without skips as with them (MNAD's reconstruction).
        concat_query: the decoder gets the queries beside the prototypes (Glo-Net, MNAD).
        fold_time, forget_bias: see `LocalBranch`; the defaults are the published code's (docs/differences.md).
        memory: further arguments of `PrototypeMemory`.
    """

    def __init__(self, input_frames: int = 4, channels: int = 3, base_width: int = 64, hidden_width: int = 128,
                 lstm_layers: int = 4, memory_items: int = 10, cell: str | None = "st_lstm", skips: bool = False,
                 wide: bool = False, concat_query: bool = False, fold_time: bool = False, forget_bias: float = 1.0,
                 **memory: object):
        super().__init__()
        dim = 8 * base_width
        self.local_branch = LocalBranch(channels, base_width, hidden_width, lstm_layers, fold_time, forget_bias,
                                        cell) if cell else None
        self.prototype_encoder = PrototypeEncoder(input_frames * channels, base_width)
        self.memory = PrototypeMemory(memory_items, dim, **memory) if memory_items else None
        self.decoder = Decoder(2 * dim if concat_query and memory_items else dim, base_width, channels,
                               base_width if cell else 0,
                               (4 * base_width, 2 * base_width, base_width) if skips else (0, 0, 0), wide)
        self.concat_query = concat_query
        self.skips = skips

    def forward(self, clip: Tensor) -> Output:
        """Clip (B, n, C, H, W) in [-1, 1], oldest frame first -> the predicted next frame and the memory's queries."""
        queries, context = self.encode(clip)
        return Output(self.decode(self.read(queries), queries, context), queries[:len(self.memories)])

    @property
    def memories(self) -> list[PrototypeMemory]:
        """The memories, in the order of the queries."""
        return [self.memory] if self.memory else []

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """All that does not depend on the memory.

        `gates`: see `LocalBranch.forward`.

        Returns:
            The queries, [(B, D, H/8, W/8)] in float32, of unit length over D; and by its argument's name what
            `Decoder` joins to what it is given: skips and local features.
        """
        *blocks, features = self.prototype_encoder(clip)
        context = dict(zip(("skip1", "skip2", "skip4"), blocks)) if self.skips else {}
        if self.local_branch:
            context["local"] = self.local_branch(clip, gates)       # (B, base_width, H, W)   local normality
        return [F.normalize(features.float(), dim=1)], context

    def read(self, queries: list[Tensor]) -> list[Tensor]:
        """All that depends on the memory: prototypes of the queries' shape; without memory the queries."""
        return [self.memory.read(queries[0])] if self.memory else queries    # (B, D, h, w)   global normality

    def decode(self, prototypes: list[Tensor], queries: list[Tensor], context: dict[str, Tensor]) -> Tensor:
        """What `read` and `encode` returned -> the predicted frame (B, C, H, W) in [-1, 1]."""
        if self.concat_query and self.memory:
            prototypes = [torch.cat([*queries, *prototypes], dim=1)]
        return self.decoder(*prototypes, **context)


class LocNet(nn.Module):
    """Local normality alone: the local branch with ConvLSTM cells, and the decoder's head. No memory.

    Args:
        channels, base_width, hidden_width, lstm_layers, fold_time: see `LGNNet`.
    """

    def __init__(self, channels: int = 3, base_width: int = 64, hidden_width: int = 128, lstm_layers: int = 4,
                 fold_time: bool = False):
        super().__init__()
        self.local_branch = LocalBranch(channels, base_width, hidden_width, lstm_layers, fold_time, cell="conv_lstm")
        self.head = head(base_width, base_width, channels)
        self.memories: list[PrototypeMemory] = []

    def forward(self, clip: Tensor) -> Output:
        """Clip (B, n, C, H, W) in [-1, 1], oldest frame first -> the predicted next frame; no queries."""
        return Output(self.decode([], *self.encode(clip)), [])

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `LGNNet.encode`."""
        return [], {"local": self.local_branch(clip, gates)}

    def read(self, queries: list[Tensor]) -> list[Tensor]:
        """See `LGNNet.read`."""
        return []

    def decode(self, prototypes: list[Tensor], queries: list[Tensor], context: dict[str, Tensor]) -> Tensor:
        """See `LGNNet.decode`."""
        return self.head(context["local"])
