"""The authors' checkpoint pair, `<n>model.pth` and `<n>keys.pt`, as a state of ours."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lgn_net.checkpoint import load_file
from lgn_net.config import Config
from lgn_net.errors import UserError
from lgn_net.model.lgn_net import LGNNet

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


def official_name(name: str) -> str:
    """Our name of a weight -> the authors'."""
    prefix = next(prefix for prefix in NAMES if name.startswith(prefix))
    name = NAMES[prefix] + name.removeprefix(prefix)
    for gate in ("conv_x", "conv_h", "conv_m", "conv_o"):
        name = name.replace(f"{gate}.weight", f"{gate}.0.weight")
    return name.replace("conv_1x1", "conv_last")


def load_official(model_path: str | Path, items_path: str | Path | None) -> tuple[dict, dict]:
    """Read the authors' pair.

    Args:
        model_path: their state_dict.
        items_path: their memory items, a tensor (M, D).

    Returns:
        The sizes of the network, read off the shapes, as keyword arguments of `LGNNet`; and its state_dict, memory
        items included.

    Raises:
        UserError: a file is missing, is no state_dict or no tensor, or names or shapes are not LGN-Net's.
    """
    if items_path is None or not Path(items_path).is_file():
        given = f"{items_path} is not there" if items_path else "none were given"
        raise UserError(f"{model_path} needs its memory items, and {given}; the authors "
                        f"save them beside the model as <n>keys.pt, and without them every score is meaningless")
    official, items = load_file(model_path), load_file(items_path)
    if isinstance(official, Tensor) and isinstance(items, dict):
        raise UserError(f"{model_path} holds memory items and {items_path} the model: give the model first")
    if not isinstance(official, dict) or not all(isinstance(value, Tensor) for value in official.values()):
        raise UserError(f"{model_path} is no state_dict of tensors; save it with torch.save(model.state_dict(), FILE)")
    if not isinstance(items, Tensor) or items.dim() != 2 or len(items) < 2:
        raise UserError(f"{items_path} holds {describe(items)}; expected the memory items, a tensor of M x D with M > 1")
    items = items.detach().float()
    if not items.isfinite().all():
        raise UserError(f"{items_path} holds items that are not finite; the file is damaged")

    sizes = infer_sizes(official, items, model_path)
    with torch.device("meta"):
        expected = LGNNet(**sizes).state_dict()
    state, problems = {"memory.items": items}, []
    for name, value in expected.items():
        if name == "memory.items":
            continue
        theirs = official.get(official_name(name))
        if theirs is None or theirs.shape != value.shape:
            problems.append(f"{official_name(name)} is {describe(theirs)}, expected {describe(value)}")
        state[name] = theirs
    problems += [f"{official_name(name)} is not finite" for name, value in state.items()
                 if value is not None and name != "memory.items" and not value.isfinite().all()]
    known = {official_name(name) for name in expected if name != "memory.items"}
    problems += [f"{name} is unknown" for name in official if name not in known and not str(name).startswith(UNUSED)]
    if items.shape[1] != expected["memory.items"].shape[1]:
        problems.append(f"the items in {items_path} have {items.shape[1]} features, the model's queries "
                        f"{expected['memory.items'].shape[1]}")
    if problems:
        raise UserError(f"{model_path} is not LGN-Net: {'; '.join(problems[:3])}"
                        + (f"; and {len(problems) - 3} more" if len(problems) > 3 else ""))
    if not torch.allclose(items.norm(dim=1), torch.ones(len(items)), atol=1e-3):
        warnings.warn(f"{items_path}: the items are not of unit length; is this the file that belongs to the model?")
    return sizes, state


def import_official(config: Config, model_path: str | Path, items_path: str | Path | None) -> tuple[Config, dict]:
    """`load_official`, with the network's sizes written into a configuration: (configuration, state_dict)."""
    sizes, state = load_official(model_path, items_path)
    channels = sizes.pop("channels")
    return replace(config, data=replace(config.data, channels=channels), model=replace(config.model, **sizes)), state


def infer_sizes(official: dict, items: Tensor, path: str | Path) -> dict:
    """Keyword arguments of LGNNet from the shapes of the authors' weights."""
    first, last, state = ("encoder.moduleConv1.0.weight", "decoder.moduleDeconv1.6.weight",
                          "pred.convlstm_list.0.conv_h.0.weight")
    for name in (first, last, state):
        if name not in official or official[name].dim() != 4 or 0 in official[name].shape:
            raise UserError(f"{path} is not LGN-Net: {name} is {describe(official.get(name))}; what is read here is the "
                            f"authors' LGN-Net state_dict")
    base_width, stacked = official[first].shape[:2]
    channels, hidden_width = official[last].shape[0], official[state].shape[1]
    layers = {name.split(".")[2] for name in official if str(name).startswith("pred.convlstm_list.")}
    return dict(input_frames=max(stacked // channels, 1), channels=channels, base_width=base_width,
                hidden_width=hidden_width, lstm_layers=len(layers), memory_items=len(items))


def describe(value: object) -> str:
    """A shape as `64 x 12 x 3 x 3`; the type of what is no tensor; `missing`."""
    if isinstance(value, Tensor):
        return " x ".join(map(str, value.shape)) or "a number"
    return "missing" if value is None else type(value).__name__
