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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from lgn_net.config import Config, with_knobs
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, belong_on, epoch_batches, loader
from lgn_net.datasets import difference_from_published
from lgn_net.device import pick_device, provenance, set_kernels, settle_precision
from lgn_net.distributed import check_equal, first_process_first, processes, rank, reduce_sum, wait_for_all, world_size
from lgn_net.errors import TrainingDiverged, UserError
from lgn_net.files import writing
from lgn_net.inference.around import sample_normal
from lgn_net.model.build import build_model
from lgn_net.model.losses import Losses
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.training.checkpoint import start_from
from lgn_net.training.run import MEASURED, WARM_UP, EpochFitter, Run, check_free
from lgn_net.training.step import prepare, shares_of, train_step

TIME_IS_UP = 75     # exit status after `train.minutes`
PUBLISHED_SIZE = 256 * 64       # pixels of a frame's side times `model.base_width`
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
    """What is trained, and how far it is."""

    device: torch.device
    windows: Windows
    model: nn.Module
    forward: nn.Module                  # the model, made ready for training
    optimizer: torch.optim.Optimizer
    scheduler: CosineAnnealingLR
    run: Run
    steps_per_epoch: int                # the last batch of an epoch may be smaller
    step: int                           # steps done
    deadline: float                     # time.monotonic() at which `train.minutes` are over
    fitter: EpochFitter | None = None   # chooses the number of epochs, until it has
    ending: bool = False                # whether to stop before the last step

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.run.config

    @property
    def last_step(self) -> int:
        """Step at which the training is done."""
        knobs = self.config.train
        return min(knobs.epochs * self.steps_per_epoch, knobs.max_steps or math.inf)


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
    with first_process_first():
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
    run = Run(Path(args.exp_dir), config, step, {"videos": lengths, "provenance": provenance(device)})
    t = Training(device, windows, model, model, optimizer, scheduler, run, steps_per_epoch, step, deadline)
    print(f"{len(windows)} windows of {len({v for v, _ in windows.index})} videos, {steps_per_epoch} steps an epoch, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters, on {run.about['provenance']['device']}")
    # A damaged last.pt, or a kill between it and the file of its epoch, leaves one of them to be written.
    last_lost = (args.resume or "").endswith(".pt") and Path(args.resume).name != "last.pt"
    epoch, rest = divmod(step, steps_per_epoch)
    epoch_lost = bool(step) and not rest and run.keeps(epoch) and not run.epoch_file(epoch).exists()
    if device.type == "cpu" and config.data.image_size * config.model.base_width >= PUBLISHED_SIZE:
        warnings.warn("a network of the published size takes days on a CPU; configs/ped2_small.yaml and "
                      "configs/avenue_small.yaml are made for one")
    if step >= t.last_step and not (last_lost or epoch_lost):          # a run that is done stays as it is
        return conclude(t, None, args.dataset_path)
    if belong_on(device, config.data.on_device, videos, *format_):
        windows.load_onto(device)
    if config.train.fit_minutes and step < WARM_UP + MEASURED:
        t.fitter = EpochFitter(config, steps_per_epoch, lambda n: sample_normal(model, videos, config, n, device),
                               step)
    t.forward = prepare(model, config, device)

    # A second signal ends no one of several processes: torchrun sends on what the whole group may have got already.
    sample_first = config.model.memory_init == "queries" and not args.init_from
    with (writing(run.folder), StopOnSignal(second_ends=world_size() == 1, patience=PATIENCE) as stop, run,
          progress("train", t.last_step, "steps", initial=step) as bar):
        if last_lost:
            save(t)
        if epoch_lost:
            run.write(run.epoch_file(epoch), model.state_dict(), step=step)
        while t.step < t.last_step and not t.ending:
            train_epoch(t, stop, bar, sample_first)
            finish_epoch(t)
    return conclude(t, stop.received, args.dataset_path)


def train_epoch(t: Training, stop: StopOnSignal, bar: tqdm, sample_first: bool) -> None:
    """Train for an epoch, or for what is left of it."""
    knobs, epoch = t.config.train, t.step // t.steps_per_epoch                        # from 0
    batches = epoch_batches(len(t.windows), knobs.batch_size, t.config.data.shuffle, t.config.seed, epoch)
    mine = [shares_of(batch, knobs.accumulate) for batch in batches[t.step % t.steps_per_epoch:]]
    clips = loader(t.windows, [share.windows for shares in mine for share in shares], t.config.data.workers, t.device)
    for shares in mine:
        # Forward, losses, Adam, memory update.
        losses, usage = train_step(t.forward, t.model, t.optimizer, shares, clips, t.config,
                                   sample_first and t.step == 0)
        t.step += 1

        # All processes learn the losses of the whole batch, and whether one of them is to stop.
        flag = losses.total.new_tensor([stop.received is not None or time.monotonic() > t.deadline])
        *values, ending = reduce_sum(torch.cat([torch.stack(losses), flag])).tolist()             # waits for the device
        losses, t.ending = Losses(*values), ending > 0
        check_finite(t, f"the loss is {losses.total},", [torch.tensor(losses.total)])

        # Log and progress.
        live_items = sum(int((count > 0).sum()) for count in usage)
        if t.step % knobs.log_every == 0:
            t.run.log(t.step, epoch + 1, t.optimizer.param_groups[0]["lr"], losses, live_items,
                      knobs.batch_size * (bar.format_dict["rate"] or 0), t.model.memories, usage)
        terms = " ".join(f"{name[0]} {value:.3g}" for name, value in losses._asdict().items())
        bar.set_postfix_str(f"{terms}, {live_items} live", refresh=False)
        bar.update()
        if t.step - t.run.step == FIRST and t.step < t.last_step and not (t.fitter or rank()):
            seconds = bar.format_dict["elapsed"] / FIRST
            tqdm.write(f"{seconds:.2f} s a step: about {bar.format_interval(seconds * (t.last_step - t.step))} for the "
                       f"{t.last_step - t.step} steps to come")

        # With `fit_minutes` the first steps decide how many epochs there are.
        if t.fitter and (epochs := t.fitter.after_step()):
            t.run.config = with_knobs(t.config, {"train.epochs": epochs})
            t.scheduler.T_max, t.fitter, bar.total = epochs, None, t.last_step
        if t.step >= t.last_step or t.ending:
            return
        if t.run.due() and t.step % t.steps_per_epoch:
            check_finite(t, "weights or BatchNorm statistics are", t.model.state_dict().values())
            save(t)


def finish_epoch(t: Training) -> None:
    """Check the weights after an epoch, or at the end of this command, and save what is to be kept."""
    check_finite(t, "weights or BatchNorm statistics are", t.model.state_dict().values())
    for memory in t.model.memories:
        check_equal(memory.items, "memory items")
    epoch, rest = divmod(t.step, t.steps_per_epoch)
    keep = rest == 0 and t.run.keeps(epoch)
    if rest == 0:
        t.scheduler.step()
        t.run.draw(t.step, t.model, t.windows, t.device)
    if keep or t.run.due() or t.ending or t.step >= t.last_step:
        save(t)
    if keep:
        t.run.write(t.run.epoch_file(epoch), t.model.state_dict(), step=t.step)
    if t.ending or t.step >= t.last_step:
        t.run.finish_writing()
    wait_for_all()                                # torchrun ends all when one has ended: not while the first one writes


def save(t: Training) -> None:
    """Write last.pt."""
    t.run.write(t.run.last, t.model.state_dict(), step=t.step, rng=torch.get_rng_state(),
                optimizer=t.optimizer.state_dict(), scheduler=t.scheduler.state_dict())


def check_finite(t: Training, what: str, values: Iterable[Tensor]) -> None:
    """Raise TrainingDiverged where a number is not finite."""
    if not all(value.isfinite().all() for value in values):
        t.run.finish_writing()
        good = f"the last good checkpoint is {t.run.last}" if t.run.last.exists() else "there is no checkpoint yet"
        raise TrainingDiverged(f"step {t.step}: {what} not finite; {good}; try a lower --train.lr")


def conclude(t: Training, received: int | None, dataset_path: str) -> int:
    """Say how far the run is and how to go on; return the exit status."""
    if t.step < t.last_step:
        over = not received and time.monotonic() > t.deadline
        received = received or signal.SIGTERM                                # another process may have got it
        why = f"{t.config.train.minutes:g} minutes are over" if over else signal.Signals(received).name
        print(f"{why} at step {t.step}; go on with --resume {t.run.last}")
        return TIME_IS_UP if over else 128 + received
    left = t.config.train.epochs * t.steps_per_epoch - t.step
    more = f"; {left} more with --resume {t.run.last} --train.max_steps null" if left else ""
    print(f"done: {t.step} steps{more}; next: python evaluate.py --checkpoint {t.run.last} "
          f"--dataset_path {shlex.quote(dataset_path)}")
    return 0


if __name__ == "__main__":
    run_command(main)
