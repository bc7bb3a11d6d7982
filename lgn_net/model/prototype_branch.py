"""Global normality: E_glo, whose features query the memory, and D_lg, which decodes both branches (Fig. 2)."""

import torch
from torch import Tensor, nn

from lgn_net.model.blocks import conv_pair, upsample


class PrototypeEncoder(nn.Module):
    """E_glo: encodes n stacked frames, n * C channels, as F_lat, eight times smaller and `8 * width` features deep."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.block1 = conv_pair(in_channels, width)
        self.block2 = conv_pair(width, 2 * width)
        self.block3 = conv_pair(2 * width, 4 * width)
        self.block4 = conv_pair(4 * width, 8 * width, last_activation=False)
        self.pool = nn.MaxPool2d(2)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode clip (B, T, C, H, W) in [-1, 1], oldest frame first: the features of all four blocks, F_lat last."""
        x1 = self.block1(clip.flatten(1, 2))              # (B, width, H, W)   from channels C*t + c
        x2 = self.block2(self.pool(x1))                   # (B, 2*width, H/2, W/2)
        x3 = self.block3(self.pool(x2))                   # (B, 4*width, H/4, W/4)
        return x1, x2, x3, self.block4(self.pool(x3))     # (B, 8*width, H/8, W/8)


class Decoder(nn.Module):
    """D_lg: decodes the prototypes, joined with the local features at full resolution, to the predicted frame.

    The relatives of LGN-Net have skips from E_glo instead of local features.

    Args:
        in_channels: depth of what enters at the bottom: 8*width, twice that when the queries come along.
        width: channels at full resolution.
        channels: image channels C.
        local_channels: of F'_loc; 0 without.
        skips: depths of the skips at 1/4, 1/2 and full resolution; 0 without.
        wide: upsample to twice the channels, as MNAD's reconstruction does in place of skips.
    """

    def __init__(self, in_channels: int, width: int, channels: int, local_channels: int = 0,
                 skips: tuple[int, int, int] = (0, 0, 0), wide: bool = False):
        super().__init__()
        w4, w2, w1 = (factor * width * (2 if wide else 1) for factor in (4, 2, 1))
        self.block4 = conv_pair(in_channels, 8 * width)
        self.up4 = upsample(8 * width, w4)
        self.block3 = conv_pair(skips[0] + w4, 4 * width)
        self.up3 = upsample(4 * width, w2)
        self.block2 = conv_pair(skips[1] + w2, 2 * width)
        self.up2 = upsample(2 * width, w1)
        self.head = head(skips[2] + w1 + local_channels, width, channels)

    def forward(self, bottom: Tensor, local: Tensor | None = None, skip4: Tensor | None = None,
                skip2: Tensor | None = None, skip1: Tensor | None = None) -> Tensor:
        """Decode bottom (B, in, H/8, W/8), local (B, local, H, W) and skips to the frame (B, C, H, W) in [-1, 1]."""
        x = self.up4(self.block4(bottom))                 # (B, 4*width, H/4, W/4)   where `wide`, twice the channels
        x = self.up3(self.block3(join(skip4, x)))         # (B, 2*width, H/2, W/2)
        x = self.up2(self.block2(join(skip2, x)))         # (B, width, H, W)   F'_glo
        return self.head(join(skip1, x, local))


def head(in_channels: int, width: int, channels: int) -> nn.Sequential:
    """Make the last layers: features at full resolution (B, in, H, W) -> frame (B, channels, H, W) in [-1, 1]."""
    return nn.Sequential(*conv_pair(in_channels, width), nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())


def join(*features: Tensor | None) -> Tensor:
    """Concatenate the features that are there over the channels."""
    return torch.cat([x for x in features if x is not None], dim=1)
