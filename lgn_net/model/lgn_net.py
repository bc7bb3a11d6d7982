"""LGN-Net: the two branches, the memory and the decoder, wired as in Fig. 2; and its relatives, switches of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.local_branch import LocalBranch
from lgn_net.model.memory import Lookup, PrototypeMemory
from lgn_net.model.prototype_branch import Decoder, PrototypeEncoder, head

MemoryMaker = Callable[[int], PrototypeMemory]


class Output(NamedTuple):
    """Result of one forward pass."""

    prediction: Tensor         # (B, C, H, W) in [-1, 1]
    lookups: list[Lookup]      # one per memory


class FramePredictor(nn.Module, ABC):
    """What training and inference use of a model: encode, read, decode, and its memories."""

    memories: Sequence[PrototypeMemory]            # in the order of the queries

    def forward(self, clip: Tensor) -> Output:
        """Predict the frame after clip (B, n, C, H, W) in [-1, 1], oldest frame first."""
        queries, context = self.encode(clip)
        lookups = self.read(queries)                                # global normality
        return Output(self.decode(lookups, context), lookups)

    def frame_gates(self, frames: Tensor) -> Tensor | None:
        """Compute what single frames (T, C, H, W) give to all windows, as `LocalBranch.frame_gates` does, or None."""
        branch: Any = getattr(self, "local_branch", None)
        return branch.frame_gates(frames) if branch else None

    @abstractmethod
    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Compute all that does not depend on the memory.

        Args:
            clip: (B, n, C, H, W) in [-1, 1], oldest frame first.
            gates: `frame_gates` of the n frames, (B, G, H/4, W/4) each, where they are known already.

        Returns:
            Queries of each memory, (B, D, h, w) in float32 and of unit length over D; and the context, further
            features that the decoder takes, by name.
        """

    def read(self, queries: list[Tensor]) -> list[Lookup]:
        """Look the queries up in their memories."""
        return [memory.lookup(q) for memory, q in zip(self.memories, queries)]

    @abstractmethod
    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """Predict the frame, (B, C, H, W) in [-1, 1]."""


class LGNNet(FramePredictor):
    """Predicts frame n+1 from n frames by local (ST-LSTM) and global (memory) normality. arXiv 2211.07454, Fig. 2.

    Height and width of the frames must be multiples of 8. LGN-ST, Glo-Net and MNAD are this network with another
    `cell`, `concat_query`, `skips` or `wide`; `build.py` has them by name.

    Args:
        input_frames: n.
        channels: image channels C, 3 (BGR) or 1.
        base_width: feature maps at full resolution, 64 in the paper; E_glo grows to 8 * base_width = D.
        hidden_width: feature maps of the recurrent states.
        lstm_layers: stacked recurrent cells.
        make_memory: makes the memory from its feature depth D; None for the control without memory, whose decoder
            gets the queries.
        cell: "st_lstm", "conv_lstm" (LGN-ST), or None for no local branch (Glo-Net, MNAD).
        skips: hand the features of E_glo's first three blocks to the decoder (MNAD's prediction).
        wide: a decoder as wide without skips as with them (MNAD's reconstruction).
        concat_query: the decoder gets the queries beside the prototypes (Glo-Net, MNAD).
        fold_time, forget_bias: see `LocalBranch` and `STLSTMCell`.
    """

    def __init__(self, make_memory: MemoryMaker | None, input_frames: int = 4, channels: int = 3, base_width: int = 64,
                 hidden_width: int = 128, lstm_layers: int = 4, cell: str | None = "st_lstm", skips: bool = False,
                 wide: bool = False, concat_query: bool = False, fold_time: bool = False, forget_bias: float = 1.0):
        super().__init__()
        D, w = 8 * base_width, base_width
        self.local_branch = LocalBranch(channels, w, hidden_width, lstm_layers, fold_time, forget_bias, cell) \
            if cell else None
        self.prototype_encoder = PrototypeEncoder(input_frames * channels, w)
        self.memory = make_memory(D) if make_memory else None
        self.memories = [self.memory] if self.memory else []
        self.decoder = Decoder(2 * D if concat_query and make_memory else D, w, channels, w if cell else 0,
                               (4 * w, 2 * w, w) if skips else (0, 0, 0), wide)
        self.concat_query = concat_query
        self.skips = skips

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `FramePredictor.encode`."""
        *blocks, features = self.prototype_encoder(clip)
        queries = F.normalize(features.float(), dim=1)              # (B, D, H/8, W/8)
        context = dict(zip(("skip1", "skip2", "skip4"), blocks)) if self.skips else {}
        if self.local_branch:
            context["local"] = self.local_branch(clip, gates)       # (B, base_width, H, W)   local normality
        return ([queries], context) if self.memory else ([], {"bottom": queries} | context)

    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`."""
        if not lookups:
            return self.decoder(**context)
        lookup, = lookups
        bottom = torch.cat([lookup.queries, lookup.prototypes], dim=1) if self.concat_query else lookup.prototypes
        return self.decoder(bottom, **context)


class LocNet(FramePredictor):
    """Local normality alone: the local branch with ConvLSTM cells and the decoder's head, no memory. Args: `LGNNet`."""

    def __init__(self, channels: int = 3, base_width: int = 64, hidden_width: int = 128, lstm_layers: int = 4,
                 fold_time: bool = False):
        super().__init__()
        self.memories = []
        self.local_branch = LocalBranch(channels, base_width, hidden_width, lstm_layers, fold_time, cell="conv_lstm")
        self.head = head(base_width, base_width, channels)

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `FramePredictor.encode`."""
        return [], {"local": self.local_branch(clip, gates)}

    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`."""
        return self.head(context["local"])


class MSNNet(FramePredictor):
    """MSN-Net (ICASSP 2023): three memories rewrite the features at 1/2, 1/4 and 1/8 resolution. Args: `LGNNet`.

    Public as an abstract only; what is ours: docs/differences.md. The memories are of depth 2, 4 and 8 * base_width;
    their reads pass the gradient on.
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
