"""Check a GPU in less than 90 seconds: whether it computes what the CPU computes, and how fast.

    python scripts/gpu_check.py --json FILE
    python scripts/gpu_check.py --device cpu --size tiny      try it without a GPU

Runs scripts/benchmark.py, whose weights are random and whose frames are noise, and tests/test_devices.py. FILE is
written anew after each of them, and one that fails leaves the others alone; the exit status is then 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lgn_net.benchmark import machine
from lgn_net.device import pick_device
from lgn_net.files import ROOT, to_json, write_atomic
from lgn_net.terminal import run_command

TINY = ["--data.image_size", "32", "--model.base_width", "4", "--model.lstm_layers", "1", "--train.batch_size", "2"]


def main(argv: list[str]) -> int:
    """Run every check and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps or cpu (default: cuda)")
    parser.add_argument("--size", choices=["full", "tiny"], default="full", help="of network and frames")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args(argv)
    result: dict = {"size": args.size, "machine": machine(pick_device(args.device))}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        how = ["--device", args.device, "--repeats", "2", "--json", str(figures), *TINY * (args.size == "tiny")]
        for name, command in {
                "evaluate": ["scripts/benchmark.py", "evaluate", "--frames", "64", *how],
                "train": ["scripts/benchmark.py", "train", "--steps", "5", *how],
                "tests": ["-m", "pytest", "-q", "-m", "not slow", "tests/test_devices.py"]}.items():
            figures.unlink(missing_ok=True)
            done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
            result[name] = json.loads(figures.read_text()) if figures.exists() else {}
            result[name]["ok"] = done.returncode == 0
            print(f"{name}: {'passed' if result[name]['ok'] else 'failed'}\n{done.stdout or done.stderr}", flush=True)
            if args.json:
                write_atomic(args.json, to_json(result))
    return 0 if all(result[name]["ok"] for name in ("evaluate", "train", "tests")) else 1


if __name__ == "__main__":
    run_command(main)
