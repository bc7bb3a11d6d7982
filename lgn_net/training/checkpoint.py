"""One file is a whole run: weights, memory, optimizer, random state, position and configuration. Plain tensors only."""

import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lgn_net.cli import config_from_dict
from lgn_net.config import Config, flatten, with_knobs
from lgn_net.distributed import world_size
from lgn_net.errors import UserError
from lgn_net.files import replacing

FORMAT = "lgn_net checkpoint 1"


def save_checkpoint(path: str | Path, config: Config, model: dict, **state: object) -> None:
    """Write a checkpoint, completely or not at all: configuration, state_dict (memory items included), other state."""
    with replacing(path) as file:
        torch.save({"format": FORMAT, "config": asdict(config), "model": model, **state}, file)


def load_file(path: str | Path) -> Any:
    """Load a PyTorch file on the CPU, `weights_only`: no code in it is run. UserError when it is none, or damaged."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not there, or is no file; the checkpoints of a run are RUN/last.pt and "
                        f"RUN/epoch_NNN.pt")
    try:
        # PyTorch writes checksums into its files, and does not look at them.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                if bad := packed.testzip():
                    raise ValueError(f"the checksum of {bad}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:      # a damaged file can raise nearly anything in the unpickler
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                f"{path} is a pickled module or holds other Python objects, which is not loaded since it can run code; "
                f"where it was made, write its weights with torch.save(torch.load('{path}', weights_only=False)"
                f".state_dict(), 'state.pth')") from None
        with open(path, "rb") as file:
            start = file.read(64).lstrip()
        what = ("a saved web page; download the file that the page shows" if start.startswith(b"<") else
                "a Git LFS pointer; git lfs pull fetches the file" if start.startswith(b"version https://git-lfs") else
                f"damaged, or no PyTorch file ({type(error).__name__}: {str(error).partition(chr(10))[0][:80]}); "
                f"copy it once more or, of a run, go on with --resume auto")
        raise UserError(f"{path} is {what}") from None


def load_checkpoint(path: str | Path) -> tuple[Config, dict]:
    """Load configuration and content of a checkpoint, or of a run's last.pt, on the CPU. UserError for other files."""
    path = Path(path) / "last.pt" if Path(path).is_dir() else path
    content = load_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project; the authors' files are read by "
                        f"scripts/import_official.py MODEL.pth KEYS.pt --out CKPT.pt")
    entries = {"step": 0, "videos": {}, "provenance": {}} | content
    wrong = [name for name in ("config", "model", "videos", "provenance") if not isinstance(entries.get(name), dict)]
    if wrong or type(entries["step"]) is not int or entries["step"] < 0:
        raise UserError(f"{path} was damaged or changed: its {(*wrong, 'step')[0]} is none; copy it once more")
    try:
        return config_from_dict(content["config"]), content
    except (UserError, RecursionError) as error:
        raise UserError(f"{path} was written by another version of this project: {error}") from None


def start_from(args: Namespace, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
               scheduler: CosineAnnealingLR, lengths: dict[str, int], steps_per_epoch: int) -> tuple[Config, int]:
    """Load what train.py's `--resume` or `--init_from` names, if anything.

    `lengths` are the numbers of frames of the training videos. Returns the configuration, with the number of epochs
    that `fit_minutes` chose before, and the number of steps done. UserError for another network, run or data set.
    """
    path = args.resume or args.init_from
    if not path:
        return config, 0
    saved_config, saved = load_checkpoint(path)
    check_network(config, saved_config, path)
    load_weights(model, saved["model"], path)
    if args.init_from:
        return config, 0

    # What was chosen at the start of the run stays.
    if saved_config.train.fit_minutes:
        config = with_knobs(config, {"train.epochs": saved_config.train.epochs,
                                     "train.fit_minutes": saved_config.train.fit_minutes})
    check_network(config, saved_config, path, same_run=True)
    if config.train.precision == "auto":
        config = with_knobs(config, {"train.precision": saved_config.train.precision})
    if "optimizer" not in saved and Path(path).resolve().parent != Path(args.exp_dir).resolve():
        raise UserError(f"{path} holds no optimizer state; go on with the run's last.pt")
    if saved.get("videos", lengths) != lengths:
        raise UserError(f"{path} was trained on other frames than {args.dataset_path} holds; use --init_from")
    for name, now in {"threads": torch.get_num_threads(), "processes": world_size()}.items():
        if (was := saved.get("provenance", {}).get(name, now)) != now:
            warnings.warn(f"{path} was trained by {was} {name}, and goes on with {now} {name}: its numbers will differ "
                          f"from those of a run that never stopped, at least by rounding")

    # Optimizer, schedule and PyTorch's random state; of epoch_NNN.pt the schedule alone, moved to its epoch.
    scheduler.T_max = config.train.epochs
    epochs, weights = saved["step"] // steps_per_epoch, optimizer.param_groups[0]["params"]
    if "optimizer" not in saved:
        with warnings.catch_warnings(action="ignore"):                         # that there was no step before
            for _ in range(epochs):
                scheduler.step()
        return config, saved["step"]
    try:
        # Adam reads beyond the end of tensors that are too small.
        good = all(state[name].shape == (weights[k].shape if "avg" in name else ()) and state[name].isfinite().all()
                   for k, state in saved["optimizer"]["state"].items() for name in ("step", "exp_avg", "exp_avg_sq"))
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"] | {"T_max": scheduler.T_max, "last_epoch": epochs})
        torch.set_rng_state(saved["rng"])
    except Exception:               # what may stand in place of the entries raises nearly anything
        good = False
    if not good:
        raise UserError(f"{path} was damaged or changed: its optimizer, scheduler or rng does not fit this network; go "
                        f"on with --resume RUN/epoch_NNN.pt")
    return config, saved["step"]


def newest_good(folder: Path) -> str:
    """Return a run's last.pt or, where that is damaged or missing, its newest good epoch_NNN.pt, and say so.

    "" where the folder holds no checkpoint; UserError where all are damaged.
    """
    epochs = sorted(folder.glob("epoch_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)
    damage = ""
    for path in [folder / "last.pt"] * (folder / "last.pt").exists() + epochs:
        try:
            load_checkpoint(path)
        except UserError as error:
            damage = damage or str(error).partition(";")[0]
            continue
        if path.name != "last.pt":
            warnings.warn(f"{damage or 'there is no last.pt'}; going on from {path}, with Adam's moments at 0")
        return str(path)
    if damage:
        raise UserError(f"no checkpoint in {folder} is whole: {damage}")
    return ""


def load_weights(model: nn.Module, state: dict, path: str | Path) -> None:
    """Load a state_dict; UserError naming the file when names or shapes do not fit, or a number is not finite."""
    try:
        # The counts of `RevivingMemory` start at 0 where they are missing, and are left out where they are not needed.
        missing, unexpected = model.load_state_dict(state, strict=False)
        if wrong := [name for name in (*missing, *unexpected) if not name.endswith(".idle")]:
            raise RuntimeError(f"{wrong[0]} is {'missing' if wrong[0] in missing else 'unknown'}")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} does not hold the weights of this network: {reason}") from None
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(f"{path} holds weights that are not finite ({bad[0]}); the run it is from had diverged")


# Knobs that decide what the weights mean, and knobs that a continued run may change.
ARCHITECTURE = ("data.channels", "model.name", "model.memory", "model.input_frames", "model.base_width",
                "model.hidden_width", "model.lstm_layers", "model.memory_items", "model.concat_query",
                "model.forget_bias")
FREE = ("data.workers", "data.cache", "data.on_device", "train.max_steps", "train.minutes", "train.keep_epochs",
        "train.save_minutes", "train.log_every", "train.kernels", "train.checkpoint_activations", "train.compile",
        "train.deterministic", "score")


def check_network(config: Config, saved: Config, path: str | Path, same_run: bool = False) -> None:
    """Raise UserError where the configuration's network, or with `same_run` its training, is not the checkpoint's."""
    different = differences(config, saved)
    if of_network := [line for knob, line in different if knob in ARCHITECTURE]:
        raise UserError(f"{path} holds another network: {'; '.join(of_network)}")
    if same_run and (of_run := [line for knob, line in different if not knob.startswith(FREE)]):
        raise UserError(f"{path} belongs to a run with other settings: {'; '.join(of_run)}; repeat its settings "
                        f"(or leave out --config), or start a new run with --init_from")


def differences(config: Config, saved: Config) -> list[tuple[str, str]]:
    """List the knobs that differ, each with a line that shows both values, but for what `precision: auto` chose."""
    ours, theirs = flatten(asdict(config)), flatten(asdict(saved))
    return [(knob, f"{knob} is {theirs[knob]} there, {ours[knob]} here") for knob in ours
            if ours[knob] != theirs[knob] and not (knob.endswith(".precision") and ours[knob] == "auto")]
