"""Configuration -> model: the only wiring."""

from dataclasses import asdict

import torch

from lgn_net.config import Config
from lgn_net.model.lgn_net import LGNNet


def build_model(config: Config) -> LGNNet:
    """A freshly initialised model, channels last; its weights and items come from torch's global random state."""
    model = LGNNet(channels=config.data.channels, **asdict(config.model))
    return model.to(memory_format=torch.channels_last)
