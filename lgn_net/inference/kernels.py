"""Ways to score faster on a CPU in float32, with equal results up to rounding: Winograd's products, a short decoder.

Winograd's F(4x4, 3x3) turns a 6 x 6 patch d into a 4 x 4 tile, A^T [(G g G^T) * (B^T d B)] A (arXiv 1509.09308). Over
all channels and tiles, the product in brackets is 36 matrix products. In ST-LSTM, all readers of a state share its
transform, and convolutions whose results are added share one transform back.
Letters: C and K channels, B clips, y x rows and columns of tiles, P = B*y*x tiles.
"""

from collections.abc import Callable
from functools import cached_property, partial
from timeit import timeit
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.local_branch import LocalBranch
from lgn_net.model.memory import Lookup
from lgn_net.model.st_lstm import STLSTMCell

# The transforms along one dimension, for the points 0, 1, -1, 2, -2 and infinity.
B_T = torch.tensor([[4., 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
G = torch.tensor([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
                  [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]], dtype=torch.float64)
A_T = torch.tensor([[1., 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
TO_PATCH, TO_TILE = torch.kron(B_T, B_T), torch.kron(A_T, A_T)                # (36, 36), (16, 36)

SMALL = 2048         # channels times side of the features, below which nothing is gained, and nothing is tried


@torch.inference_mode()
def swap_in(model: Any, kernels: str, image_size: int) -> str:
    """Replace layers of a model by faster ones with equal results up to rounding; say what was replaced.

    Candidates are the ST-LSTM cells, and the convolutions of E_glo and the decoder at 1/4 and 1/8 of the frame. Where
    the features are larger, the transforms cost more than the products save. With `kernels` "winograd" all are
    replaced, with "auto" those that a trial on the shapes of one frame finds faster.
    """
    always, cells, convolutions, short = kernels == "winograd", 0, 0, shorten(model)

    # The recurrent cells are alike; one is tried, with states of tiles.
    branch = getattr(model, "local_branch", None)
    if branch and isinstance(branch.cells[0], STLSTMCell):
        cell, side = branch.cells[-1], image_size // 4
        fast, grid = WinogradCell(cell), Grid(1, side, side)
        tiles = torch.ones(16, cell.hidden, grid.y * grid.x)
        images = grid.images(tiles).contiguous(memory_format=torch.channels_last)

        def step() -> None:
            x, H, M = (State(tiles, grid) for _ in range(3))
            fast.step(*fast.from_x(x.patches, tiles), H, tiles, M, grid)

        alike = cell.conv_x.in_channels == cell.hidden
        if always or alike and cell.hidden * side >= SMALL and is_faster(lambda: cell(*[images] * 4), step):
            model.local_branch, cells = WinogradBranch(branch), len(branch.cells)

    # The convolutions.
    boxes = [getattr(model, name, None) for name in ("prototype_encoder", "encoder", "decoder")]
    for block, scale in ((getattr(box, f"block{k}"), 2 ** (k - 1)) for box in boxes if box for k in (3, 4)):
        for k, conv in enumerate(block):
            side = image_size // scale
            if isinstance(conv, nn.Conv2d) and (always or conv.in_channels * side >= SMALL):
                images = torch.ones(1, conv.in_channels, side, side).contiguous(memory_format=torch.channels_last)
                quick = WinogradConv(conv)
                if always or is_faster(partial(conv, images), partial(quick, images)):
                    block[k], convolutions = quick, convolutions + 1
    counts = ", ".join(f"{count} {kind}" for count, kind in ((cells, "cells"), (convolutions, "convolutions")) if count)
    return (f"winograd ({counts})" if counts else "direct") + ", short decoder" * short


def is_faster(direct: Callable, fast: Callable) -> bool:
    """Return whether the second call is 1.1 times faster than the first, by the quickest of three runs each."""
    rounds = [(timeit(direct, number=1), timeit(fast, number=1)) for _ in range(3)]
    of_direct, of_fast = zip(*rounds)
    return min(of_direct) > 1.1 * min(of_fast)


def transform_filters(weight: Tensor) -> Tensor:
    """Transform filters (K, C, 3, 3) to (36, K, C)."""
    return torch.einsum("ai,kcij,bj->abkc", G, weight.double(), G).flatten(0, 1).float().contiguous()


def transform_back(products: Tensor) -> Tensor:
    """Transform products (36, K, P) to tiles (16, K, P)."""
    return (TO_TILE @ products.flatten(1)).view(16, -1, products.shape[2])


class Grid:
    """How images (B, C, h, w) are cut in tiles of 4 x 4; the last row and column of tiles may hang over."""

    def __init__(self, B: int, h: int, w: int):
        self.B, self.h, self.w = B, h, w
        self.y, self.x = -(-h // 4), -(-w // 4)

    def patches(self, images: Tensor) -> Tensor:
        """Surround images (B, C, h, w) by zeros and transform their patches to (36, C, P)."""
        images = F.pad(images.transpose(0, 1), (1, 4 * self.x - self.w + 1, 1, 4 * self.y - self.h + 1))
        patches = images.unfold(2, 6, 4).unfold(3, 6, 4)                      # (C, B, y, x, 6, 6)
        return (TO_PATCH @ patches.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)).view(36, len(images), -1)

    def images(self, tiles: Tensor) -> Tensor:
        """Lay tiles (16, C, P) out as images (B, C, h, w)."""
        images = tiles.view(4, 4, -1, self.B, self.y, self.x).permute(3, 2, 4, 0, 5, 1)          # (B, C, y, 4, x, 4)
        return images.flatten(4, 5).flatten(2, 3)[:, :, :self.h, :self.w]


class State:
    """A recurrent state in tiles, (16, C, P); transformed for its readers once, when the first one asks."""

    def __init__(self, tiles: Tensor, grid: Grid):
        self.tiles, self.grid = tiles, grid

    @cached_property
    def patches(self) -> Tensor:
        """The state as the products need it, (36, C, P)."""
        return self.grid.patches(self.grid.images(self.tiles))


class WinogradCell(nn.Module):
    """An `STLSTMCell` whose convolutions are products in the transformed space; the forget gate of C comes first."""

    def __init__(self, cell: STLSTMCell):
        super().__init__()
        D = cell.hidden
        from_x, from_h, from_m, from_o = (transform_filters(conv.weight) for conv in
                                          (cell.conv_x, cell.conv_h, cell.conv_m, cell.conv_o))
        (i, f, g, *for_M, o), (i_H, f_H, g_H, o_H) = from_x.split(D, dim=1), from_h.split(D, dim=1)
        self.C_from_x, self.M_from_x = torch.cat([f, i, g, o], dim=1), torch.cat(for_M, dim=1)  # (36, 4D and 3D, C)
        self.C_from_H, self.M_from_M = torch.cat([f_H, i_H, g_H, o_H], dim=1), from_m           # (36, 4D and 3D, D)
        self.o_from_C, self.o_from_M = (part.contiguous() for part in from_o.split(D, dim=2))
        self.last = cell.conv_1x1.weight[:, :, 0, 0].expand(16, -1, -1)                         # (16, D, 2D)
        self.remember, self.hidden = cell.remember, D

    def from_x(self, patches: Tensor, C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute products of conv_x from patches (36, C, P) of x: of f (with a state C), i, g, o; of i', f', g'."""
        weights = self.C_from_x if C is not None else self.C_from_x[:, self.hidden:]
        return torch.bmm(weights, patches), torch.bmm(self.M_from_x, patches)

    def step(self, for_C: Tensor, for_M: Tensor, H: State | None, C: Tensor | None, M: State | None, grid: Grid) \
            -> tuple[State, Tensor, State]:
        """Do as `STLSTMCell.step`, from the products of conv_x(x), (36, 4D, P) and (36, 3D, P), with C in tiles."""
        D = self.hidden
        if C is None:
            for_C = for_C[:, -3 * D:]                                         # i, g, o
        if H is not None:
            for_C = torch.baddbmm(for_C, self.C_from_H, H.patches)
        if M is not None:
            for_M = torch.baddbmm(for_M, self.M_from_M, M.patches)
        *f, i, g = transform_back(for_C[:, :-D]).split(D, dim=1)              # (16, D, P)
        C = self.remember(i, f[0] if f else i, g, C)
        i, f_M, g = transform_back(for_M).chunk(3, dim=1)
        M = State(self.remember(i, f_M, g, M.tiles if M else None), grid)

        o = torch.baddbmm(for_C[:, -D:], self.o_from_C, State(C, grid).patches).baddbmm_(self.o_from_M, M.patches)
        memory = torch.bmm(self.last, torch.cat([C, M.tiles], dim=1))
        return State(transform_back(o).sigmoid_().mul_(memory.tanh_()), grid), C, M


class WinogradBranch(nn.Module):
    """A `LocalBranch` with ST-LSTM cells in inference, in float32; equal to it up to rounding."""

    def __init__(self, branch: LocalBranch):
        super().__init__()
        self.encoder, self.deconv = branch.encoder, branch.deconv
        self.cells = [WinogradCell(cell) for cell in branch.cells]

    def forward(self, clip: Tensor, gates: list[Tensor] | None = None) -> Tensor:
        """See `LocalBranch.forward`."""
        if gates is None:
            gates = [self.frame_gates(frame) for frame in clip.unbind(1)]
        return self.deconv(self.recur(gates, Grid(len(clip), clip.shape[3] // 4, clip.shape[4] // 4)))

    def recur(self, gates: list[Tensor], grid: Grid) -> Tensor:
        """See `LocalBranch.stp_net`, for products (B, 36, 7D, y * x) of each frame."""
        H: list[Any] = [None] * len(self.cells)
        C: list[Any] = [None] * len(self.cells)
        M: Any = None
        D = self.cells[0].hidden
        for from_frame in gates:
            for_C, for_M = from_frame.permute(1, 2, 0, 3).flatten(2).split([4 * D, 3 * D], dim=1)    # (36, 7D, P)
            for k, cell in enumerate(self.cells):
                if k:
                    for_C, for_M = cell.from_x(H[k - 1].patches, C[k])
                H[k], C[k], M = cell.step(for_C, for_M, H[k], C[k], M, grid)
        return grid.images(torch.cat([H[-1].tiles, M.tiles], dim=1)).contiguous(memory_format=torch.channels_last)

    def frame_gates(self, frames: Tensor) -> Tensor:
        """See `LocalBranch.frame_gates`; here these are products, (T, 36, 7D, y * x)."""
        return self.products(self.encoder(frames))                            # from (T, C, H/4, W/4)

    def products(self, features: Tensor) -> Tensor:
        """Compute the products of layer 1's conv_x from the features (T, C, h, w) of frames."""
        T, _, h, w = features.shape
        products = torch.cat(self.cells[0].from_x(Grid(T, h, w).patches(features), features), dim=1)
        return products.unflatten(2, (T, -1)).permute(2, 0, 1, 3)


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 that keeps the size."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.filters = transform_filters(conv.weight)
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, h, w)."""
        grid = Grid(len(x), *x.shape[2:])
        products = torch.bmm(self.filters, grid.patches(x))
        images = grid.images(transform_back(products)).contiguous(memory_format=torch.channels_last)
        return images + self.bias[:, None, None]


def shorten(model: nn.Module) -> bool:
    """Give LGN-Net or LGN-ST with few items a `ShortDecoder`, in place; return whether that is done."""
    network: Any = model
    if type(model) is not LGNNet or not network.local_branch or not network.memory or network.skips \
            or 4 * len(network.memory.items) > network.memory.items.shape[1]:
        return False
    network.local_branch.deconv.append(half(network.decoder.head[0], 1))
    network.short = short = ShortDecoder(network)
    network.decode = short.decode                                # which takes more of a lookup than its prototypes
    if network.concat_query:
        network.encode = short.encode
    return True


def half(conv: Any, which: int) -> nn.Conv2d:
    """Make a convolution of the first (0) or second (1) half of a 3x3 convolution's input channels, without a bias."""
    part = nn.Conv2d(conv.in_channels // 2, conv.out_channels, 3, padding=1, bias=False, device="meta")
    part.weight = nn.Parameter(conv.weight.chunk(2, dim=1)[which].contiguous(memory_format=torch.channels_last))
    return part


class ShortDecoder(nn.Module):
    """D_lg, whose first convolution is of M read weights in place of D features: the items are convolved instead."""

    def __init__(self, network: Any):
        super().__init__()
        decoder, self.memory, D = network.decoder, network.memory, network.memory.items.shape[1]
        first, head = decoder.block4[0], decoder.head
        self.weight, self.bias = first.weight[:, -D:].detach(), first.bias
        self.of_queries = half(first, 0) if network.concat_query else None
        self.encode_all, self.decoder = network.encode, decoder
        decoder.block4, decoder.head = decoder.block4[1:], nn.Identity()
        self.head, self.tail = half(head[0], 0), head[1:]
        self.head.bias = head[0].bias
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
        return self.tail(self.head(self.decoder(x)).add_(context["local"]))
