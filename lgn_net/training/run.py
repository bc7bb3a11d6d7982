"""A run's folder (lock, log, pictures, checkpoints), which the first process writes; and its number of epochs."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from filelock import Timeout
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lgn_net.config import Config, to_yaml, with_knobs
from lgn_net.data.clips import to_float
from lgn_net.data.windows import Windows
from lgn_net.datasets import facts_of
from lgn_net.distributed import collect, rank
from lgn_net.errors import TrainingDiverged, UserError
from lgn_net.files import check_writable, locked, write_atomic
from lgn_net.model.losses import Losses
from lgn_net.model.memory import PrototypeMemory
from lgn_net.terminal import optional
from lgn_net.training.checkpoint import save_checkpoint

SAMPLES = 4                     # windows drawn for TensorBoard after every epoch
WARM_UP, MEASURED = 10, 40      # steps before the measured ones, and measured ones
START, SCORED = 30.0, 32        # seconds that an evaluation takes to start and to write; frames scored to measure it


def check_free(folder: Path, resume: str | None) -> None:
    """Raise UserError where a folder holds a run already, unless it is the one that is resumed."""
    holds = (folder / "last.pt").exists() or any(folder.glob("epoch_*.pt"))
    if holds and (not resume or Path(resume).resolve().parent != folder.resolve()):
        raise UserError(f"{folder} already holds a run; go on with --resume auto, or choose another --exp_dir")
    check_writable(folder)


def read_log(path: Path) -> list[dict]:
    """Read the rows of a log.jsonl, without lines that are cut off or damaged; [] where there is none."""
    rows = []
    for line in path.read_text(errors="replace").split("\n") if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and {type(row.get(name)) for name in ("step", "epoch", "live_items")} == {int}:
                rows.append(row)
    return rows


class Run:
    """A run: its configuration, how many steps are done, and its folder, which is locked while it is open.

    `about` goes into every checkpoint.
    """

    def __init__(self, folder: Path, config: Config, step: int, steps_per_epoch: int, about: dict):
        self.folder, self.config, self.about = folder, config, about
        self.step = self.first_step = step
        self.steps_per_epoch = steps_per_epoch                       # the last batch of an epoch may be smaller
        self.last = folder / "last.pt"                               # what a continuation starts from

    @property
    def last_step(self) -> int:
        """Step at which the training is done."""
        steps = self.config.train.epochs * self.steps_per_epoch
        return min(steps, self.config.train.max_steps or steps)

    @property
    def epoch_file(self) -> Path | None:
        """File for the weights of an epoch that ends here, where `train.keep_epochs` keeps them."""
        knobs, (epoch, rest) = self.config.train, divmod(self.step, self.steps_per_epoch)
        every = int({"all": "1", "last": "0"}.get(knobs.keep_epochs, knobs.keep_epochs))
        kept = epoch and not rest and every and (epoch % every == 0 or epoch == knobs.epochs)
        return self.folder / f"epoch_{epoch:03d}.pt" if kept else None

    def __enter__(self) -> Self:
        self.saved, self.closing = time.monotonic(), contextlib.ExitStack()
        self.writing: list[Future] = []
        self.board: Any = None
        if rank():
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.closing.enter_context(locked(self.folder / ".lock", timeout=0))
        except Timeout:
            raise UserError(f"another process is training in {self.folder}; wait for it, or choose another "
                            f"--exp_dir") from None
        self.writer = self.closing.enter_context(ThreadPoolExecutor(1))
        path = self.folder / "log.jsonl"
        # Lines after `step` were logged after the checkpoint that is resumed.
        write_atomic(path, "".join(f"{json.dumps(row)}\n" for row in read_log(path) if row["step"] <= self.step))
        write_atomic(self.folder / "config.yaml", to_yaml(self.config))
        self.file = self.closing.enter_context(path.open("a"))
        self.vision = optional("torchvision.utils", "no pictures in TensorBoard")
        if tensorboard := optional("torch.utils.tensorboard", "no files for TensorBoard"):
            self.board = self.closing.enter_context(tensorboard.SummaryWriter(self.folder, purge_step=self.step + 1))
        return self

    def __exit__(self, *_: object) -> None:
        with self.closing:
            self.finish_writing()

    def log(self, lr: float, losses: Losses, live_items: int, images_per_s: float,
            memories: Sequence[PrototypeMemory], usage: Sequence[Tensor]) -> None:
        """Log the numbers of one step: a line of log.jsonl, and points in TensorBoard.

        The speed goes to TensorBoard only, so that equal runs have equal logs. TensorBoard also gets, of each memory,
        the mean cosine of its items and which part of the batch's queries (`usage`, (M,)) is nearest to each item.
        """
        if rank():
            return
        values, step = losses._asdict(), self.step
        epoch = math.ceil(step / self.steps_per_epoch)                                 # from 1
        row = {"step": step, "epoch": epoch, "lr": lr, "loss": values.pop("total"), **values, "live_items": live_items}
        print(json.dumps(row), file=self.file, flush=True)
        if not self.board:
            return
        for name, value in {**row, "images_per_s": images_per_s}.items():
            self.board.add_scalar(f"train/{name}", value, step)
        for k, (memory, count) in enumerate(zip(memories, usage), 1):
            name = f"memory_{k}" if len(memories) > 1 else "memory"
            self.board.add_scalar(f"{name}/item_cosine", memory.redundancy(), step)
            self.board.add_histogram(f"{name}/queries_of_an_item", count / count.sum(), step)

    @torch.no_grad()
    def draw(self, model: Any, windows: Windows, device: torch.device) -> None:
        """Show some frames, their predictions and the errors in TensorBoard."""
        if not (self.board and self.vision):
            return
        some = [k * len(windows) // SAMPLES for k in range(min(SAMPLES, len(windows)))]
        clips = to_float(windows.clips(some).to(device))
        model.eval()
        predicted = model(clips[:, :self.config.model.input_frames]).prediction.float()
        model.train()
        frames, predicted = ((x + 1) / 2 for x in (clips[:, -1], predicted.clamp(-1, 1)))
        error = (frames - predicted).square().mean(dim=1, keepdim=True).expand_as(frames)
        error = error / error.amax().clamp_min(1e-12)
        grid = self.vision.make_grid(torch.cat([frames, predicted, error]), nrow=len(frames))
        self.board.add_image("frame, prediction, error", grid.flip(0), self.step)         # red, green, blue

    def due(self) -> bool:
        """Return whether `train.save_minutes` have gone by since last.pt was written."""
        return not rank() and time.monotonic() - self.saved > 60 * self.config.train.save_minutes

    def write(self, path: Path, model: dict, **state: object) -> None:
        """Write a checkpoint, from a copy in main memory, while the training goes on; at most one more waits."""
        if rank():
            return
        self.finish_writing(but=1)
        copy = tree_map_only(Tensor, lambda x: x.detach().to("cpu", copy=True), {"model": model, **state})
        content = {"step": self.step, **copy, **self.about}
        self.writing.append(self.writer.submit(save_checkpoint, path, self.config, **content))
        if path == self.last:
            self.saved = time.monotonic()

    def finish_writing(self, but: int = 0) -> None:
        """Wait until at most `but` checkpoints are still to be written; raise what their writing raised."""
        while self.writing and (len(self.writing) > but or self.writing[0].done()):
            self.writing.pop(0).result()

    def check_finite(self, what: str, values: Iterable[Tensor]) -> None:
        """Raise TrainingDiverged where a number is not finite."""
        if not all(value.isfinite().all() for value in values):
            self.finish_writing()
            good = f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"
            raise TrainingDiverged(f"step {self.step}: {what} not finite; {good}; try a lower --train.lr")

    def fit_epochs(self, times: Sequence[float]) -> int:
        """Choose how many epochs, `train.epochs` at most, fit into `train.fit_minutes` beside an evaluation.

        `times` holds the clock before and after the first `WARM_UP + MEASURED` steps of this command, and after the
        scoring of `SCORED` frames.
        """
        *of_steps, now = times
        _, frames = facts_of(self.config.data.dataset).totals.get("testing", (0, 0))
        a_step, minutes = (of_steps[-1] - of_steps[WARM_UP]) / MEASURED, self.config.train.fit_minutes or 0.0
        reserve = START + (now - of_steps[-1]) / SCORED * frames
        left = 60 * minutes - (now - times[0]) - reserve
        epochs = min(self.config.train.epochs, int((self.step + left / a_step) / self.steps_per_epoch))
        epochs = max(math.ceil(self.step / self.steps_per_epoch), epochs)              # at least the begun ones
        epochs = collect(epochs)[0]                                                    # the first process chooses
        print(f"{epochs} epochs fit into {minutes:g} minutes: {a_step:.3f} s a step, {self.steps_per_epoch} steps an "
              f"epoch, {reserve:.0f} s for the evaluation", flush=True)
        self.config = with_knobs(self.config, {"train.epochs": epochs})
        return epochs
