"""Local normality: E_loc, STP-Net and the local deconvolution (upper branch of Fig. 2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lgn_net.model.blocks import conv_pair, upsample
from lgn_net.model.st_lstm import ConvLSTMCell, STLSTMCell


class LocalBranch(nn.Module):
    """Encodes the frames one by one by E_loc, runs the recurrent cells over them, and upsamples to F'_loc.

    Args:
        channels: image channels C.
        width: channels of F'_loc and of E_loc's first level; its second level has twice as many.
        hidden: channels of the cells' states.
        layers: number of stacked cells.
        fold_time: training only; run E_loc once over all B*T frames (one batch statistic) instead of frame by frame
            (T statistics and T running-average updates a step, as the authors' code does).
        forget_bias: see `STLSTMCell`; a ConvLSTM has none.
        cell: "st_lstm" (STP-Net) or "conv_lstm" (LGN-ST, Loc-Net).
    """

    def __init__(self, channels: int, width: int, hidden: int, layers: int, fold_time: bool = False,
                 forget_bias: float = 1.0, cell: str = "st_lstm"):
        super().__init__()
        make_cell: Callable = partial(STLSTMCell, forget_bias=forget_bias) if cell == "st_lstm" else ConvLSTMCell
        self.encoder = nn.Sequential(*conv_pair(channels, width, stride=2), *conv_pair(width, 2 * width, stride=2))
        self.cells: Any = nn.ModuleList(make_cell(hidden if layer else 2 * width, hidden) for layer in range(layers))
        self.recur = self.stp_net if cell == "st_lstm" else self.conv_lstm
        self.deconv = nn.Sequential(*upsample(2 * hidden, hidden), *upsample(hidden, width))
        self.fold_time = fold_time

    def forward(self, clip: Tensor, gates: list[Tensor] | None = None) -> Tensor:
        """Compute F'_loc (B, width, H, W) from a clip (B, T, C, H, W) in [-1, 1].

        `gates`: what `frame_gates` gave for each of the T frames, where that is known already.
        """
        if gates is None:
            gates = [self.cells[0].conv_x(x) for x in self.encode(clip)]
        return self.deconv(self.recur(gates))

    def frame_gates(self, frames: Tensor) -> Tensor:
        """Compute what depends on single frames (T, C, H, W): conv_x(x_t) of layer 1, (T, 7*hidden, H/4, W/4).

        With ConvLSTM cells it has 4*hidden channels.
        """
        return self.cells[0].conv_x(self.encoder(frames))

    def encode(self, clip: Tensor) -> list[Tensor]:
        """Encode every frame by E_loc: T tensors (B, 2*width, H/4, W/4)."""
        B, T = clip.shape[:2]
        if self.fold_time or not self.training:
            return list(self.encoder(clip.flatten(0, 1)).unflatten(0, (B, T)).unbind(1))
        return [self.encoder(frame) for frame in clip.unbind(1)]

    def stp_net(self, gates: list[Tensor]) -> Tensor:
        """Run the ST-LSTMs over conv_x(x_t) of T frames; return the last cat(H, M) on top, (B, 2*hidden, H/4, W/4)."""
        H: list = [None] * len(self.cells)                # None stands for a state of zeros
        C = H.copy()
        M: Any = None
        for from_frame in gates:                          # M zigzags: up the layers, on to layer 1 of the next frame
            H[0], C[0], M = self.cells[0].step(from_frame, H[0], C[0], M)
            for k, cell in enumerate(self.cells[1:], 1):
                H[k], C[k], M = cell(H[k - 1], H[k], C[k], M)
        return torch.cat([H[-1], M], dim=1)

    def conv_lstm(self, gates: list[Tensor]) -> Tensor:
        """Run the ConvLSTMs over conv_x(x_t) of T frames; return the last cat(H, C) on top, (B, 2*hidden, H/4, W/4)."""
        H: list = [None] * len(self.cells)
        C = H.copy()
        for from_frame in gates:
            H[0], C[0] = self.cells[0].step(from_frame, H[0], C[0])
            for k, cell in enumerate(self.cells[1:], 1):
                H[k], C[k] = cell(H[k - 1], H[k], C[k])
        return torch.cat([H[-1], C[-1]], dim=1)
