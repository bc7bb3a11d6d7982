"""Ways to be faster on a CPU in float32, with equal results up to rounding: Winograd's products, a short decoder.

Winograd's F(4x4, 3x3) turns a 6 x 6 patch d into a 4 x 4 tile, A^T [(G g G^T) * (B^T d B)] A (arXiv 1509.09308). Over
all channels and tiles, the product in brackets is 36 matrix products. In ST-LSTM, all readers of a state share its
transform, and convolutions whose results are added share one transform back.
Letters: C and K channels, B clips, y x rows and columns of tiles, P = B*y*x tiles.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from timeit import timeit
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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

AT_ONCE = 144        # tiles of a recurrent state that are computed at once
SMALL = 768          # channels times side of the features, below which nothing is gained, and nothing is tried


@torch.inference_mode()
def swap_in(model: Any, kernels: str, image_size: int, batch: int) -> str:
    """Replace layers of a model by faster ones with equal results up to rounding; say what was replaced.

    Candidates are the ST-LSTM cells, and the convolutions of E_glo and the decoder at 1/4 and 1/8 of the frame. Where
    the features are larger, the transforms cost more than the products save. With `kernels` "winograd" all are
    replaced, with "auto" those that a trial on the shapes of `batch` windows finds faster (of one in the decoder). The
    decoder is shortened where it can be, without a trial.
    """
    always, cells, convolutions, short = kernels == "winograd", 0, 0, shorten(model)

    # The recurrent cells are alike; one is tried, with states of tiles.
    branch = getattr(model, "local_branch", None)
    if branch and isinstance(branch.cells[0], STLSTMCell):
        cell, side = branch.cells[-1], image_size // 4
        fast, grid = WinogradCell(cell), Grid(min(batch, clips_at_once(side, side)), side, side)
        tiles = torch.ones(16, grid.B * grid.y * grid.x, cell.hidden)
        images = grid.images(tiles)

        def step() -> None:
            x, H, M = (State(tiles, grid) for _ in range(3))
            fast.step(x, fast.from_x, H, tiles, M, grid)

        alike = cell.conv_x.in_channels == cell.hidden
        if always or alike and cell.hidden * side >= SMALL and is_faster(lambda: cell(*[images] * 4), step):
            model.local_branch, cells = WinogradBranch(branch), len(branch.cells)

    # The convolutions.
    boxes = [(getattr(model, name, None), count) for name, count in
             (("prototype_encoder", batch), ("encoder", batch), ("decoder", 1))]
    blocks = [(getattr(box, f"block{k}"), 2 ** (k - 1), count) for box, count in boxes if box for k in (3, 4)]
    if short:
        blocks.append((model.short.of_queries, 8, batch))
    for block, scale, count in blocks:
        for k, conv in enumerate(block):
            side = image_size // scale
            if isinstance(conv, nn.Conv2d) and (always or conv.in_channels * side >= SMALL):
                images = torch.ones(count, conv.in_channels, side, side).contiguous(memory_format=torch.channels_last)
                quick = WinogradConv(conv)
                if always or is_faster(partial(conv, images), partial(quick, images)):
                    block[k], convolutions = quick, convolutions + 1
    counts = ", ".join(f"{count} {kind}" for count, kind in ((cells, "cells"), (convolutions, "convolutions")) if count)
    return (f"winograd ({counts})" if counts else "direct") + ", short decoder" * short


def clips_at_once(h: int, w: int) -> int:
    """Return how many clips with features of this size recur together, so that their states stay in the cache."""
    return max(1, 16 * AT_ONCE // (h * w))


def is_faster(direct: Callable, fast: Callable) -> bool:
    """Return whether the second call is 1.1 times faster than the first, by the quickest of three runs each."""
    rounds = [(timeit(direct, number=1), timeit(fast, number=1)) for _ in range(3)]
    of_direct, of_fast = zip(*rounds)
    return min(of_direct) > 1.1 * min(of_fast)


def transform_filters(weight: Tensor) -> Tensor:
    """Transform filters (K, C, 3, 3) to (36, C, K)."""
    return torch.einsum("ai,kcij,bj->abck", G, weight.double(), G).flatten(0, 1).float().contiguous()


def transform_back(products: Tensor) -> Tensor:
    """Transform products (36, P, K) to tiles (16, P, K)."""
    return (TO_TILE @ products.flatten(1)).view(16, -1, products.shape[2])


class Grid:
    """How images (B, C, h, w) are cut in tiles of 4 x 4; the last row and column of tiles may hang over."""

    def __init__(self, B: int, h: int, w: int):
        self.B, self.h, self.w = B, h, w
        self.y, self.x = -(-h // 4), -(-w // 4)

    def patches(self, images: Tensor) -> Tensor:
        """Surround images (B, C, h, w) by zeros and transform their patches to (36, P, C)."""
        B, y, x = self.B, self.y, self.x
        images = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 4 * x - self.w + 3, 1, 4 * y - self.h + 3))
        # A patch has four rows and columns of its own, and two of the next one. To call `unfold` would train slower.
        rows = images.view(B, y + 1, 4, 4 * (x + 1), -1).permute(2, 0, 1, 3, 4)
        rows = torch.cat([rows[:, :, :-1], rows[:2, :, 1:]]).view(6, B, y, x + 1, 4, -1)
        columns = rows.permute(0, 4, 1, 2, 3, 5)
        patches = torch.cat([columns[..., :-1, :], columns[:, :2, ..., 1:, :]], dim=1)          # (6, 6, B, y, x, C)
        return (TO_PATCH @ patches.view(36, -1)).view(36, B * y * x, -1)

    def images(self, tiles: Tensor) -> Tensor:
        """Lay tiles (16, P, C) out as images (B, C, h, w), channels last."""
        images = tiles.view(4, 4, self.B, self.y, self.x, -1).permute(2, 3, 0, 4, 1, 5)          # (B, y, 4, x, 4, C)
        return images.reshape(self.B, 4 * self.y, 4 * self.x, -1)[:, :self.h, :self.w].permute(0, 3, 1, 2)


class State:
    """A recurrent state in tiles, (16, P, C), or features (B, C, h, w); transformed once, when a reader asks first."""

    def __init__(self, tiles: Tensor, grid: Grid):
        self.tiles, self.grid = tiles, grid

    @cached_property
    def patches(self) -> Tensor:
        """The state as the products need it, (36, P, C)."""
        return self.grid.patches(self.tiles if self.tiles.ndim == 4 else self.grid.images(self.tiles))


class WinogradCell:
    """An `STLSTMCell` whose convolutions are products in the transformed space; states and gates are in tiles.

    As a sigmoid takes a third of the time of a tanh, tanh(x) is computed as 1 - 2 sigmoid(-2x).
    """

    def __init__(self, cell: STLSTMCell):
        D = cell.hidden
        from_x, from_h, from_m, from_o = (transform_filters(conv.weight) for conv in
                                          (cell.conv_x, cell.conv_h, cell.conv_m, cell.conv_o))
        (i, f, g, i_M, f_M, g_M, o), (i_H, f_H, g_H, o_H) = from_x.split(D, dim=2), from_h.split(D, dim=2)
        self.from_x = [torch.cat([f, i, -2 * g], dim=2), torch.cat([f_M, i_M, -2 * g_M], dim=2), o.contiguous()]
        self.C_from_H, self.o_from_H = torch.cat([f_H, i_H, -2 * g_H], dim=2), o_H.contiguous()  # (36, D, 3D and D)
        i, f, g = from_m.split(D, dim=2)
        self.M_from_M = torch.cat([f, i, -2 * g], dim=2)                                         # (36, D, 3D)
        self.o_from_C, self.o_from_M = (part.contiguous() for part in from_o.split(D, dim=1))    # (36, D, D)
        self.last = -2 * cell.conv_1x1.weight[:, :, 0, 0].T                                      # (2D, D)
        self.forget_bias, self.hidden = cell.forget_bias, D

    def step(self, x: State | None, of_x: Sequence[Tensor], H: State | None, C: Tensor | None, M: State | None,
             grid: Grid) -> tuple[State, Tensor, State]:
        """Do as `STLSTMCell.step`. `of_x` has three parts, for C, M and o; `add_up` says what `x` and each part are."""
        for_C, for_M, for_o = of_x
        C = self.remember(C, x, for_C, (H, self.C_from_H))
        M = State(self.remember(M.tiles if M else None, x, for_M, (M, self.M_from_M)), grid)

        o = add_up(x, for_o, (H, self.o_from_H), (State(C, grid), self.o_from_C), (M, self.o_from_M)).sigmoid_()
        memory = (torch.cat([C, M.tiles], dim=2) @ self.last).sigmoid_()
        return State(torch.addcmul(o, o, memory, value=-2), grid), C, M

    def remember(self, state: Tensor | None, x: State | None, of_x: Tensor, *terms: tuple) -> Tensor:
        """Compute the new state C or M from the old one and the terms of its gates f, i and g; no f without a state."""
        D = self.hidden
        if state is None:
            i, g = add_up(x, of_x[..., D:]).sigmoid_().split(D, dim=2)
            return torch.addcmul(i, i, g, value=-2)
        gates = add_up(x, of_x, *terms)
        gates[..., :D] += self.forget_bias
        f, i, g = gates.sigmoid_().split(D, dim=2)
        return torch.addcmul(i, i, g, value=-2).addcmul_(f, state)


def add_up(x: State | None, of_x: Tensor, *terms: tuple[State | None, Tensor]) -> Tensor:
    """Add up convolutions of states by their weights (36, C, K), as tiles (16, P, K). A state of None adds nothing.

    `of_x` are the weights for the input `x`. Where `x` is None, `of_x` is its convolution already, (16, B, P / B, K).
    """
    pairs = [(state.patches, weights) for state, weights in ((x, of_x), *terms) if state]
    if not pairs:
        return of_x.clone(memory_format=torch.contiguous_format).flatten(1, 2)
    products = torch.bmm(*pairs[0])
    for pair in pairs[1:]:
        products.baddbmm_(*pair)
    tiles = transform_back(products)
    if not x:
        tiles.view(of_x.shape).add_(of_x)
    return tiles


class WinogradBranch(nn.Module):
    """A `LocalBranch` with ST-LSTM cells, in float32; equal to it up to rounding, and so are its gradients."""

    def __init__(self, branch: LocalBranch, recompute: bool = False):
        super().__init__()
        self.encoder, self.encode, self.deconv, self.recompute = branch.encoder, branch.encode, branch.deconv, recompute
        self.cells = [WinogradCell(cell) for cell in branch.cells]
        self.of_frames = torch.cat(self.cells[0].from_x, dim=2)                                  # (36, C, 7D)

    def forward(self, clip: Tensor, gates: list[Tensor] | None = None) -> Tensor:
        """See `LocalBranch.forward`. The clips are taken `clips_at_once`."""
        h, w = clip.shape[3] // 4, clip.shape[4] // 4
        recur = partial(self.recur, h=h, w=w, known=bool(gates))
        if self.recompute:
            recur = partial(checkpoint, recur, use_reentrant=False)
        by_frame = [frame.split(clips_at_once(h, w)) for frame in gates or self.encode(clip)]
        return self.deconv(torch.cat([recur(clips) for clips in zip(*by_frame)]))

    def recur(self, frames: Sequence[Tensor], h: int, w: int, known: bool) -> Tensor:
        """See `LocalBranch.stp_net`; here for B clips' frames: gates (B, 16, y * x, 7D) if `known`, else E_loc's."""
        grid = Grid(len(frames[0]), h, w)
        H: list[Any] = [None] * len(self.cells)
        C: list[Any] = [None] * len(self.cells)
        M: Any = None
        for frame in frames:
            x: Any = State(frame, grid)
            of_x = self.cells[0].from_x
            if known:
                x, of_x = None, frame.transpose(0, 1).split([weights.shape[2] for weights in of_x], dim=3)
            for k, cell in enumerate(self.cells):
                H[k], C[k], M = cell.step(x, of_x if k == 0 else cell.from_x, H[k], C[k], M, grid)
                x = H[k]
        return grid.images(torch.cat([H[-1].tiles, M.tiles], dim=2))

    def frame_gates(self, frames: Tensor) -> Tensor:
        """See `LocalBranch.frame_gates`; here these are in tiles, (T, 16, y * x, 7D)."""
        return self.products(self.encoder(frames))

    def products(self, features: Tensor) -> Tensor:
        """Compute layer 1's conv_x from the features (T, C, h, w) of frames. The benchmark times it alone."""
        patches = Grid(len(features), *features.shape[2:]).patches(features)
        gates = transform_back(torch.bmm(patches, self.of_frames))
        return gates.unflatten(1, (len(features), -1)).transpose(0, 1)


def train_by_winograd(model: Any, recompute: bool) -> None:
    """Train a model's ST-LSTM cells by Winograd, in place; `recompute`: the backward pass runs each clip again."""
    branch = getattr(model, "local_branch", None)
    if branch and isinstance(branch.cells[0], STLSTMCell):
        branch.forward = partial(forward_by_winograd, branch, recompute)


def forward_by_winograd(branch: LocalBranch, recompute: bool, clip: Tensor, gates: Any = None) -> Tensor:
    """Do as `LocalBranch.forward`. A copy that scores frames amid the training has the plain `gates`, and uses them."""
    return LocalBranch.forward(branch, clip, gates) if gates else WinogradBranch(branch, recompute)(clip)


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 that keeps the size."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.filters = transform_filters(conv.weight)
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, h, w)."""
        grid = Grid(len(x), *x.shape[2:])
        return grid.images(transform_back(torch.bmm(grid.patches(x), self.filters)).add_(self.bias))


def shorten(model: nn.Module) -> bool:
    """Give LGN-Net or LGN-ST with few items a `ShortDecoder`, in place; return whether that is done."""
    network: Any = model
    if type(model) is not LGNNet or not network.local_branch or not network.memory or network.skips \
            or 4 * len(network.memory.items) > network.memory.items.shape[1]:
        return False
    network.local_branch.deconv.append(half(network.decoder.head[0], 1))
    network.short = short = ShortDecoder(network)
    network.read, network.decode = short.read, short.decode
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
        self.weight, self.bias = first.weight[:, -D:].permute(0, 2, 3, 1).contiguous().detach(), first.bias
        self.of_queries = nn.Sequential(*[half(first, 0)] * network.concat_query)
        self.encode_all, self.decoder = network.encode, decoder
        decoder.block4, decoder.head = decoder.block4[1:], nn.Identity()
        self.head, self.tail = half(head[0], 0), head[1:]
        self.head.bias = head[0].bias
        self.items = self.kernels = torch.zeros(0)

    def encode(self, clip: Tensor, gates: list[Tensor] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """See `FramePredictor.encode`; the context has the first convolution of the queries, too."""
        queries, context = self.encode_all(clip, gates)
        return queries, context | {"queries": self.of_queries(queries[0])}

    def read(self, queries: list[Tensor]) -> list[Lookup]:
        """See `FramePredictor.read`; the prototypes have passed the first convolution."""
        lookup = self.memory.lookup(queries[0])
        if not torch.equal(self.items, self.memory.items):
            self.items = self.memory.items.clone()
            self.kernels = (self.weight @ self.items.T).permute(0, 3, 1, 2)                    # (8 * width, M, 3, 3)
        B, _, h, w = queries[0].shape
        read_weights = lookup.similarity.softmax(dim=1).view(B, h, w, -1).permute(0, 3, 1, 2)  # (B, M, h, w)
        return [lookup._replace(prototypes=F.conv2d(read_weights, self.kernels, self.bias, padding=1))]

    def decode(self, lookups: list[Lookup], context: dict[str, Tensor]) -> Tensor:
        """See `FramePredictor.decode`; the context's "local" has passed the head's first convolution."""
        x = self.decoder(lookups[0].prototypes + context.get("queries", 0))
        return self.tail(self.head(x).add_(context["local"]))
