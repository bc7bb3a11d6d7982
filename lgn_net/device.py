"""Devices, precision, seeds, and the record of the machine that a result comes from."""

import contextlib
import functools
import platform
import re
import subprocess
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

import lgn_net
from lgn_net.config import Config, with_knobs
from lgn_net.distributed import collect, world_size
from lgn_net.errors import UserError
from lgn_net.files import ROOT


def pick_device(name: str) -> torch.device:
    """Return the named device; for `auto` cuda, mps or cpu, the first there is. UserError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else
                            "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} is not available here ({reason}); leave it out, or use cpu") from None
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run convolutions in bfloat16 for `precision="bfloat16"`; nothing changes for the others."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def set_kernels(precision: str, deterministic: bool = True) -> None:
    """Choose cuDNN's convolutions: rounded to TF32 or not, and repeatable ones or the fastest it finds.

    The matrix products are the memory's, and stay float32. Convolutions that bfloat16 leaves out may be TF32.
    """
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


@functools.cache
def conv_rate(device: torch.device, precision: str) -> float:
    """Measure the FLOP/s of a large convolution: 256 to 256 channels, 3 x 3, on maps of 64 x 64, channels last."""
    from torch.utils.benchmark import Timer  # only now: it looks for a CUDA toolkit, and says so
    set_kernels(precision, deterministic=False)
    dtype, B = torch.bfloat16 if precision == "bfloat16" else torch.float32, 32 if device.type == "cuda" else 1
    x, weight = (torch.ones(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
                 for shape in ((B, 256, 64, 64), (256, 256, 3, 3)))
    call = functools.partial(F.conv2d, x, weight, padding=1)
    measured = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()).blocked_autorange()
    return 2 * 9 * 256 * 256 * 64 * 64 * B / min(measured.times)


def settle_precision(config: Config, section: str, device: torch.device) -> Config:
    """Replace `precision: auto` of a section by bfloat16 where that is 1.2 times as fast here, else by float32."""
    knob, asked = f"{section}.precision", getattr(config, section).precision
    if asked not in ("auto", "bfloat16"):
        return config
    gain = collect(conv_rate(device, "bfloat16") / conv_rate(device, "float32"))[0]
    if asked == "auto":
        asked = "bfloat16" if gain >= 1.2 else "float32"
        print(f"{knob}: {asked}; a large convolution in bfloat16 runs at {gain:.2f} times the speed of float32 here")
    elif gain < 1:
        warnings.warn(f"bfloat16 is {1 / gain:.1f} times slower than float32 on this processor; --{knob} float32 is "
                      f"faster")
    return with_knobs(config, {knob: asked})


def provenance(device: torch.device) -> dict:
    """Collect versions, git revision and machine, for checkpoints and results."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text() if info.is_file() else "")
    git = "unknown"                                                              # outside a checkout
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        git = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    return {
        "lgn_net": lgn_net.__version__,
        "git": git,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else
                  f"{device.type}, {torch.get_num_threads()} threads",
        "processor": f"{model[1] if model else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }
