"""LGN-Net: the two branches, the memory and the decoder, wired as in Fig. 2."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.local_branch import LocalBranch
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.prototype_branch import Decoder, PrototypeEncoder


class LGNOutput(NamedTuple):
    """What one forward pass yields."""

    prediction: Tensor    # (B, C, H, W) in [-1, 1]
    queries: Tensor       # (B, D, H/8, W/8), float32, unit length over D


class LGNNet(nn.Module):
    """Predicts frame n+1 from n frames by local (ST-LSTM) and global (memory) normality. arXiv 2211.07454, Fig. 2.

    Height and width of the frames must be multiples of 8.

    Args:
        input_frames: n.
        channels: image channels C, 3 (BGR) or 1.
        base_width: feature maps at full resolution, 64 in the paper; E_glo grows to 8 * base_width = D.
        hidden_width: feature maps of the ST-LSTM states.
        lstm_layers: stacked ST-LSTM cells.
        memory_items: M.
        read_grad, concat_query, update_max, fold_time, forget_bias, bn_init: where paper and published code part; each
            is described in docs/differences.md. The defaults are the published code's.
    """

    def __init__(self, input_frames: int = 4, channels: int = 3, base_width: int = 64, hidden_width: int = 128,
                 lstm_layers: int = 4, memory_items: int = 10, read_grad: bool = False, concat_query: bool = False,
                 update_max: str = "all", fold_time: bool = False, forget_bias: float = 1.0, bn_init: str = "ones"):
        super().__init__()
        dim = 8 * base_width
        self.local_branch = LocalBranch(channels, base_width, hidden_width, lstm_layers, fold_time, forget_bias)
        self.prototype_encoder = PrototypeEncoder(input_frames * channels, base_width)
        self.memory = PrototypeMemory(memory_items, dim, read_grad, update_max)
        self.decoder = Decoder(2 * dim if concat_query else dim, base_width, base_width, channels)
        self.concat_query = concat_query
        if bn_init == "uniform":                          # as PyTorch 1.1 did, see docs/differences.md, 15
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight)

    def forward(self, clip: Tensor) -> LGNOutput:         # clip (B, n, C, H, W) in [-1, 1]
        """clip (B, n, C, H, W) in [-1, 1], oldest frame first -> the predicted next frame and the memory queries."""
        queries, local = self.encode(clip)
        return LGNOutput(self.predict(queries, local), queries)

    def encode(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """All that does not depend on the memory: queries (B, D, H/8, W/8) and F'_loc (B, base_width, H, W)."""
        queries = F.normalize(self.prototype_encoder(clip).float(), dim=1)
        return queries, self.local_branch(clip)

    def predict(self, queries: Tensor, local: Tensor) -> Tensor:
        """Read the memory and decode: the predicted frame (B, C, H, W) in [-1, 1]."""
        prototypes = self.memory.read(queries)            # (B, D, H/8, W/8)   global normality
        if self.concat_query:
            prototypes = torch.cat([queries, prototypes], dim=1)
        return self.decoder(prototypes, local)
