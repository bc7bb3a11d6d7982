"""Check a GPU in less than 90 seconds: whether it computes what the CPU computes, and how fast.

    python scripts/gpu_check.py --json FILE
    python scripts/gpu_check.py --device cpu --size tiny      try it without a GPU

FILE is written anew after each check, and a check that fails leaves the others alone. Weights are random, frames are
noise. The exit status is 1 where the device does not agree with the CPU, or a check failed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from lgn_net.benchmark import PRECISIONS, Work, conv_rate, difference, draw_video, evaluation, machine, random_model
from lgn_net.benchmark import training as training_steps
from lgn_net.config import Config, with_knobs
from lgn_net.data.videos import Video
from lgn_net.device import pick_device
from lgn_net.files import to_json, write_atomic
from lgn_net.terminal import run_command

TINY = {"data.image_size": 32, "model.base_width": 4, "model.hidden_width": 4, "model.lstm_layers": 2,
        "train.batch_size": 2, "score.batch_size": 2}
STEPS, PATIENCE = 20, 8.0                        # calls measured, and seconds after which no further one begins
PSNR_DB, DISTANCE, LOSS = 1e-3, 1e-6, 1e-4       # largest differences from the CPU in float32; the last one is relative
CPU = torch.device("cpu")


def main(argv: list[str]) -> int:
    """Run every check and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps or cpu (default: cuda)")
    parser.add_argument("--size", choices=["full", "tiny"], default="full", help="of network and frames")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    device, config = pick_device(args.device), with_knobs(Config(), TINY if args.size == "tiny" else {})
    result: dict = {"size": args.size, "machine": machine(device)}
    with tempfile.TemporaryDirectory() as folder:
        video = draw_video(Path(folder), config, config.train.batch_size + config.model.window - 1)
        for check in (scores, losses, speed):
            try:
                found = check(config, video, device)
            except Exception as error:                    # whatever a GPU comes up with
                found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            result[check.__name__] = found
            print(f"{check.__name__}: {found}", flush=True)
            if args.json:
                write_atomic(Path(args.json), to_json(result))
    return 0 if all(result[name].get("ok", True) for name in ("scores", "losses", "speed")) else 1


def scores(config: Config, video: Video, device: torch.device) -> dict:
    """Score a video on the device and on the CPU; about half of the frames update the memory."""
    model = random_model(config, video, CPU)
    frozen = evaluation(model, video, with_knobs(config, {"score.memory_update": "frozen"}), CPU)[1]()
    config = with_knobs(config, {"score.gamma": sorted(s.regular_score for s in frozen)[len(frozen) // 2]})
    truth, found = evaluation(model, video, config, CPU)[1](), {}
    for precision in PRECISIONS:
        setting = with_knobs(config, {"score.precision": precision})
        found[precision] = difference(evaluation(model.to(device), video, setting, device)[1](), truth)
    exact = found["float32"]
    return {"ok": exact["psnr_db"] <= PSNR_DB and exact["distance"] <= DISTANCE and not exact["updates"],
            "frames_that_update": sum(s.memory_updated for s in truth), **found}


def losses(config: Config, video: Video, device: torch.device) -> dict:
    """Train a tiny network for three steps on the device and on the CPU, from the same weights."""
    here, truth = (training_steps(with_knobs(config, TINY), video, place, 3)[1]() for place in (device, CPU))
    apart = [abs(a - b) / b for a, b in zip(here, truth)]
    return {"ok": apart[0] <= LOSS, "relative_difference": apart}


def speed(config: Config, video: Video, device: torch.device) -> dict:
    """Measure training and evaluation in each precision, every frame updating the memory, and a large convolution."""
    found, model = {}, random_model(config, video, device)
    for precision in PRECISIONS:
        setting = with_knobs(config, {"train.precision": precision, "train.deterministic": False,
                                      "score.precision": precision, "score.gamma": 2.0})
        found[precision] = {
            "images_per_s": rate(training_steps(setting, video, device, 1), config.train.batch_size),
            "frames_per_s": rate(evaluation(model, video, setting, device), config.train.batch_size),
            "convolution_tflops": conv_rate(device, precision) / 1e12}
        if device.type == "cuda":
            found[precision]["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
            torch.cuda.reset_peak_memory_stats(device)
    return found


def rate(work: Work, count: int) -> float:
    """Measure how many images or frames a second a call with `count` of them does, after three calls to warm up."""
    for _ in range(3):
        work[1]()
    start, steps = time.perf_counter(), 0
    while steps < STEPS and time.perf_counter() - start < PATIENCE:
        work[1]()                                         # ends with numbers on the host
        steps += 1
    return steps * count / (time.perf_counter() - start)


if __name__ == "__main__":
    run_command(main)
