"""Configuration -> model: the only wiring, and the family by name."""

import torch
from torch import nn

from lgn_net.config import Config
from lgn_net.model.lgn_net import LGNNet, LocNet
from lgn_net.model.msn_net import MSNNet

# What makes each relative of LGN-Net out of its boxes (docs/differences.md, "The family").
VARIANTS = {
    "lgn_net": {},
    "lgn_st": {"cell": "conv_lstm"},
    "glo_net": {"cell": None, "concat_query": True},
    "mnad_pred": {"cell": None, "concat_query": True, "skips": True},
    "mnad_recon": {"cell": None, "concat_query": True, "wide": True},
}


def build_model(config: Config) -> nn.Module:
    """A freshly initialised model, channels last; its weights and items come from torch's global random state."""
    knobs = config.model
    sizes = {"channels": config.data.channels, "base_width": knobs.base_width}
    memory = {"memory_items": knobs.memory_items if knobs.memory else 0, "read_grad": knobs.read_grad,
              "update_max": knobs.update_max, "read_temperature": knobs.read_temperature, "ema": knobs.ema,
              "revive_after": knobs.revive_after}
    recurrent = {"hidden_width": knobs.hidden_width, "lstm_layers": knobs.lstm_layers, "fold_time": knobs.fold_time}
    if knobs.name == "loc_net":
        model = LocNet(**sizes, **recurrent)
    elif knobs.name == "msn_net":
        model = MSNNet(knobs.input_frames, **sizes, **memory)
    else:
        switches = {"skips": knobs.skips, "concat_query": knobs.concat_query} | VARIANTS[knobs.name]
        model = LGNNet(knobs.input_frames, **sizes, **recurrent, forget_bias=knobs.forget_bias, **switches, **memory)
    if knobs.bn_init == "uniform":                        # as PyTorch 1.1 did, see docs/differences.md, 15
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
    return model.to(memory_format=torch.channels_last)
