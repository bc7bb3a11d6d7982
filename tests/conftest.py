"""What several test files share."""

import functools
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_videos

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


@pytest.fixture
def blob_dataset(tmp_path):
    """A function that writes a data set in colour and returns the folder to give as --dataset_path."""

    def write(dataset="blobs", training=(7, 7), testing=(9, 8, 10)):
        """The second half of each testing video is labelled 1."""
        for split, lengths in {"training": training, "testing": testing}.items():
            write_videos(tmp_path / dataset / split / "frames", lengths, channels=3)
        truth = np.concatenate([np.arange(length) >= length // 2 for length in testing])
        np.save(tmp_path / dataset / f"frame_labels_{dataset}.npy", truth.astype(np.uint8))
        return tmp_path

    return write
