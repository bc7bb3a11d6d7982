"""Build a model from a configuration: the only wiring, and the family by name."""

from functools import partial

import torch
from torch import nn

from lgn_net.config import Config
from lgn_net.model.lgn_net import FramePredictor, LGNNet, LocNet, MSNNet
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.revival import RevivingMemory

# What makes each relative of LGN-Net out of its boxes (docs/differences.md, "The family").
VARIANTS: dict[str, dict] = {
    "lgn_net": {},
    "lgn_st": {"cell": "conv_lstm"},
    "glo_net": {"cell": None, "concat_query": True},
    "mnad_pred": {"cell": None, "concat_query": True, "skips": True},
    "mnad_recon": {"cell": None, "concat_query": True, "wide": True},
}


def build_model(config: Config) -> FramePredictor:
    """Build a freshly initialised model, channels last; weights and items come from torch's global random state."""
    knobs = config.model
    sizes: dict = {"channels": config.data.channels, "base_width": knobs.base_width}
    recurrent: dict = {name: getattr(knobs, name) for name in ("hidden_width", "lstm_layers", "fold_time")}
    memory: partial = partial(PrototypeMemory, knobs.memory_items, update_max=knobs.update_max,
                              read_grad=knobs.read_grad or knobs.name == "msn_net")
    if knobs.revive_after:
        memory = partial(RevivingMemory, knobs.memory_items, revive_after=knobs.revive_after, **memory.keywords)
    model: FramePredictor
    if knobs.name == "loc_net":
        model = LocNet(**sizes, **recurrent)
    elif knobs.name == "msn_net":
        model = MSNNet(memory, knobs.input_frames, **sizes)
    else:
        switches: dict = {"concat_query": knobs.concat_query, "forget_bias": knobs.forget_bias} | VARIANTS[knobs.name]
        model = LGNNet(memory if knobs.memory else None, knobs.input_frames, **sizes, **recurrent, **switches)
    if knobs.bn_init == "uniform":                        # as PyTorch 1.1 did, see docs/differences.md, 15
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
    return model.to(memory_format=torch.channels_last)
