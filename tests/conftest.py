"""What several test files share."""

import functools
import inspect
import os
from pathlib import Path

import cv2
import numpy as np
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


@pytest.fixture
def blob_dataset(tmp_path):
    """A function that writes a data set of moving blobs and returns the folder to give as --dataset_path."""

    def write(dataset="blobs", training=(7, 7), testing=(9, 8, 10)):
        """A bright disc walks; in the second half of the testing videos, labelled 1, it jumps."""
        truth = []
        for split, lengths in {"training": training, "testing": testing}.items():
            for v, length in enumerate(lengths):
                folder = tmp_path / dataset / split / "frames" / f"{v + 1:02d}"
                folder.mkdir(parents=True)
                background = np.random.default_rng(v).integers(0, 60, (20, 24, 3), np.uint8)
                for t in range(length):
                    abnormal = split == "testing" and t >= length // 2
                    x = 3 + 2 * v + (9 if abnormal else 1) * t
                    frame = cv2.circle(background.copy(), (x % 24, 10), 4, (90, 160, 220), -1)
                    cv2.imwrite(str(folder / f"{t:03d}.png"), frame)
                    truth += [abnormal] if split == "testing" else []
        np.save(tmp_path / dataset / f"frame_labels_{dataset}.npy", np.array(truth, np.uint8))
        return tmp_path

    return write
