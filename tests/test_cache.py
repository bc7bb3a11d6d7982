"""Packed frames: the same pixels as decoding, made once, never half-made, remade when stale."""

import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_frames
from lgn_net.data.videos import Video, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    """Three colour videos of 7, 70 and 5 frames, 24 x 20 pixels of noise; 70 is more than one chunk."""
    rng = np.random.default_rng(0)
    for name, length in {"a": 7, "b": 70, "c": 5}.items():
        folder = tmp_path / "set" / "training" / "frames" / name
        folder.mkdir(parents=True)
        for t in range(length):
            cv2.imwrite(str(folder / f"{t}.png"), rng.integers(0, 256, (20, 24, 3), np.uint8))
    return index_videos(folder.parent)


def packed_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.u8"))


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 24)])
def test_bit_identical_to_decoding(videos, tmp_path, channels, size):
    packed = pack_frames(videos, channels, size, tmp_path / "cache")
    decoding, reading = Windows(videos, 5, channels, size), Windows(videos, 5, channels, size, packed)
    batches = epoch_batches(len(decoding), 4, True, 0, 0)
    for workers in (0, 2):
        for a, b in zip(loader(decoding, batches, 0, torch.device("cpu")),
                        loader(reading, batches, workers, torch.device("cpu")), strict=True):
            assert torch.equal(a, b)
    whole = np.memmap(packed.path, np.uint8, "r").reshape(-1, channels, size, size)      # the documented format
    assert np.array_equal(whole, np.concatenate([read_frames(v.frames, channels, size) for v in videos]))


def test_made_once_and_again_only_when_something_changed(videos, tmp_path):
    folder = tmp_path / "cache"
    path = pack_frames(videos, 1, 16, folder).path
    made = path.stat().st_mtime_ns
    assert pack_frames(videos, 1, 16, folder).path.stat().st_mtime_ns == made
    assert pack_frames(videos, 3, 16, folder).path != path                              # another form, another file

    image = cv2.imread(videos[1].frames[66])
    cv2.imwrite(videos[1].frames[66], 255 - image)                                      # a source frame was replaced
    again = pack_frames(videos, 1, 16, folder)
    out = np.empty((1, 1, 16, 16), np.uint8)
    again.read(1, 66, out)
    assert np.array_equal(out, read_frames(videos[1].frames[66:67], 1, 16))

    with open(path, "r+b") as file:                                                     # the packed file was cut short
        file.truncate(1000)
    assert pack_frames(videos, 1, 16, folder).path.stat().st_size == 82 * 16 * 16
    path.write_bytes(bytes(82 * 16 * 16))                                               # or overwritten
    again = pack_frames(videos, 1, 16, folder)
    again.read(0, 0, out)
    assert out.any()

    fewer = [videos[0], videos[2]]                                                      # a video was removed
    pack_frames(fewer, 1, 16, folder).read(1, 2, out)
    assert np.array_equal(out, read_frames(videos[2].frames[2:3], 1, 16))


def test_a_file_that_is_open_outlives_its_replacement(videos, tmp_path):
    first = pack_frames(videos, 1, 16, tmp_path)
    before, after = np.empty((2, 1, 16, 16), np.uint8), np.empty((2, 1, 16, 16), np.uint8)
    first.read(1, 10, before)
    os.utime(videos[0].frames[0])
    pack_frames(videos[::-1], 1, 16, tmp_path)
    first.read(1, 10, after)
    assert np.array_equal(before, after)


def test_damage_in_the_source_leaves_nothing_behind(videos, tmp_path):
    Path(videos[1].frames[69]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"69\.png is damaged"):
        pack_frames(videos, 1, 16, tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_change_of_size_between_chunks_is_seen(videos, tmp_path):
    for frame in videos[1].frames[64:]:
        cv2.imwrite(frame, np.zeros((10, 24), np.uint8))
    with pytest.raises(UserError, match=r"64\.png is 24 x 10 pixels, the one before 24 x 20"):
        pack_frames(videos, 1, 16, tmp_path / "cache")


def test_too_little_disk_is_said_before_anything_is_written(videos, tmp_path):
    with pytest.raises(UserError, match=r"82 frames needs 9840\.0 GB, .* has .* GB free"):
        pack_frames(videos, 3, 200_000, tmp_path / "cache")
    assert not packed_files(tmp_path / "cache")


def pack_and_report(videos: list[Video], folder: Path, queue) -> None:
    queue.put(pack_frames(videos, 1, 16, folder).path.stat().st_ino)


def test_processes_share_one_file(videos, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=pack_and_report, args=(videos, tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    inodes = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(inodes) == 1 and not list(tmp_path.glob("*.part"))


def test_killed_while_packing_then_started_again(videos, tmp_path):
    """SIGKILL in the middle, for real: the name never shows a part, and the next call makes the whole."""
    split, folder = str(Path(videos[0].frames[0]).parents[1]), str(tmp_path / "cache")
    code = textwrap.dedent(f"""
        import sys, time; sys.path.insert(0, {str(ROOT)!r})
        from lgn_net.data import cache
        from lgn_net.data.videos import index_videos
        slow = cache.read_frames
        def read(*args):
            print("packing", flush=True); time.sleep(5); return slow(*args)
        cache.read_frames = read
        cache.pack_frames(index_videos({split!r}), 1, 16, {folder!r})
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline().startswith(b"packing")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not packed_files(tmp_path / "cache")
    assert pack_frames(videos, 1, 16, tmp_path / "cache").path.stat().st_size == 82 * 16 * 16
    assert not list((tmp_path / "cache").glob("*.part"))


def test_memory_stays_that_of_a_batch(videos, tmp_path):
    """Windows of a packed file of ShanghaiTech's size (sparse here) are read without the file becoming resident."""
    packed = pack_frames(videos, 3, 256, tmp_path)
    frames = 274_515
    packed.first = np.array([0, frames])
    os.truncate(packed.path, frames * 3 * 256 * 256)
    out = np.empty((5, 3, 256, 256), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in np.random.default_rng(0).integers(0, frames - 5, 500):
        packed.read(0, int(start), out)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024      # KiB


def test_spawned_workers_read_it_too(videos, tmp_path):
    copy = pickle.loads(pickle.dumps(pack_frames(videos, 1, 16, tmp_path)))
    out = np.empty((2, 1, 16, 16), np.uint8)
    copy.read(2, 3, out)
    assert np.array_equal(out, read_frames(videos[2].frames[3:5], 1, 16))
