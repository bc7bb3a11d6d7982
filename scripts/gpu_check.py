"""Check a GPU in 90 seconds: whether it computes what the CPU computes, and how fast, with random weights and frames.

    python scripts/gpu_check.py --json FILE
    python scripts/gpu_check.py --device cpu --size tiny      try it without a GPU

A check that fails leaves the others alone. The exit status is 1 where the device does not agree with the CPU.
"""

from lgn_net.cli import Parser, show_help

PARSER = Parser(__doc__)
PARSER.add_argument("--device", default="cuda", help="cuda, cuda:1, mps or cpu (default: cuda)")
PARSER.add_argument("--size", choices=["full", "tiny"], default="full", help="of network and frames")
PARSER.add_argument("--json", help="file to write")
show_help(__name__, PARSER)     # before slow imports

import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import benchmark
import torch
from benchmark import PRECISIONS, difference, draw_video, interleave, machine, random_model

from lgn_net.config import Config, with_knobs
from lgn_net.data.videos import Video
from lgn_net.device import conv_rate, pick_device, set_kernels
from lgn_net.files import ROOT, to_json, write_atomic
from lgn_net.inference.loop import score_videos
from lgn_net.terminal import run_command

TINY = {"data.image_size": 32, "model.base_width": 4, "model.hidden_width": 4, "model.lstm_layers": 2,
        "train.batch_size": 2, "score.batch_size": 2}
ROUNDS = 20                                      # of steps and evaluations
PSNR_DB, DISTANCE, LOSS = 1e-3, 1e-6, 1e-4       # largest differences from the CPU in float32; the last one is relative
CPU = torch.device("cpu")


def main(argv: list[str]) -> int:
    """Run every check and write what it found."""
    args = PARSER.parse_args(argv)
    device, config = pick_device(args.device), with_knobs(Config(), TINY if args.size == "tiny" else {})
    result: dict = {"size": args.size, "machine": machine(device)}
    with tempfile.TemporaryDirectory() as folder:
        video = draw_video(Path(folder), config, config.train.batch_size + config.model.window - 1)
        for check in (convolution_tflops, scores, losses, training, evaluation, device_tests):
            start = time.perf_counter()
            try:
                found = check(config, video, device)
            except Exception as error:                    # whatever a GPU comes up with
                found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            result[check.__name__] = found | {"check_s": time.perf_counter() - start}
            print(f"{check.__name__}: {result[check.__name__]}", flush=True)
            if args.json:
                write_atomic(Path(args.json), to_json(result))
    return 0 if all(result[name].get("ok", True) for name in ("scores", "losses", "evaluation", "device_tests")) else 1


def convolution_tflops(_config: Config, _video: Video, device: torch.device) -> dict:
    """Measure a large convolution: nothing that follows runs at a higher rate."""
    return {precision: conv_rate(device, precision) / 1e12 for precision in PRECISIONS}


def scores(config: Config, video: Video, device: torch.device) -> dict:
    """Score a video on the device and on the CPU, so that about half of the frames update the memory."""
    model = random_model(config, video, CPU)
    frozen = score_videos(model, [video], with_knobs(config, {"score.memory_update": "frozen"}), CPU)
    config = with_knobs(config, {"score.gamma": statistics.median(s.regular_score for s in frozen)})
    truth, found = [*score_videos(model, [video], config, CPU)], {}
    for precision in PRECISIONS:
        set_kernels(precision)
        setting = with_knobs(config, {"score.precision": precision})
        found[precision] = difference([*score_videos(model.to(device), [video], setting, device)], truth)
    exact = found["float32"]
    return {"ok": exact["psnr_db"] <= PSNR_DB and exact["distance"] <= DISTANCE and not exact["updates"],
            "frames": len(truth), "frames_that_update": sum(s.memory_updated for s in truth), **found}


def losses(config: Config, video: Video, device: torch.device) -> dict:
    """Train a tiny network for three steps on the device and on the CPU, from the same weights."""
    here, truth = (benchmark.training(with_knobs(config, TINY), video, place, 3)[1]() for place in (device, CPU))
    apart = [abs(a - b) / b for a, b in zip(here, truth)]
    return {"ok": apart[0] <= LOSS, "relative_difference": apart}


def training(config: Config, video: Video, device: torch.device) -> dict:
    """Measure images per second of training steps in each precision, and in bfloat16 with repeatable kernels."""
    ways = {}
    for name in (*PRECISIONS, "bfloat16, deterministic"):
        knobs = {"train.precision": name.split(",")[0], "train.deterministic": name.endswith("deterministic")}
        ways[name] = benchmark.training(with_knobs(config, knobs), video, device)[1]
    return rates(ways, config.train.batch_size)


def evaluation(config: Config, video: Video, device: torch.device) -> dict:
    """Measure frames per second in each precision, and by a CUDA graph in float32; every frame updates the memory."""
    model, ways = random_model(config, video, device), {}
    for name in (*PRECISIONS, "graph"):
        knobs = {"score.kernels": "graph"} if name == "graph" else {"score.precision": name}
        ways[name] = benchmark.evaluation(model, video, with_knobs(config, knobs | {"score.gamma": 2.0}), device)[1]
    apart = difference(ways["graph"](), ways["float32"]())["psnr_db"]
    return {"ok": apart <= PSNR_DB, "graph_psnr_db": apart, **rates(ways, len(video.frames) - config.model.window + 1)}


def rates(ways: dict, count: int) -> dict:
    """Measure how many images or frames a second the ways do, of `count` in a call: the median of `ROUNDS`."""
    times, _ = interleave(ways, ROUNDS)
    return {way: count / statistics.median(wall for wall, _ in each) for way, each in times.items()}


def device_tests(_config: Config, _video: Video, device: torch.device) -> dict:
    """Run the tests of devices, where there are a GPU and pytest."""
    if device.type == "cpu" or not find_spec("pytest"):
        return {"skipped": "they need a GPU and pytest"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-qk", "cuda", "tests/test_resume.py"], cwd=ROOT, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=40, check=False)
    return {"ok": done.returncode == 0, "end": (done.stdout + done.stderr).splitlines()[-5:]}


if __name__ == "__main__":
    run_command(main)
