"""Train LGN-Net on a folder of frames.

    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN
    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN --resume RUN/last.pt
    torchrun --nproc_per_node 4 train.py ...     on several GPUs, docs/scale.md

RUN then holds config.yaml, log.jsonl, TensorBoard's files, last.pt (everything a continuation needs) and
epoch_NNN.pt (weights and memory of each epoch, for evaluate.py).
"""

import contextlib
import math
import signal
import warnings
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, to_yaml
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, belong_on, epoch_batches, loader
from lgn_net.datasets import difference_from_published
from lgn_net.device import pick_device, provenance, seed_everything, set_kernels
from lgn_net.distributed import check_equal, processes, rank, reduce_sum, wait_for_all, world_size
from lgn_net.errors import TrainingDiverged, UserError
from lgn_net.files import check_writable, write_atomic
from lgn_net.model.build import build_model
from lgn_net.model.losses import Losses
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.training.checkpoint import (
    check_architecture,
    check_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from lgn_net.training.run import RunLog, only_one
from lgn_net.training.step import prepare, shares_of, train_step


def main(argv: list[str]) -> int:
    parser = command_parser(__doc__, "train.py --config FILE --dataset_path DATA --exp_dir RUN "
                                     "[--init_from CKPT | --resume RUN/last.pt]")
    parser.add_argument("--exp_dir", required=True, help="Folder of this run; made if missing.")
    parser.add_argument("--init_from", help="Checkpoint whose weights and memory items the training starts from.")
    parser.add_argument("--resume", help="The run's last.pt: go on exactly where it stopped.")
    config, args = parse_command(parser, argv)
    if args.init_from and args.resume:
        raise UserError("give --init_from to start a run, or --resume to go on with one, not both")
    with processes(pick_device(args.device)) as device:
        return train(config, args, device)


def train(config: Config, args: Namespace, device: torch.device) -> int:
    """Train on this process's device, beside the other processes if there are any. The first one writes the run."""
    run, last, first = Path(args.exp_dir), Path(args.exp_dir) / "last.pt", rank() == 0
    if (last.exists() or any(run.glob("epoch_*.pt"))) and Path(args.resume or "").resolve() != last.resolve():
        how = f"; go on with --resume {last}" if last.exists() else ", which lost its last.pt; remove its epoch_*.pt"
        raise UserError(f"{run} already holds a run{how}, or choose another --exp_dir")
    if first:
        check_writable(run)
    seed_everything(config.seed)
    set_kernels(config.train.precision, config.train.deterministic)
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    lengths = {video.name: len(video.frames) for video in videos}
    if note := difference_from_published(config.data.dataset, "training", list(lengths.values())):
        warnings.warn(note)
    format_ = (config.data.channels, config.data.image_size)
    if not first:
        wait_for_all()                                                          # the first one packs, and shows how far
    packed = pack_frames(videos, *format_, config.data.cache) if config.data.cache else None
    if first:
        wait_for_all()
    windows = Windows(videos, config.model.window, *format_, packed)

    model = build_model(config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=True)
    scheduler = CosineAnnealingLR(optimizer, T_max=config.train.epochs)
    B = config.train.batch_size
    steps_per_epoch = math.ceil(len(windows) / B)
    stop_at = min(config.train.epochs * steps_per_epoch, config.train.max_steps or math.inf)
    sample_first = config.model.memory_init == "queries" and not args.init_from
    step = start(args, config, model, optimizer, scheduler, lengths)

    def images(step: int) -> int:
        return step // steps_per_epoch * len(windows) + min(step % steps_per_epoch * B, len(windows))

    origin = provenance(device)
    print(f"{len(windows)} windows of {len({v for v, _ in windows.index})} videos, {steps_per_epoch} steps an epoch, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters, on {origin['device']}")
    if belong_on(device, config.data.on_device, videos, *format_):
        windows.load_onto(device)
    forward = prepare(model, config, device, {len(batch) for batch in epoch_batches(len(windows), B, False, 0, 0)})
    stopped = False
    # A second signal ends no one of several processes: torchrun sends on what the whole group may have got already.
    with (StopOnSignal(second_ends=world_size() == 1) as stop, only_one(run) if first else contextlib.nullcontext(),
          RunLog(run, step) if first else contextlib.nullcontext() as log,
          progress("train", images(stop_at), "images", initial=images(step)) as bar):
        if first and step < stop_at:
            write_atomic(run / "config.yaml", to_yaml(config))
        while step < stop_at and not stopped:
            epoch = step // steps_per_epoch                                       # from 0
            batches = epoch_batches(len(windows), B, config.data.shuffle, config.seed, epoch)[step % steps_per_epoch:]
            mine = [shares_of(batch, config.train.accumulate) for batch in batches]
            clips = loader(windows, [share.windows for shares in mine for share in shares], config.data.workers, device)
            for batch, shares in zip(batches, mine):
                losses, usage = train_step(forward, model, optimizer, shares, clips, config, sample_first and step == 0)
                flag = losses.new_tensor([stop.received is not None])
                *losses, stopped = reduce_sum(torch.cat([losses, flag])).tolist()             # waits for the device
                losses = dict(zip(Losses._fields, losses))
                live_items = sum(int((count > 0).sum()) for count in usage)
                step += 1
                if not math.isfinite(losses["total"]):
                    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                    raise diverged(step, f"the loss is not finite ({values})", last)

                if first and step % config.train.log_every == 0:
                    log.write({"step": step, "epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"],
                               "loss": losses.pop("total"), **losses, "live_items": live_items},
                              bar.format_dict["rate"], model.memories, usage)
                bar.set_postfix_str(f"epoch {epoch + 1}/{config.train.epochs}, prediction {losses['prediction']:.5f}, "
                                    f"compactness {losses['compactness']:.5f}, separateness "
                                    f"{losses['separateness']:.4f}, live items {live_items}", refresh=False)
                bar.update(len(batch))
                if step >= stop_at or stopped:
                    break
            if not all(value.isfinite().all() for value in model.state_dict().values()):
                raise diverged(step, "weights or BatchNorm statistics are not finite", last)
            for memory in model.memories:
                check_equal(memory.items, "memory items")
            if step % steps_per_epoch == 0:
                scheduler.step()
            if first:
                if step % steps_per_epoch == 0:
                    save_checkpoint(run / f"epoch_{epoch + 1:03d}.pt", config, model.state_dict(), step=step,
                                    provenance=origin)
                save_checkpoint(last, config, model.state_dict(), step=step, videos=lengths, provenance=origin,
                                rng=torch.get_rng_state(), optimizer=optimizer.state_dict(),
                                scheduler=scheduler.state_dict())
            wait_for_all()                        # torchrun ends all when one has ended: not while the first one writes

    if stopped:
        received = stop.received or signal.SIGTERM                                # another process may have got it
        print(f"{signal.Signals(received).name} at step {step}; go on with --resume {last}")
        return 128 + received
    left = config.train.epochs * steps_per_epoch - step
    more = f"; {left} more with --resume {last} --train.max_steps null" if left else ""
    print(f"done: {step} steps{more}; next: python evaluate.py --checkpoint {last} --dataset_path {args.dataset_path}")
    return 0


def start(args: Namespace, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
          scheduler: CosineAnnealingLR, lengths: dict[str, int]) -> int:
    """Load what `--resume` or `--init_from` names, if anything; the number of steps already done."""
    path = args.resume or args.init_from
    if not path:
        return 0
    saved_config, saved = load_checkpoint(path)
    if args.init_from:
        check_architecture(config, saved_config, path)
        load_weights(model, saved["model"], path)
        return 0
    check_same_run(config, saved_config, path)
    if not {"optimizer", "scheduler", "rng", "step", "videos"} <= set(saved):
        raise UserError(f"{path} holds no optimizer state; go on with the run's last.pt")
    if saved["videos"] != lengths:
        raise UserError(f"{path} was trained on {len(saved['videos'])} videos with {sum(saved['videos'].values())} "
                        f"frames, {args.dataset_path} has {len(lengths)} with {sum(lengths.values())} or other names; "
                        f"give the same frames, or start a new run with --init_from")
    if (before := saved["provenance"].get("processes", 1)) != world_size():
        warnings.warn(f"{path} is of {before} process{'es' * (before > 1)}, now there are {world_size()}: BatchNorm "
                      f"may see other shares of a batch")
    load_weights(model, saved["model"], path)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    torch.set_rng_state(saved["rng"])
    return saved["step"]


def diverged(step: int, what: str, last: Path) -> TrainingDiverged:
    """The error that ends a run whose numbers are no longer finite."""
    good = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
    return TrainingDiverged(f"step {step}: {what}; {good}; try a lower --train.lr")


if __name__ == "__main__":
    run_command(main)
