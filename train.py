"""Train LGN-Net on a folder of frames.

    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN
    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN --resume auto
    torchrun --nproc_per_node 4 train.py ...     on several GPUs, docs/scale.md

RUN then holds config.yaml, log.jsonl, TensorBoard's files, last.pt (everything a continuation needs) and
epoch_NNN.pt (weights and memory of each epoch, for evaluate.py).
"""

from lgn_net.cli import command_parser, parse_command, show_help

PARSER = command_parser(__doc__, "train.py --config FILE --dataset_path DATA --exp_dir RUN "
                                 "[--init_from CKPT | --resume auto]")
PARSER.add_argument("--exp_dir", required=True, help="Folder of this run; made if missing.")
PARSER.add_argument("--init_from", help="Checkpoint whose weights and memory items the training starts from.")
PARSER.add_argument("--resume", help="The run's last.pt: go on exactly where it stopped; auto: that or, where it is "
                                     "damaged, the newest good epoch; a new run where there is neither.")
show_help(__name__, PARSER, "data", "model", "loss", "train")     # before slow imports

import math
import shlex
import signal
import time
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.datasets import difference_from_published
from lgn_net.device import pick_device, provenance, set_kernels, settle_precision
from lgn_net.distributed import collect, processes, rank, reduce, wait_for_all, world_size
from lgn_net.errors import TrainingDiverged, UserError
from lgn_net.files import writing
from lgn_net.inference.around import sample_normal
from lgn_net.model.build import build_model
from lgn_net.model.losses import Losses
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.training.checkpoint import start_from
from lgn_net.training.run import MEASURED, SCORED, WARM_UP, Run, check_free
from lgn_net.training.step import prepare, shares_of, train_step

FIRST = 20          # steps after which the expected time is printed
PATIENCE = 25.0     # seconds between SIGTERM and the end, if need be without saving; torchrun kills after 30


def main(argv: list[str]) -> int:
    """Read the command line and train."""
    config, args = parse_command(PARSER, argv)
    if args.init_from and args.resume:
        raise UserError("give --init_from to start a run, or --resume to go on with one, not both")
    with processes(pick_device(args.device)) as device:
        return train(config, args, device)


@dataclass
class Training:
    """What one process trains, and with what."""

    device: torch.device
    windows: Windows
    model: nn.Module
    forward: nn.Module                  # the model, made ready for training
    optimizer: torch.optim.Optimizer
    scheduler: CosineAnnealingLR
    run: Run
    deadline: float                     # time.monotonic() at which `train.minutes` are over
    times: list[float]                  # time.monotonic() after each step, until `train.fit_minutes` is settled
    ending: bool = False                # whether to stop before the last step


def train(config: Config, args: Namespace, device: torch.device) -> int:
    """Train on this process's device, beside the other processes if there are any. The first one writes the run."""
    deadline = time.monotonic() + 60 * (config.train.minutes or math.inf)
    check_free(Path(args.exp_dir), args.resume)
    torch.manual_seed(config.seed)

    # The data: every window of n + 1 consecutive frames of the training videos.
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    lengths = {video.name: len(video.frames) for video in videos}
    if note := difference_from_published(config.data.dataset, "training", list(lengths.values())):
        warnings.warn(note)
    format_ = (config.data.channels, config.data.image_size)
    packed = pack_frames(videos, *format_, config.data.cache) if config.data.cache else None
    windows = Windows(videos, config.model.window, *format_, packed)

    # Model, optimizer and schedule; a run that goes on gets the state that it stopped with.
    model = build_model(config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=True)
    scheduler = CosineAnnealingLR(optimizer, T_max=config.train.epochs)
    steps_per_epoch = math.ceil(len(windows) / config.train.batch_size)
    config, step = start_from(args, config, model, optimizer, scheduler, lengths, steps_per_epoch)
    config = settle_precision(config, "train", device)
    set_kernels(config.train.precision, config.train.deterministic)
    about = {"videos": lengths, "provenance": provenance(device)}
    run = Run(Path(args.exp_dir), config, step, steps_per_epoch, about)
    print(f"{len(windows)} windows of {len({v for v, _ in windows.index})} videos, {steps_per_epoch} steps an epoch, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters, on {about['provenance']['device']}")
    if device.type == "cpu" and config.data.image_size * config.model.base_width >= 256 * 64:
        warnings.warn("a network of the published size takes days on a CPU; configs/ped2_small.yaml and "
                      "configs/avenue_small.yaml are made for one")
    # A damaged last.pt, or a kill between it and the file of its epoch, leaves one of them to be written.
    lost = Path(args.resume or "").match("epoch_*.pt") or (run.epoch_file and not run.epoch_file.exists())
    if step >= run.last_step and not lost:                             # a run that is done stays as it is
        return conclude(run, None, deadline, args.dataset_path)
    windows.load_onto(device, config.data.on_device)
    times = [time.monotonic()] if config.train.fit_minutes and step < WARM_UP + MEASURED else []
    forward = prepare(model, config, device)
    t = Training(device, windows, model, forward, optimizer, scheduler, run, deadline, times)

    # A second signal ends no one of several processes: torchrun sends on what the whole group may have got already.
    sample_first = config.model.memory_init == "queries" and not args.init_from
    with (writing(run.folder), StopOnSignal(second_ends=world_size() == 1, patience=PATIENCE) as stop, run,
          progress("train", run.last_step, "steps", initial=step) as bar):
        if lost:
            save(t)
        while run.step < run.last_step and not t.ending:
            train_epoch(t, stop, bar, sample_first)
            finish_epoch(t)
    return conclude(run, stop.received, deadline, args.dataset_path)


def train_epoch(t: Training, stop: StopOnSignal, bar: tqdm, sample_first: bool) -> None:
    """Train for an epoch, or for what is left of it."""
    run, config, knobs = t.run, t.run.config, t.run.config.train
    epoch, done = divmod(run.step, run.steps_per_epoch)                                          # both from 0
    batches = epoch_batches(len(t.windows), knobs.batch_size, config.data.shuffle, config.seed, epoch)
    mine = [shares_of(batch, knobs.accumulate) for batch in batches[done:]]
    clips = loader(t.windows, [share.windows for shares in mine for share in shares], config.data.workers, t.device)
    for shares in mine:
        # Forward, losses, Adam, memory update.
        sample = sample_first and run.step == 0
        losses, usage = train_step(t.forward, t.model, t.optimizer, shares, clips, config, sample)
        run.step += 1

        # All processes learn the losses of the whole batch, and whether one of them is to stop.
        flag = losses.total.new_tensor([stop.received is not None or time.monotonic() > t.deadline])
        *values, ending = reduce(torch.cat([torch.stack(losses), flag])).tolist()             # waits for the device
        losses, t.ending = Losses(*values), ending > 0
        run.check_finite(f"the loss is {losses.total},", [torch.tensor(losses.total)])

        # Log and progress.
        live_items = sum(int((count > 0).sum()) for count in usage)
        if run.step % knobs.log_every == 0:
            speed = knobs.batch_size * (bar.format_dict["rate"] or 0)
            run.log(t.optimizer.param_groups[0]["lr"], losses, live_items, speed, t.model.memories, usage)
        terms = " ".join(f"{name[0]} {value:.3g}" for name, value in losses._asdict().items())
        bar.set_postfix_str(f"{terms}, {live_items} live", refresh=False)
        bar.update()
        left = run.last_step - run.step
        if run.step - run.first_step == FIRST and left > 0 and not (t.times or rank()):
            seconds = bar.format_dict["elapsed"] / FIRST
            tqdm.write(f"{seconds:.2f} s a step: about {bar.format_interval(seconds * left)} for {left} steps to come")

        # With `fit_minutes` the first steps decide how many epochs there are.
        if t.times:
            t.times.append(time.monotonic())
        if len(t.times) > WARM_UP + MEASURED:
            sample_normal(t.model, t.windows.videos, config, SCORED, t.device)
            t.scheduler.T_max = run.fit_epochs([*t.times, time.monotonic()])
            t.times, bar.total = [], run.last_step
        if run.step >= run.last_step or t.ending:
            return
        if run.due() and run.step % run.steps_per_epoch:
            save(t)


def finish_epoch(t: Training) -> None:
    """Step the schedule and save what is to be kept, after an epoch or at the end of this command."""
    checksums = collect([zlib.crc32(memory.items.cpu().numpy()) for memory in t.model.memories])
    if any(of_process != checksums[0] for of_process in checksums):
        raise TrainingDiverged("memory items differ between the processes")
    over = t.ending or t.run.step >= t.run.last_step
    if t.run.step % t.run.steps_per_epoch == 0:
        t.scheduler.step()
        t.run.draw(t.model, t.windows, t.device)
    if t.run.epoch_file or t.run.due() or over:
        save(t)
    if over:
        t.run.finish_writing()
    wait_for_all()                                # torchrun ends all when one has ended: not while the first one writes


def save(t: Training) -> None:
    """Write last.pt and, after an epoch that is kept, its file; TrainingDiverged where a weight is not finite."""
    weights = t.model.state_dict()
    t.run.check_finite("weights or BatchNorm statistics are", weights.values())
    t.run.write(t.run.last, weights, rng=torch.get_rng_state(), optimizer=t.optimizer.state_dict(),
                scheduler=t.scheduler.state_dict())
    if t.run.epoch_file:
        t.run.write(t.run.epoch_file, weights)


def conclude(run: Run, received: int | None, deadline: float, dataset_path: str) -> int:
    """Say how far the run is and how to go on; return the exit status."""
    if run.step < run.last_step:
        over = not received and time.monotonic() > deadline
        received = received or signal.SIGTERM                                # another process may have got it
        why = f"{run.config.train.minutes:g} minutes are over" if over else signal.Signals(received).name
        print(f"{why} at step {run.step}; go on with --resume {run.last}")
        return 75 if over else 128 + received
    left = run.config.train.epochs * run.steps_per_epoch - run.step
    more = f"; {left} more with --resume {run.last} --train.max_steps null" if left else ""
    print(f"done: {run.step} steps{more}; next: python evaluate.py --checkpoint {run.last} "
          f"--dataset_path {shlex.quote(dataset_path)}")
    return 0


if __name__ == "__main__":
    run_command(main)
