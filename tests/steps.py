"""A few training steps of a tiny network on drawn clips, the same however the batch is shared out."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lgn_net.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from lgn_net.data.clips import to_float
from lgn_net.distributed import reduce
from lgn_net.model.build import build_model
from lgn_net.training.step import prepare, shares_of, train_step

CPU = torch.device("cpu")
SIZES = {"base_width": 4, "hidden_width": 4, "lstm_layers": 1, "memory_items": 8}


# 24 windows of noise, each brighter or richer in contrast than the others: uint8 (24, 5, 1, 16, 16).
RNG = torch.Generator().manual_seed(0)
BRIGHTNESS, CONTRAST = (high * torch.rand(24, 1, 1, 1, 1, generator=RNG) for high in (180, 75))
CLIPS = (BRIGHTNESS + CONTRAST * torch.rand(24, 5, 1, 16, 16, generator=RNG)).to(torch.uint8)


class Steps(NamedTuple):
    """After each step its losses and, of each memory, items and usage (queries per item); the weights at the end."""

    losses: list[Tensor]
    items: list[list[Tensor]]
    usage: list[list[Tensor]]
    weights: dict[str, Tensor]


def config_of(model: dict, train: dict | None = None) -> Config:
    """The tiny network for these clips, with other knobs."""
    return Config(data=DataConfig(image_size=16, channels=1), model=ModelConfig(**SIZES | model),
                  loss=LossConfig(0.5, 0.5), train=TrainConfig(**train or {}))


def frozen_model(config: Config) -> nn.Module:
    """A drawn network in training, save for BatchNorm, which normalises by the statistics of all clips.

    Every other item is one of the queries, so that several items have some and several have none.
    """
    torch.manual_seed(0)
    model = build_model(config).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        out = model(to_float(CLIPS)[:, :config.model.input_frames])
    for norm in norms:
        norm.eval()
    for memory, lookup in zip(model.memories, out.lookups):
        memory.items[::2] = lookup.flat[::23][:len(memory.items[::2])]
    return model


def take_steps(config: Config, sizes: tuple[int, ...], sample: bool = False) -> Steps:
    """Steps on batches of these sizes, window after window, in this process's share, by gradient descent.

    Plain descent: to Adam a gradient twice as large would be the same.
    """
    model, windows = frozen_model(config), itertools.cycle(range(len(CLIPS)))
    forward, optimizer = prepare(model, config, CPU), torch.optim.SGD(model.parameters(), lr=1e-3)
    done = Steps([], [], [], model.state_dict())
    for size in sizes:
        shares = shares_of([next(windows) for _ in range(size)], config.train.accumulate)
        clips = (CLIPS[share.windows, -config.model.window:] for share in shares)
        losses, usage = train_step(forward, model, optimizer, shares, clips, config, sample and not done.losses)
        done.losses.append(reduce(torch.stack(losses)))
        done.items.append([memory.items.clone() for memory in model.memories])
        done.usage.append(usage)
    return done
