"""Packed frames: the same pixels as decoding, made once, never half-made, remade when stale."""

import json
import os
import resource
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import cv2
import filelock
import numpy as np
import pytest
import torch

from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_frames
from lgn_net.data.videos import index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.errors import UserError


@pytest.fixture
def videos(blob_dataset):
    """Three colour videos of 7, 70 and 5 frames."""
    return index_videos(blob_dataset("set", training=(7, 70, 5)) / "set/training/frames")


def frame_of(packed, video, t):
    out = np.empty((1, *packed.shape), np.uint8)
    packed.read(video, t, out)
    return out


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 24)])
def test_bit_identical_to_decoding(videos, tmp_path, channels, size):
    packed = pack_frames(videos, channels, size, tmp_path / "cache")
    decoding, reading = Windows(videos, 5, channels, size), Windows(videos, 5, channels, size, packed)
    batches = epoch_batches(len(decoding), 4, True, 0, 0)
    for a, b in zip(loader(decoding, batches, 0, torch.device("cpu")),
                    loader(reading, batches, 2, torch.device("cpu")), strict=True):
        assert torch.equal(a, b)
    whole = np.memmap(packed.path, np.uint8, "r").reshape(-1, channels, size, size)      # the documented format
    assert np.array_equal(whole, np.concatenate([read_frames(v.frames, channels, size) for v in videos]))


def test_damaged_frames_are_decoded_again(videos, tmp_path):
    """A bit in frame 6 of video b; the next run packs afresh. So it does where the file was cut short, or is gone."""
    path = pack_frames(videos, 1, 16, tmp_path).path
    content = bytearray(path.read_bytes())
    content[13 * 256 + 9] ^= 8
    path.write_bytes(content)
    for damaged in (1, 0, 5, 0):
        if damaged == 5:
            os.truncate(path, 1000)
        packed, out = pack_frames(videos, 1, 16, tmp_path), np.empty((5, 1, 16, 16), np.uint8)
        with pytest.warns(UserWarning, match=r"u8 are damaged; they are decoded") if damaged else nullcontext():
            packed.read(1, 3, out)
        assert np.array_equal(out, read_frames(videos[1].frames[3:8], 1, 16)) and packed.checked.sum() == 5 - damaged
    path.unlink()
    assert frame_of(pack_frames(videos, 1, 16, tmp_path), 0, 0).any()


def test_made_once_and_again_only_when_something_changed(videos, tmp_path):
    path = pack_frames(videos, 1, 16, tmp_path / "cache").path
    made = path.stat().st_mtime_ns
    assert pack_frames(videos, 1, 16, path.parent).path.stat().st_mtime_ns == made
    assert pack_frames(videos, 3, 16, path.parent).path != path                         # another form, another file
    (path.parent / f".{path.name}.left").touch()                                        # by a process that was killed

    cv2.imwrite(videos[1].frames[66], 255 - cv2.imread(videos[1].frames[66]))           # a source frame was replaced
    old = pack_frames(videos, 1, 16, path.parent)
    assert np.array_equal(frame_of(old, 1, 66), read_frames(videos[1].frames[66:67], 1, 16))
    assert not list(path.parent.glob(".*"))
    fewer = [videos[0], videos[2]]                                                      # a video was removed
    assert np.array_equal(frame_of(pack_frames(fewer, 1, 16, path.parent), 1, 2), frame_of(old, 2, 2))
    # What is known of it is damaged, or of an earlier version, which wrote size and time of the file, too.
    fingerprint, checksums = json.loads(path.with_suffix(".json").read_text())
    for known in ("[", "{}", "[1, 2, 3, 4]", '["a", 1, 2, [3]]', earlier := json.dumps([fingerprint, 1, 2, checksums])):
        made = path.stat().st_mtime_ns
        path.with_suffix(".json").write_text(known)
        again = pack_frames(fewer, 1, 16, path.parent).path.stat().st_mtime_ns > made
        assert again == (known != earlier)


@pytest.mark.parametrize(("damage", "match"), [
    (lambda frames: Path(frames[69]).write_bytes(b"no image"), r"69\.png is damaged"),
    (lambda frames: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, -1)), "cannot write .*u8: ")])      # full disk
def test_failure_leaves_nothing_behind(videos, tmp_path, damage, match):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        damage(videos[1].frames)
        with pytest.raises(UserError, match=match):
            pack_frames(videos, 3, 16, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_disk_without_locks(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", Mock(side_effect=OSError(37, "No locks available")))
    with pytest.warns(UserWarning, match="knows no locks"):
        assert frame_of(pack_frames(videos, 1, 16, tmp_path), 0, 0).any()
