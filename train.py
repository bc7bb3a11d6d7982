"""Train LGN-Net on a folder of frames.

    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN
    python train.py --config configs/ped2.yaml --dataset_path DATA --exp_dir RUN --resume RUN/last.pt

RUN then holds config.yaml, log.jsonl, TensorBoard's files, last.pt (everything a continuation needs) and
epoch_NNN.pt (weights and memory of each epoch, for evaluate.py).
"""

import math
import signal
import warnings
from pathlib import Path

import torch

from lgn_net.checkpoint import check_architecture, check_same_run, load_checkpoint, load_weights, save_checkpoint
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import to_yaml
from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import to_float
from lgn_net.data.datasets import difference_from_published
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.errors import TrainingDiverged, UserError
from lgn_net.files import check_writable, write_atomic
from lgn_net.losses import compute_losses
from lgn_net.model.build import build_model
from lgn_net.runs import RunLog, StopOnSignal, autocast, only_one, pick_device, provenance, seed_everything
from lgn_net.terminal import progress, run_command


def main(argv: list[str]) -> int:
    parser = command_parser(__doc__, "train.py --config FILE --dataset_path DATA --exp_dir RUN "
                                     "[--init_from CKPT | --resume RUN/last.pt]")
    parser.add_argument("--exp_dir", required=True, help="Folder of this run; made if missing.")
    parser.add_argument("--init_from", help="Checkpoint whose weights and memory items the training starts from.")
    parser.add_argument("--resume", help="The run's last.pt: go on exactly where it stopped.")
    config, args = parse_command(parser, argv)
    if args.init_from and args.resume:
        raise UserError("give --init_from to start a run, or --resume to go on with one, not both")
    run, last = Path(args.exp_dir), Path(args.exp_dir) / "last.pt"
    if (last.exists() or any(run.glob("epoch_*.pt"))) and Path(args.resume or "").resolve() != last.resolve():
        raise UserError(f"{run} already holds a run; go on with --resume {last}, or choose another --exp_dir")

    check_writable(run)
    device = pick_device(args.device)
    seed_everything(config.seed)
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    lengths = {video.name: len(video.frames) for video in videos}
    if note := difference_from_published(config.data.dataset, "training", list(lengths.values())):
        warnings.warn(note)
    format_ = (config.data.channels, config.data.image_size)
    packed = pack_frames(videos, *format_, config.data.cache) if config.data.cache else None
    windows = Windows(videos, config.model.window, *format_, packed)

    model = build_model(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.train.epochs)
    B = config.train.batch_size
    steps_per_epoch = math.ceil(len(windows) / B)
    stop_at = min(config.train.epochs * steps_per_epoch, config.train.max_steps or math.inf)
    step = 0
    sample_first = config.model.memory_init == "queries" and not args.init_from

    def images(step: int) -> int:
        return step // steps_per_epoch * len(windows) + min(step % steps_per_epoch * B, len(windows))

    if args.resume:
        saved_config, saved = load_checkpoint(args.resume)
        check_same_run(config, saved_config, args.resume)
        if not {"optimizer", "scheduler", "rng", "step", "videos"} <= set(saved):
            raise UserError(f"{args.resume} holds no optimizer state; go on with the run's last.pt")
        if saved["videos"] != lengths:
            raise UserError(f"{args.resume} was trained on {len(saved['videos'])} videos with "
                            f"{sum(saved['videos'].values())} frames, {args.dataset_path} has {len(lengths)} with "
                            f"{sum(lengths.values())} or other names; give the same frames, or start a new run with "
                            f"--init_from")
        load_weights(model, saved["model"], args.resume)
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"])
        step = saved["step"]
    elif args.init_from:
        saved_config, saved = load_checkpoint(args.init_from)
        check_architecture(config, saved_config, args.init_from)
        load_weights(model, saved["model"], args.init_from)

    origin = provenance(device)
    print(f"{len(windows)} windows of {len({v for v, _ in windows.index})} videos, {steps_per_epoch} steps an epoch, "
          f"{sum(p.numel() for p in model.parameters()):,} parameters, on {origin['device']}")
    model.train()
    with (StopOnSignal() as stop, only_one(run), RunLog(run, step) as log,
          progress("train", images(stop_at), "images", initial=images(step)) as bar):
        write_atomic(run / "config.yaml", to_yaml(config))
        while step < stop_at and not stop.received:
            epoch = step // steps_per_epoch                                       # from 0
            batches = epoch_batches(len(windows), B, config.data.shuffle, config.seed, epoch)
            for clip in loader(windows, batches[step % steps_per_epoch:], config.data.workers, device):
                clip = to_float(clip.to(device, non_blocking=True))               # (B, n + 1, C, H, W) in [-1, 1]
                with autocast(device, config.train.precision):
                    out = model(clip[:, :config.model.input_frames])
                losses = compute_losses(out, clip[:, -1], model.memories, config.loss.compactness,
                                        config.loss.separateness, config.loss.margin)
                if not losses.total.isfinite():
                    values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses._asdict().items())
                    raise diverged(step + 1, f"the loss is not finite ({values})", last)
                optimizer.zero_grad()
                losses.total.backward()
                optimizer.step()
                usage = [memory.usage(queries) for memory, queries in zip(model.memories, out.queries)]
                live_items = sum(int((count > 0).sum()) for count in usage)
                for memory, queries in zip(model.memories, out.queries):          # items, queries: of before the step
                    memory.update_(queries) if step or not sample_first else memory.sample_(queries)

                step += 1
                total, prediction, compactness, separateness = (loss.item() for loss in losses)
                if step % config.train.log_every == 0:
                    log.write({"step": step, "epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], "loss": total,
                               "prediction": prediction, "compactness": compactness, "separateness": separateness,
                               "live_items": live_items}, bar.format_dict["rate"], model.memories, usage)
                bar.set_postfix_str(f"epoch {epoch + 1}/{config.train.epochs}, prediction {prediction:.5f}, "
                                    f"compactness {compactness:.5f}, separateness {separateness:.4f}, "
                                    f"live items {live_items}", refresh=False)
                bar.update(len(clip))
                if step >= stop_at or stop.received:
                    break
            if not all(value.isfinite().all() for value in model.state_dict().values()):
                raise diverged(step, "weights or BatchNorm statistics are not finite", last)
            if step % steps_per_epoch == 0:
                scheduler.step()
                save_checkpoint(run / f"epoch_{epoch + 1:03d}.pt", config, model.state_dict(), step=step,
                                provenance=origin)
            save_checkpoint(last, config, model.state_dict(), step=step, videos=lengths, provenance=origin,
                            rng=torch.get_rng_state(), optimizer=optimizer.state_dict(),
                            scheduler=scheduler.state_dict())

    if stop.received:
        print(f"{signal.Signals(stop.received).name} at step {step}; go on with --resume {last}")
        return 128 + stop.received
    print(f"done: {step} steps; next: python evaluate.py --checkpoint {last} --dataset_path {args.dataset_path}")
    return 0


def diverged(step: int, what: str, last: Path) -> TrainingDiverged:
    """The error that ends a run whose numbers are no longer finite."""
    good = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
    return TrainingDiverged(f"step {step}: {what}; {good}; try a lower --train.lr")


if __name__ == "__main__":
    run_command(main)
