"""Several processes as one run, under torchrun. In a single process every function gives back what it got."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lgn_net.errors import UserError


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes that torchrun has started, if it did, and yield this one's device.

    All but the first are silent, save for errors. UserError when they would have to share a device, or when another one
    of them ended early.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device.index is not None or local >= gpus:
            raise UserError(f"each process needs a GPU of its own, and there are {gpus}: leave --device out, and give "
                            f"--nproc_per_node {gpus}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))   # to pack frames
    with contextlib.ExitStack() as quiet:
        if rank():
            quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
            quiet.enter_context(warnings.catch_warnings(action="ignore"))
        try:
            yield device
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
                raise
            raise UserError(f"process {rank()} cannot go on: another one ended, see its last words") from None
    dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0; the first one logs and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def reduce(values: Tensor, how: str = "SUM") -> Tensor:
    """Combine values over all processes, entry by entry: their sum, or the largest by `how` "MAX"."""
    if world_size() > 1:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values, getattr(dist.ReduceOp, how))
    return values


def collect(item: Any) -> list:
    """Return the `item` of each process, in their order, on every process; tensors must be on the CPU."""
    items = [item] * world_size()
    if world_size() > 1:
        dist.all_gather_object(items, item)
    return items


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()
