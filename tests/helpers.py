"""What the tests of the commands share: drawn videos, a tiny configuration, and commands run as a user runs them."""

import contextlib
import importlib.util
import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import official_name
from torch import nn

from lgn_net.config import Config, DataConfig, ModelConfig
from lgn_net.data.labels import read_ranges
from lgn_net.datasets import BENCHMARKS
from lgn_net.errors import UserError
from lgn_net.model.build import build_model
from lgn_net.scores.score_file import VideoScores
from lgn_net.terminal import run_command

ROOT = Path(__file__).parents[1]

TINY = """\
data: {dataset: made, image_size: 16, channels: 1, workers: 0}
model: {base_width: 4, hidden_width: 4, lstm_layers: 1, memory_items: 5}
train: {epochs: 3, batch_size: 2, lr: 1e-3, log_every: 1}
"""


def write_videos(folder: Path, lengths: Sequence[int], channels: int = 1) -> None:
    """Grey videos, or in colour, 00, 01, ... of moving stripes, the same on every machine."""
    y, x, channel = np.mgrid[:16, :20, :channels]
    for v, length in enumerate(lengths):
        (folder / f"{v:02d}").mkdir(parents=True)
        for t in range(length):
            frame = (7 * x + 13 * (v + 1) * y + 70 * channel + (11 + v) * t * t) % 256
            cv2.imwrite(str(folder / f"{v:02d}" / f"{t:03d}.png"), frame.astype(np.uint8))


def write_data_set(folder: Path, training: Sequence[int] = (9, 8), testing: Sequence[int] = (8, 10)) -> tuple:
    """The data set `made` of such videos, labels, and the tiny configuration; the arguments that name them."""
    write_videos(folder / "made/training/frames", training)
    write_videos(folder / "made/testing/frames", testing)
    (folder / "made/labels.csv").write_text("video,start,end\n00,5,6\n01,4,4\n01,8,9\n")
    (folder / "tiny.yaml").write_text(TINY)
    return "--config", folder / "tiny.yaml", "--dataset_path", folder, "--device", "cpu"


def published(dataset: str, source: str = "official", first: int = 0) -> dict[str, np.ndarray]:
    """The labels of a benchmark that ship, by the name of the video, from frame `first` on."""
    return {name: y[first:] for name, y in read_ranges(BENCHMARKS[dataset].truths[source]).items()}


def made_scores(labels: dict[str, np.ndarray], seed: int = 0, skill: float = 1.0, first: int = 4) -> list[VideoScores]:
    """A fair detector: PSNR falls and distance rises by `skill` standard deviations where a frame is abnormal."""
    rng = np.random.default_rng(seed)
    return [VideoScores(name, np.arange(first, first + len(y)),
                        {"psnr": 30 - 3 * skill * y + rng.normal(0, 3, len(y)),
                         "distance": 0.2 + 0.05 * skill * y + rng.normal(0, 0.05, len(y))}, y.astype(np.uint8))
            for name, y in labels.items()]


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def warnings(self) -> list[str]:
        """The lines of stderr that are warnings."""
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


def run(main: Callable[[list[str]], int | None], *argv: object) -> Result:
    """A command in this process, which spares it the import of torch: everything but the process is real."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["command", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command(main)
    except SystemExit as end:
        return Result(end.code or 0, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("run_command returned")


def shell(*argv: object) -> Result:
    """`python ...` from the project's folder, in a process of its own."""
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def sentence(result: Result, status: int = 2) -> str:
    """The one line `error: ...` with which a command ended; anything else is a failure."""
    assert result.status == status, result
    assert "Traceback" not in result.err, result.err
    lines = result.err.splitlines()                       # also splits what a progress bar overwrites
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], result.err
    return errors[0].removeprefix("error: ")


def refusal(function: Callable, *args: object, **given: object) -> str:
    """The one short sentence of the UserError with which the call soon ends."""
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        function(*args, **given)
    said = str(caught.value)
    assert said and "\n" not in said and len(said) < 500 and time.monotonic() - begun < 5
    return said


def load_script(path: str):
    """A script of the project as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def edit_checkpoint(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a checkpoint with a change."""
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


class Code:
    """Unpickled, it calls a function, such as `Path.touch, (path,)`."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self):
        return self.call


def check_equal(one: list, other: list) -> None:
    """Signals of the same frames are equal up to rounding."""
    for a, b in zip(one, other, strict=True):
        assert (a.video, a.frame, a.memory_updated) == (b.video, b.frame, b.memory_updated)
        assert abs(a.psnr - b.psnr) < 1e-4
        assert all(abs(x - y) < 1e-7 for x, y in zip(a.distance, b.distance, strict=True))


def random_official_state(seed: int, width: int = 64, hidden: int = 128, layers: int = 4, n: int = 4, channels: int = 3,
                          items: int = 10, system: str = "lgn_net", memory: bool = True) -> tuple[dict, torch.Tensor]:
    """Random weights under the names of the authors' file, also for the relatives without files, and items (M, D).

    Convolutions keep the variance of a ReLU network; BatchNorms are away from 0 and 1, so that none can be left out.
    """
    torch.manual_seed(seed)
    model = build_model(Config(data=DataConfig(channels=channels), model=ModelConfig(
        system, base_width=width, hidden_width=hidden, lstm_layers=layers, input_frames=n,
        memory=memory or system == "loc_net")))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.6, 1.4)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, 0, 0.2)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    state = {official_name(name): value for name, value in model.state_dict().items() if not name.endswith("items")}
    if system != "loc_net":                                               # in the files, never used
        unused = nn.BatchNorm2d(8 * width).state_dict()
        state |= {f"encoder.moduleBatchNorm.{name}": value for name, value in unused.items()}
    return state, F.normalize(torch.randn(items, 8 * width), dim=1)
