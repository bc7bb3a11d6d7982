"""One training step: a batch in shares, over parts and processes; and the network made ready for it."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lgn_net.config import Config
from lgn_net.data.clips import to_float
from lgn_net.device import autocast
from lgn_net.distributed import rank, world_size
from lgn_net.inference.kernels import train_by_winograd
from lgn_net.model.losses import Losses, compute_losses
from lgn_net.model.memory import Lookup
from lgn_net.model.revival import sample_items_
from lgn_net.model.st_lstm import ConvLSTMCell, STLSTMCell


class Share(NamedTuple):
    """Windows that one process sends through the network at once."""

    windows: list[int]      # indices
    weight: float           # their part of the batch; 0 for a process that finds no window left and takes any one


def shares_of(batch: list[int], parts: int) -> list[Share]:
    """Divide a batch of window indices among the processes, `parts` shares for each; return the shares of this one.

    Of a small batch they get fewer, and all equally many, because each pass synchronises them.
    """
    parts = min(parts, math.ceil(len(batch) / world_size()))
    pieces = np.array_split(batch, parts * world_size())[rank() * parts:(rank() + 1) * parts]
    return [Share(piece.tolist() or batch[:1], len(piece) / len(batch)) for piece in pieces]


def train_step(forward: Any, model: Any, optimizer: torch.optim.Optimizer, shares: list[Share],
               clips: Iterator[Tensor], config: Config, sample: bool = False) -> tuple[Losses, list[Tensor]]:
    """Train on one batch: forward, losses, Adam, then the update of the memories with the queries of the forward pass.

    `forward` is what `prepare` made of the model. `clips` yields the windows of each share, uint8 (B, T, C, H, W). With
    `sample`, the items are replaced by queries of this batch, too (`model.memory_init queries`).

    Returns:
        losses: this process's part of the batch losses; their sum over the processes are the batch's.
        usage: for each memory, an (M,) tensor that counts the batch's queries whose nearest item it is.
    """
    optimizer.zero_grad()
    device = next(model.parameters()).device
    losses, lookups = torch.zeros(len(Losses._fields), device=device), []
    for k, share in enumerate(shares, 1):
        clip = to_float(next(clips).to(device, non_blocking=True))            # (B, T, C, H, W) in [-1, 1]
        waits = isinstance(forward, DistributedDataParallel) and k < len(shares)
        with forward.no_sync() if waits else contextlib.nullcontext():        # reduce gradients with the last share
            with autocast(device, config.train.precision):
                out = forward(clip[:, :config.model.input_frames])
            of_share = compute_losses(out, clip[:, -1], model.memories, config.loss)
            (of_share.total * (share.weight * world_size())).backward()       # gradients are averaged over processes
        losses += torch.stack(of_share).detach() * share.weight
        lookups.append([lookup.part(0, len(clip) if share.weight else 0) for lookup in out.lookups])
    optimizer.step()

    # The update takes the queries, and the items, of before the step.
    of_batch = [Lookup(*map(torch.cat, zip(*parts))) if len(shares) > 1 else parts[0] for parts in zip(*lookups)]
    usage = [memory.update_(lookup) for memory, lookup in zip(model.memories, of_batch)]
    if sample:
        for memory, lookup in zip(model.memories, of_batch):
            sample_items_(memory, lookup)
    return Losses(*losses), usage


def prepare(model: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Apply the switches of `config.train`, and return what to call in training in place of the model.

    With several processes, BatchNorm statistics and gradients are taken over all of them.
    """
    if world_size() > 1:
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            warnings.warn("BatchNorm takes the statistics of each process's share of the batch; those of the whole "
                          "batch need GPUs")
    if config.train.checkpoint_activations:
        recompute_activations(model)
    if config.train.kernels == "winograd" and config.train.precision == "float32" and device.type == "cpu":
        train_by_winograd(model, config.train.checkpoint_activations)
    forward: nn.Module = model
    if config.train.compile:
        torch._dynamo.config.suppress_errors = True                  # PyTorch says where it fails, and goes on
        forward = Compiled(model, math.ceil(config.train.batch_size / config.train.accumulate / world_size()))
    if world_size() > 1:
        unused = config.model.input_frames == 1 and getattr(model, "local_branch", None) is not None   # states' weights
        with warnings.catch_warnings(action="ignore", category=FutureWarning):          # PyTorch 2.13 renames a word
            forward = DistributedDataParallel(forward, [device] if device.type == "cuda" else None,
                                              broadcast_buffers=False, gradient_as_bucket_view=True,
                                              find_unused_parameters=unused)
    return forward


class Compiled(nn.Module):
    """A network compiled for shares of one size; smaller ones, at the end of an epoch, take it as it is."""

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size, self.compiled = model, size, torch.compile(model, dynamic=False)

    def forward(self, clip: Tensor) -> Any:
        """See `FramePredictor.forward`."""
        return self.compiled(clip) if len(clip) == self.size else self.model(clip)


def recompute_activations(model: Any) -> None:
    """Keep only what enters each block and recurrent cell, and compute the rest again in the backward pass."""
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
            module.forward = partial(      # type: ignore[method-assign]
                checkpoint, module.forward, use_reentrant=False,
                context_fn=lambda norms=norms: (contextlib.nullcontext(), without_averages(norms)))
        elif isinstance(module, (STLSTMCell, ConvLSTMCell)):
            module.step = partial(checkpoint, module.step, use_reentrant=False)      # type: ignore[method-assign]


@contextlib.contextmanager
def without_averages(norms: list) -> Iterator[None]:
    """Leave the averages of BatchNorms alone, as the second computation must."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield                                 # ends by an exception once all that was missing is there
    finally:
        for norm, values in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = values
