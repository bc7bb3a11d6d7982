"""The two building blocks every encoder and decoder is made of."""

from torch import nn


def conv_pair(in_channels: int, out_channels: int, stride: int = 1, last_activation: bool = True) -> nn.Sequential:
    """Make two 3x3 convolutions, each with BatchNorm and ReLU: (B, in, H, W) -> (B, out, H/stride, W/stride).

    `stride` belongs to the first convolution. With `last_activation=False` the second convolution stays bare, as in the
    last block of E_glo, whose output is L2-normalised instead.
    """
    layers = [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    ]
    if last_activation:
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def upsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Make a 3x3 transposed convolution of stride 2, BatchNorm and ReLU: (B, in, H, W) -> (B, out, 2H, 2W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
