"""The recurrent cells: ST-LSTM (PredRNN), the unit of STP-Net, and the plain ConvLSTM that it replaced."""

from typing import cast

import torch
from torch import Tensor, nn


class STLSTMCell(nn.Module):
    """Spatiotemporal LSTM: a temporal state C that stays in its layer and a spatiotemporal memory M that climbs them.

    All convolutions are without bias. The forget gates are shifted by `forget_bias`: 1 in the authors' code, absent
    from the paper's equations.

    Args:
        in_channels: channels of x (features of the frame at layer 1, H of the layer below above that).
        hidden: channels of H, C and M.
        forget_bias: added to f and f' before the sigmoid.
    """

    def __init__(self, in_channels: int, hidden: int, forget_bias: float = 1.0):
        super().__init__()
        self.conv_x = nn.Conv2d(in_channels, 7 * hidden, 3, padding=1, bias=False)
        self.conv_h = nn.Conv2d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.conv_m = nn.Conv2d(hidden, 3 * hidden, 3, padding=1, bias=False)
        self.conv_o = nn.Conv2d(2 * hidden, hidden, 3, padding=1, bias=False)
        self.conv_1x1 = nn.Conv2d(2 * hidden, hidden, 1, bias=False)
        self.hidden = hidden
        self.forget_bias = forget_bias

    def forward(self, x: Tensor, H: Tensor | None, C: Tensor | None, M: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the new H, C, M from x (B, in, h, w) and H, C, M (B, hidden, h, w) of the step before.

        M comes from the layer below. None stands for a state of zeros, for which nothing is computed.
        """
        return self.step(self.conv_x(x), H, C, M)

    def step(self, gates: Tensor, H: Tensor | None, C: Tensor | None, M: Tensor | None) \
            -> tuple[Tensor, Tensor, Tensor]:
        """Do as `forward`, from conv_x(x) (B, 7*hidden, h, w)."""
        i_C, f_C, g_C, i_M, f_M, g_M, o = gates.chunk(7, dim=1)
        if H is not None:
            i_C, f_C, g_C, o = (x + h for x, h in zip((i_C, f_C, g_C, o), self.conv_h(H).chunk(4, dim=1)))
        if M is not None:
            i_M, f_M, g_M = (x + m for x, m in zip((i_M, f_M, g_M), self.conv_m(M).chunk(3, dim=1)))
        C, M = self.remember(i_C, f_C, g_C, C), self.remember(i_M, f_M, g_M, M)

        memory = torch.cat([C, M], dim=1)
        H = torch.sigmoid(o + self.conv_o(memory)) * torch.tanh(self.conv_1x1(memory))
        return H, C, M

    def remember(self, i: Tensor, f: Tensor, g: Tensor, state: Tensor | None) -> Tensor:
        """Compute the new state C or M: f * state + i * g."""
        written = torch.sigmoid(i) * torch.tanh(g)
        return written if state is None else torch.addcmul(written, torch.sigmoid(f + self.forget_bias), state)


class ConvLSTMCell(nn.Module):
    """Convolutional LSTM without peepholes: a temporal state C that stays in its layer. For LGN-ST and Loc-Net."""

    def __init__(self, in_channels: int, hidden: int):
        super().__init__()
        self.conv_x = nn.Conv2d(in_channels, 4 * hidden, 3, padding=1)
        self.conv_h = nn.Conv2d(hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, H: Tensor | None, C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the new H, C from x (B, in, h, w) and H, C (B, hidden, h, w) of the step before, None for zeros."""
        return self.step(self.conv_x(x), H, C)

    def step(self, gates: Tensor, H: Tensor | None, C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Do as `forward`, from conv_x(x) (B, 4*hidden, h, w)."""
        from_H = cast(Tensor, self.conv_h.bias)[:, None, None] if H is None else self.conv_h(H)
        i, f, g, o = (gates + from_H).chunk(4, dim=1)
        written = torch.sigmoid(i) * torch.tanh(g)
        C = written if C is None else torch.addcmul(written, torch.sigmoid(f), C)
        return torch.sigmoid(o) * torch.tanh(C), C
