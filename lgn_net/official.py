"""The authors' checkpoint pair, `<n>model.pth` and `<n>keys.pt`, of LGN-Net or of MNAD, as a state of ours."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lgn_net.config import Config
from lgn_net.errors import UserError
from lgn_net.model.build import VARIANTS
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.memory import PrototypeMemory
from lgn_net.training.checkpoint import load_file

SYSTEMS = {"lgn_net": "LGN-Net", "mnad_pred": "MNAD-Pred", "mnad_recon": "MNAD-Recon"}       # whose files are read

# Prefixes of our names and the authors'. Within a block the numbers are the same.
NAMES = {
    "prototype_encoder.block": "encoder.moduleConv",
    "decoder.block4": "decoder.moduleConv",
    "decoder.block": "decoder.moduleDeconv",
    "decoder.up": "decoder.moduleUpsample",
    "decoder.head": "decoder.moduleDeconv1",
    "local_branch.encoder": "pred.encoder",
    "local_branch.cells": "pred.convlstm_list",
    "local_branch.deconv": "st_decoder",
}
UNUSED = "encoder.moduleBatchNorm."       # in the authors' files, never used by their network
FIRST, LAST = "encoder.moduleConv1.0.weight", "decoder.moduleDeconv1.6.weight"
BOTTOM, UP = "decoder.moduleConv.0.weight", "decoder.moduleUpsample4.0.weight"
STATE = "pred.convlstm_list.0.conv_h.0.weight"


def official_name(name: str) -> str:
    """Translate our name of a weight into the authors'."""
    prefix = next(prefix for prefix in NAMES if name.startswith(prefix))
    name = NAMES[prefix] + name.removeprefix(prefix)
    for gate in ("conv_x", "conv_h", "conv_m", "conv_o"):
        name = name.replace(f"{gate}.weight", f"{gate}.0.weight")
    return name.replace("conv_1x1", "conv_last")


def load_official(model_path: str | Path, items_path: str | Path | None) -> tuple[str, dict, dict]:
    """Read the authors' pair: their state_dict, and their memory items (M, D).

    Returns which system it is, a key of `SYSTEMS`; the sizes of the network, read off the shapes, as keyword arguments
    of `LGNNet`; and its state_dict, memory items included. UserError where names or shapes are not LGN-Net's or MNAD's.
    """
    if items_path is None:
        raise UserError(f"{model_path} needs its memory items; the authors save them beside the model as <n>keys.pt, "
                        f"and without them every score is meaningless")
    official, items = load_file(model_path), load_file(items_path)
    if not isinstance(official, dict) or not all(isinstance(value, Tensor) for value in official.values()):
        raise UserError(f"{model_path} is no state_dict of tensors; give the model first, then its items")
    if not isinstance(items, Tensor) or items.dim() != 2:
        raise UserError(f"{items_path} holds {describe(items)}; expected the memory items, a tensor of M x D")
    items = items.detach().float()
    if not torch.allclose(items.norm(dim=1), torch.ones(len(items)), atol=1e-3):
        warnings.warn(f"{items_path}: the items are not of unit length; is this the file that belongs to the model?")

    system = infer_system(official)
    sizes = infer_sizes(official, system, model_path)
    with torch.device("meta"):
        expected = LGNNet(partial(PrototypeMemory, len(items)), **sizes, **VARIANTS[system]).state_dict()
    features = expected.pop("memory.items").shape[1]
    state: dict = {"memory.items": items}
    problems = []
    for name, value in expected.items():
        state[name] = theirs = official.get(official_name(name))
        if theirs is None or theirs.shape != value.shape:
            problems.append(f"{official_name(name)} is {describe(theirs)}, expected {describe(value)}")
        elif not theirs.isfinite().all():
            problems.append(f"{official_name(name)} is not finite")
    known = set(map(official_name, expected))
    problems += [f"{name} is unknown" for name in official if name not in known and not str(name).startswith(UNUSED)]
    if items.shape[1] != features or not items.isfinite().all():
        problems.append(f"the items in {items_path} have {items.shape[1]} features, the model's queries {features}, or "
                        f"are not finite")
    if problems:
        raise UserError(f"{model_path} is not {SYSTEMS[system]}: {'; '.join(problems[:3])}; {len(problems)} in all")
    return system, sizes, state


def import_official(config: Config, model_path: str | Path, items_path: str | Path | None) -> tuple[Config, dict]:
    """Load the authors' pair, with system and sizes written into a configuration: (configuration, state_dict)."""
    system, sizes, state = load_official(model_path, items_path)
    if config.model.name not in ("lgn_net", system):
        raise UserError(f"{model_path} is {SYSTEMS[system]}, and model.name is {config.model.name}; leave that out")
    data = replace(config.data, channels=sizes.pop("channels"))
    sizes |= {"name": system, "memory": True, "memory_items": len(state["memory.items"]), "concat_query": False}
    return replace(config, data=data, model=replace(config.model, **sizes)), state


def official_system(model_path: str | Path) -> str:
    """Return which system the authors' model file holds, a key of `SYSTEMS`; "lgn_net" for any other content."""
    content = load_file(model_path)
    return infer_system(content) if isinstance(content, dict) else "lgn_net"


def infer_system(official: dict) -> str:
    """Return a key of `SYSTEMS`: MNAD has no local branch, its decoder sees the queries; all else is "lgn_net"."""
    shapes = {name: value.shape for name, value in official.items() if isinstance(value, Tensor) and value.dim() == 4}
    local_branch = any(str(name).startswith(("pred.", "st_decoder.")) for name in official)
    if local_branch or not {FIRST, LAST, BOTTOM} <= set(shapes) or shapes[BOTTOM][1] != 16 * shapes[FIRST][0]:
        return "lgn_net"
    width, stacked, *_ = shapes[FIRST]
    narrow = UP in shapes and shapes[UP][1] == 4 * width
    return "mnad_recon" if stacked == shapes[LAST][0] and not narrow else "mnad_pred"


def infer_sizes(official: dict, system: str, path: str | Path) -> dict:
    """Read keyword arguments of LGNNet off the shapes of the authors' weights. UserError where one is missing."""
    for name in (FIRST, LAST, STATE)[:3 if system == "lgn_net" else 2]:
        if name not in official or official[name].dim() != 4 or 0 in official[name].shape:
            raise UserError(f"{path} is not LGN-Net, nor MNAD: {name} is {describe(official.get(name))}; what is read "
                            f"here is the authors' state_dict of either")
    base_width, stacked = official[FIRST].shape[:2]
    channels = official[LAST].shape[0]
    sizes = {"input_frames": max(stacked // channels, 1), "channels": channels, "base_width": base_width}
    if system == "lgn_net":
        layers = {name.split(".")[2] for name in official if str(name).startswith("pred.convlstm_list.")}
        sizes |= {"hidden_width": official[STATE].shape[1], "lstm_layers": len(layers)}
    return sizes


def describe(value: object) -> str:
    """Describe a tensor as `64 x 12 x 3 x 3`, anything else by its type, None as `missing`."""
    if isinstance(value, Tensor):
        return " x ".join(map(str, value.shape)) or "a number"
    return "missing" if value is None else type(value).__name__
