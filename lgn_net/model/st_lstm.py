"""The recurrent cells: ST-LSTM (PredRNN), the unit of STP-Net, and the plain ConvLSTM that it replaced."""

import torch
from torch import Tensor, nn


class STLSTMCell(nn.Module):
    """Spatiotemporal LSTM: a temporal state C that stays in its layer and a spatiotemporal memory M that climbs them.

    All convolutions are without bias. The forget gates are shifted by `forget_bias`: 1 in the authors' code, absent
    from the paper's equations.

    Args:
        in_channels: channels of x (features of the frame at layer 1, H of the layer below above that).
        hidden: channels of H, C and M.
        kernel_size: odd; 3 in the paper.
        forget_bias: added to f and f' before the sigmoid.
    """

    def __init__(self, in_channels: int, hidden: int, kernel_size: int = 3, forget_bias: float = 1.0):
        super().__init__()
        padding = kernel_size // 2
        self.conv_x = nn.Conv2d(in_channels, 7 * hidden, kernel_size, padding=padding, bias=False)
        self.conv_h = nn.Conv2d(hidden, 4 * hidden, kernel_size, padding=padding, bias=False)
        self.conv_m = nn.Conv2d(hidden, 3 * hidden, kernel_size, padding=padding, bias=False)
        self.conv_o = nn.Conv2d(2 * hidden, hidden, kernel_size, padding=padding, bias=False)
        self.conv_1x1 = nn.Conv2d(2 * hidden, hidden, 1, bias=False)
        self.forget_bias = forget_bias

    def forward(self, x: Tensor, H: Tensor, C: Tensor, M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, in, h, w); H, C, M (B, hidden, h, w) of the step before (M: of the layer below) -> new H, C, M."""
        i_x, f_x, g_x, i_xm, f_xm, g_xm, o_x = self.conv_x(x).chunk(7, dim=1)
        i_h, f_h, g_h, o_h = self.conv_h(H).chunk(4, dim=1)
        i_m, f_m, g_m = self.conv_m(M).chunk(3, dim=1)

        i, f, g = torch.sigmoid(i_x + i_h), torch.sigmoid(f_x + f_h + self.forget_bias), torch.tanh(g_x + g_h)
        C = f * C + i * g

        i, f, g = torch.sigmoid(i_xm + i_m), torch.sigmoid(f_xm + f_m + self.forget_bias), torch.tanh(g_xm + g_m)
        M = f * M + i * g

        memory = torch.cat([C, M], dim=1)
        o = torch.sigmoid(o_x + o_h + self.conv_o(memory))
        H = o * torch.tanh(self.conv_1x1(memory))
        return H, C, M


class ConvLSTMCell(nn.Module):
    """Convolutional LSTM without peepholes: a temporal state C that stays in its layer. For LGN-ST and Loc-Net.

    Args:
        in_channels: channels of x.
        hidden: channels of H and C.
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, hidden: int, kernel_size: int = 3):
        super().__init__()
        padding = kernel_size // 2
        self.conv_x = nn.Conv2d(in_channels, 4 * hidden, kernel_size, padding=padding)
        self.conv_h = nn.Conv2d(hidden, 4 * hidden, kernel_size, padding=padding)

    def forward(self, x: Tensor, H: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, in, h, w); H, C (B, hidden, h, w) of the step before -> new H, C."""
        i, f, g, o = (self.conv_x(x) + self.conv_h(H)).chunk(4, dim=1)
        C = torch.sigmoid(f) * C + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(C), C
