"""One training step: a batch in shares, over parts and processes; and the network made ready for it."""

import contextlib
import math
import warnings
from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

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
from lgn_net.model.losses import compute_losses
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.st_lstm import ConvLSTMCell, STLSTMCell


class Share(NamedTuple):
    """What one process takes of a batch at once."""

    windows: list[int]      # indices
    weight: float           # windows over those of the batch; 0 for a process that finds none left and takes any one


def shares_of(batch: list[int], parts: int) -> list[Share]:
    """This process's shares of a batch of window indices, in `parts` or, where it has too few windows, in fewer.

    Every process has as many, so that they meet in every pass.
    """
    parts = min(parts, math.ceil(len(batch) / world_size()))
    pieces = np.array_split(batch, parts * world_size())[rank() * parts:(rank() + 1) * parts]
    return [Share(piece.tolist() or batch[:1], len(piece) / len(batch)) for piece in pieces]


def train_step(forward: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer, shares: list[Share],
               clips: Iterator[Tensor], config: Config, sample: bool = False) -> tuple[Tensor, list[Tensor]]:
    """One step of the optimizer on a batch, then the memories' update by its queries, of before the step.

    Args:
        forward: the model as `prepare` made it ready.
        shares: what this process takes of the batch.
        clips: yields the windows of each share, uint8 (B, T, C, H, W).
        sample: make the memories' items anew from the queries instead.

    Returns:
        what this process adds to the losses of the whole batch, in the order of `Losses`, (4,); and of each memory, of
        how many queries of the whole batch each item was the nearest, (M,).
    """
    optimizer.zero_grad()
    device = next(model.parameters()).device
    losses, queries = torch.zeros(4, device=device), []
    for k, share in enumerate(shares, 1):
        clip = to_float(next(clips).to(device, non_blocking=True))            # (B, T, C, H, W) in [-1, 1]
        alone = isinstance(forward, DistributedDataParallel) and k < len(shares)
        with forward.no_sync() if alone else contextlib.nullcontext():        # the processes meet in the last share
            with autocast(device, config.train.precision):
                out = forward(clip[:, :config.model.input_frames])
            of_share = compute_losses(out, clip[:, -1], model.memories, config.loss.compactness,
                                      config.loss.separateness, config.loss.margin)
            (of_share.total * (share.weight * world_size())).backward()       # gradients are averaged over processes
        losses += torch.stack(of_share).detach() * share.weight
        queries.append([q[:len(clip) if share.weight else 0].detach() for q in out.queries])
    optimizer.step()
    queries = [torch.cat(of_memory) for of_memory in zip(*queries)]
    learn = PrototypeMemory.sample_ if sample else PrototypeMemory.update_
    return losses, [learn(memory, q) for memory, q in zip(model.memories, queries)]


def prepare(model: nn.Module, config: Config, device: torch.device,
            batch_sizes: Collection[int] = ()) -> nn.Module:
    """What to call in training in place of the model, with the same weights: the switches of `config.train`.

    Statistics of BatchNorm over all processes, activation checkpointing, torch.compile (for batches of these sizes),
    and gradients averaged over the processes.
    """
    if world_size() > 1 and config.train.sync_batch_norm:
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            warnings.warn("BatchNorm takes the statistics of each process's share of the batch; those of the whole "
                          "batch (train.sync_batch_norm) need GPUs")
    if config.train.checkpoint_activations:
        recompute_activations(model)
    forward = compiled(model, config, device, batch_sizes) if config.train.compile else model
    if world_size() > 1:
        unused = config.model.input_frames == 1 and model.local_branch is not None      # convolutions of the states
        with warnings.catch_warnings(action="ignore", category=FutureWarning):          # PyTorch 2.13 renames a word
            forward = DistributedDataParallel(forward, [device] if device.type == "cuda" else None,
                                              broadcast_buffers=False, gradient_as_bucket_view=True,
                                              find_unused_parameters=unused)
    return forward


def compiled(model: nn.Module, config: Config, device: torch.device, batch_sizes: Collection[int]) -> nn.Module:
    """The model by torch.compile, tried on clips of zeros; where that fails the model itself, after a warning."""
    # On every process as many trials: SyncBatchNorm lets them wait for each other.
    sizes = [len(share.windows) for B in sorted(batch_sizes)
             for share in shares_of([*range(B)], config.train.accumulate)]
    print(f"compiling for shares of {' and '.join(map(str, sorted(set(sizes))))} windows, which takes minutes",
          flush=True)
    shape = config.model.input_frames, config.data.channels, config.data.image_size, config.data.image_size
    before = [buffer.clone() for buffer in model.buffers()]
    forward = torch.compile(model, dynamic=False)
    try:
        for size in sizes:
            with autocast(device, config.train.precision):
                out = forward(torch.zeros(size, *shape, device=device))
            out.prediction.float().mean().backward()
    except Exception as error:                # whatever a compiler, or the lack of one, can raise
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        warnings.warn(f"torch.compile does not work here ({type(error).__name__}: {reason}); training goes on without "
                      f"it")
        forward = model
    for buffer, values in zip(model.buffers(), before):
        buffer.copy_(values)
    model.zero_grad()
    return forward


def recompute_activations(model: nn.Module) -> None:
    """Keep only what enters each block and recurrent cell, and compute the rest again in the backward pass."""
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            again = partial(recomputing, [m for m in module.modules() if isinstance(m, _BatchNorm)])
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, context_fn=again)
        elif isinstance(module, (STLSTMCell, ConvLSTMCell)):
            module.step = partial(checkpoint, module.step, use_reentrant=False)


def recomputing(norms: list[nn.Module]) -> tuple[contextlib.AbstractContextManager, ...]:
    """The contexts of the first and of the second computation: in the second, BatchNorm's averages are left alone."""

    @contextlib.contextmanager
    def second() -> Iterator[None]:
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
        try:
            yield                             # ends by an exception once all that was missing is there
        finally:
            for norm, values in zip(norms, before):
                norm.momentum, norm.num_batches_tracked = values

    return contextlib.nullcontext(), second()
