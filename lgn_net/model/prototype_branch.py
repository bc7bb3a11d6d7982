"""Global normality: E_glo, whose features query the memory, and D_lg, which decodes both branches (Fig. 2)."""

import torch
from torch import Tensor, nn

from lgn_net.model.blocks import conv_pair, upsample


class PrototypeEncoder(nn.Module):
    """E_glo: n stacked frames -> F_lat, eight times smaller and `8 * width` features deep."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.block1 = conv_pair(in_channels, width)
        self.block2 = conv_pair(width, 2 * width)
        self.block3 = conv_pair(2 * width, 4 * width)
        self.block4 = conv_pair(4 * width, 8 * width, last_activation=False)
        self.pool = nn.MaxPool2d(2)

    def forward(self, clip: Tensor) -> Tensor:
        """clip (B, T, C, H, W) in [-1, 1] -> F_lat (B, 8*width, H/8, W/8). Channel 3t + c, oldest frame first."""
        x = self.block1(clip.flatten(1, 2))               # (B, width, H, W)
        x = self.block2(self.pool(x))                     # (B, 2*width, H/2, W/2)
        x = self.block3(self.pool(x))                     # (B, 4*width, H/4, W/4)
        return self.block4(self.pool(x))                  # (B, 8*width, H/8, W/8)


class Decoder(nn.Module):
    """D_lg: prototypes up to full resolution, joined with the local features, to the predicted frame.

    Args:
        in_channels: depth of what enters the global path: 8*width, twice that when the queries come along.
        width: channels at full resolution.
        local_channels: channels of F'_loc.
        channels: image channels C.
    """

    def __init__(self, in_channels: int, width: int, local_channels: int, channels: int):
        super().__init__()
        self.block4 = conv_pair(in_channels, 8 * width)
        self.up4 = upsample(8 * width, 4 * width)
        self.block3 = conv_pair(4 * width, 4 * width)
        self.up3 = upsample(4 * width, 2 * width)
        self.block2 = conv_pair(2 * width, 2 * width)
        self.up2 = upsample(2 * width, width)
        self.head = nn.Sequential(*conv_pair(width + local_channels, width), nn.Conv2d(width, channels, 3, padding=1),
                                  nn.Tanh())

    def forward(self, prototypes: Tensor, local: Tensor) -> Tensor:
        """prototypes (B, in, H/8, W/8), local (B, local, H, W) -> predicted frame (B, C, H, W) in [-1, 1]."""
        x = self.up4(self.block4(prototypes))             # (B, 4*width, H/4, W/4)
        x = self.up3(self.block3(x))                      # (B, 2*width, H/2, W/2)
        x = self.up2(self.block2(x))                      # (B, width, H, W)   F'_glo
        return self.head(torch.cat([x, local], dim=1))
