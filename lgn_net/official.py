"""The authors' checkpoint pair, `<n>model.pth` and `<n>keys.pt`, of LGN-Net or of MNAD, as a state of ours."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgn_net.config import Config, with_knobs
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
UP, STATE = "decoder.moduleUpsample4.0.weight", "pred.convlstm_list.0.conv_h.0.weight"


def official_name(name: str) -> str:
    """Translate our name of a weight into the authors'."""
    prefix = next(prefix for prefix in NAMES if name.startswith(prefix))
    name = NAMES[prefix] + name.removeprefix(prefix)
    for gate in ("conv_x", "conv_h", "conv_m", "conv_o"):
        name = name.replace(f"{gate}.weight", f"{gate}.0.weight")
    return name.replace("conv_1x1", "conv_last")


def load_unwrapped(path: str | Path) -> Any:
    """Load one of the authors' files, without what others wrap around it: containers, prefixes of all names."""
    content = load_file(path)
    dicts = [content] if isinstance(content, dict) else []
    for one in dicts:                          # the list grows: a breadth-first search for a state_dict
        if found := next((str(name) for name in one if str(name).endswith(FIRST)), ""):
            prefix = found.removesuffix(FIRST)
            return {str(name).removeprefix(prefix): value for name, value in one.items()}
        dicts += [value for value in one.values() if isinstance(value, dict)] if len(dicts) < 100 else []
    return next(iter(content.values())) if dicts and len(content) == 1 else content


def import_official(config: Config, model_path: str | Path, items_path: str | Path | None) -> tuple[Config, dict]:
    """Read the authors' pair: their state_dict, and their memory items (M, D).

    Returns the configuration with the system, and its sizes as the shapes tell them; and the state_dict of our network,
    memory items included. UserError where names or shapes do not fit.
    """
    official, items = load_unwrapped(model_path), load_unwrapped(items_path) if items_path else None
    if not isinstance(official, dict) or not isinstance(items, Tensor) or items.dim() != 2:
        raise UserError(f"{model_path} should hold a state_dict, and {items_path or 'a second file'} the memory items, "
                        f"M x D, saved beside it by the authors as <n>keys.pt; without them no score means anything")

    # Read the sizes off the weights' shapes.
    system = official_system(official)
    if missing := [name for name in (FIRST, LAST, STATE)[:3 if system == "lgn_net" else 2] if name not in official]:
        raise UserError(f"{model_path} is not the state_dict of LGN-Net, nor of MNAD: {missing[0]} is missing")
    (base_width, stacked), channels = official[FIRST].shape[:2], len(official[LAST])
    sizes: dict[str, Any] = {"input_frames": max(stacked // channels, 1), "base_width": base_width}
    if system == "lgn_net":
        layers = {name.split(".")[2] for name in official if name.startswith("pred.convlstm_list.")}
        sizes |= {"hidden_width": official[STATE].shape[1], "lstm_layers": len(layers)}

    # Compare names and shapes with those of our network of these sizes.
    with torch.device("meta"):
        network = LGNNet(partial(PrototypeMemory, len(items)), channels=channels, **sizes, **VARIANTS[system])
    expected = network.state_dict()
    theirs = {name: str(items_path) if name == "memory.items" else official_name(name) for name in expected}
    official |= {str(items_path): items.detach().float()}
    problems = [f"{name} is unknown" for name in official if not (name in theirs.values() or name.startswith(UNUSED))]
    for name, value in expected.items():
        shape = tuple(official[theirs[name]].shape) if theirs[name] in official else "missing"
        if shape != tuple(value.shape):
            problems.append(f"{theirs[name]} is {shape}, expected {tuple(value.shape)}")
    if problems:
        raise UserError(f"{model_path} is not {SYSTEMS[system]}: {'; '.join(problems[:3])}; {len(problems)} in all")
    sizes |= {"name": system, "memory": True, "memory_items": len(items), "concat_query": False}
    config = with_knobs(config, {"data.channels": channels} | {f"model.{name}": sizes[name] for name in sizes})
    return config, {name: official[theirs[name]] for name in expected}


def official_system(content: Any) -> str:
    """Return whose state_dict this is, a key of `SYSTEMS`; "lgn_net" for any other content of a file.

    MNAD has no local branch; MNAD-Recon sees a single frame, and has no skips.
    """
    if (not isinstance(content, dict) or not {FIRST, LAST, UP} <= content.keys()
            or any(name.startswith(("pred.", "st_decoder.")) for name in content)):
        return "lgn_net"
    width, stacked = content[FIRST].shape[:2]
    narrow = content[UP].shape[1] == 4 * width
    return "mnad_recon" if stacked == len(content[LAST]) and not narrow else "mnad_pred"
