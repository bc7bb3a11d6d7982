"""What several test files share."""

import functools
import inspect
import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

os.environ["OMP_NUM_THREADS"] = "1"                                 # for the commands that tests start
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
torch.set_num_threads(1)                                            # the networks here are tiny
inspect.getsource = functools.cache(inspect.getsource)              # every parser of a command reads the same classes


@pytest.fixture
def shared_data():
    """The real data that lies beside the project on the developers' machines."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    return SHARED
