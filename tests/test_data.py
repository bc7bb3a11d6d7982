"""From folders to clips: which frames, in which order, with which pixels, decoded or packed, and what is refused."""

import json
import os
import resource
import time
import warnings
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import filelock
import numpy as np
import pytest
import torch
from helpers import write_videos

from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_frames, read_image, read_mask, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.errors import UserError

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (37, 22))     # H = 22, W = 37


def touch(folder, *names):
    """Make a folder with empty files, whose names may hold folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(folder.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(("frame", "dataset", "found"), [
    ("ped2/testing/frames/01/0.jpg", "ped2", 3), ("ped2/test/frames/01/0.jpg", "ped2", 3),
    ("testing/frames/01/0.jpg", "ped2", 2), ("shanghai/test/frames/01/0.jpg", "shanghaitech", 3),
    ("shanghaitech/testing/frames/01/0.jpg", "shanghai", 3), ("Mine/Testing/Frames/01/0.jpg", "mine", 3),
    ("MINE/Test/01/0.JPG", "mine", 2), ("testing/01/0.jpg", "mine", 1)])
def test_folder_layouts(tmp_path, frame, dataset, found):
    """Any of these names, in letters of either case, with or without the level `frames`."""
    home = tmp_path / "/".join(frame.split("/")[:found])
    touch(tmp_path, frame)
    touch(home, "test_frame_mask/01.npy", "01_gt/0.bmp", ".hidden/0.jpg", "01.avi")
    folder = find_split(tmp_path, dataset, "testing")
    assert folder == home and [video.name for video in index_videos(folder)] == ["01"]


@pytest.mark.parametrize(("dataset", "file", "below", "said"), [
    ("ped2", "UCSDped2/Train/Train001/001.tif", "", "prepare_data.py ped2 --source {} --out prepared,"),
    ("shanghai", "shanghaitech/training/videos/01_001.avi", "", "prepare_data.py shanghaitech --source {} --out"),
    ("mine", "mine/training/monday.MP4", "", "prepare_data.py custom --name mine --source {} --out prepared,"),
    ("avenue", "Avenue_Dataset/Train/01/0.jpg", "", "give --dataset_path {}/Avenue_Dataset"),
    ("mine", "mine/Training/01/0.jpg", "mine/testing", "give --dataset_path {}/mine"),
    ("mine", "x", "nowhere", "nowhere: no such folder")])
def test_near_misses_are_told(tmp_path, dataset, file, below, said):
    touch(tmp_path, file, "UCSDped2/Test/Test001_gt/001.txt", "mine/testing/001.txt")
    with pytest.raises(UserError) as caught:
        find_split(tmp_path / below, dataset, "training")
    assert said.format(tmp_path) in str(caught.value)


@pytest.mark.parametrize("names", [
    ["1", "2", "10"], ["frame_0009", "frame_10", "frame_0011"], ["a1b9", "a1b10", "a2b1"], ["4", "5²", "1" + 99 * "0"]])
def test_natural_order_without_what_is_no_frame(tmp_path, names):
    touch(tmp_path, "stray.jpg")
    for name in reversed(names):
        touch(tmp_path / name, *(f"{name}.JPG" for name in reversed(names)), "Thumbs.db", "._1.jpg", "notes.txt", "4")
    videos = index_videos(tmp_path)
    assert [video.name for video in videos] == names
    assert [path.rpartition("/")[2] for path in videos[0].frames] == [f"{name}.JPG" for name in names]
    touch(tmp_path / "02", "Thumbs.db")
    for folder, match in ((tmp_path, "02 holds no image"), (tmp_path / names[0], "holds no videos")):
        with pytest.raises(UserError, match=match):
            index_videos(folder)


def test_windows_hold_consecutive_frames_of_one_video(tmp_path):
    """Short videos are skipped by name; the loader gives the batches asked for, with and without workers."""
    for v, length in enumerate([7, 4, 5, 1, 6]):
        for t in range(length):                                      # all pixels hold the numbers of video and frame
            cv2.imwrite(str(touch(tmp_path / f"v{v}") / f"{t}.png"), np.full((8, 8, 3), (v, 0, t), np.uint8))
    videos = index_videos(tmp_path)
    with pytest.warns(UserWarning) as warned:
        windows = Windows(videos, 5, 3, 8)
    assert [str(w.message)[:8] for w in warned] == ["video v1", "video v3"]
    expected = [(v, start) for v, length in ((0, 7), (2, 5), (4, 6)) for start in range(length - 4)]
    whole = windows.clips([*range(len(windows))])
    assert whole.dtype == torch.uint8 and torch.equal(whole, whole[..., :1, :1].expand_as(whole))
    assert whole[..., 0, 0].tolist() == [[[v, 0, start + t] for t in range(5)] for v, start in expected]
    batches = epoch_batches(len(windows), 1, True, seed=0, epoch=0)                  # more than are decoded ahead
    for workers in (0, 2):
        clips = loader(windows, batches, workers, torch.device("cpu"))
        for batch, given in zip(batches, clips, strict=True):
            assert torch.equal(given, whole[batch])

    # Where the training ends early, what no thread has begun is not decoded.
    taken, slow = [], SimpleNamespace(packed=None, loaded=None, clips=lambda i: taken.append(i) or time.sleep(0.05))
    clips = loader(slow, [*range(99)], 4, torch.device("cpu"))
    next(clips)
    clips.close()
    assert len(taken) < 9
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(UserError, match="5 frames"):
        Windows(videos[1:2], 5, 3, 8)


def test_epoch_batches():
    batches = epoch_batches(23, 4, True, seed=1, epoch=2)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3] and sorted(chain(*batches)) == list(range(23))
    torch.manual_seed(5)                                                  # the global random state plays no part
    assert epoch_batches(23, 4, True, seed=1, epoch=2) == batches
    orders = {tuple(chain(*epoch_batches(23, 4, True, seed, epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert list(chain(*epoch_batches(23, 4, False, seed=1, epoch=2))) == list(range(23))


@pytest.mark.parametrize("suffix", [".png", ".JPEG", ".tif"])
def test_pixels_are_those_of_opencv(tmp_path, suffix):
    """Blue, green, red of any format, or grey, resized as OpenCV does; one size per video."""
    path = touch(tmp_path / "v") / f"1{suffix}"
    path.write_bytes(cv2.imencode(suffix.lower(), PICTURE)[1].tobytes())
    video, = index_videos(tmp_path)
    assert np.abs(read_image(video.frames[0], 3).astype(int) - PICTURE).mean() < 6                  # the right picture
    for channels, flag in (3, cv2.IMREAD_COLOR), (1, cv2.IMREAD_GRAYSCALE):
        image = cv2.imread(str(path), flag)
        assert np.array_equal(read_image(video.frames[0], channels), image.reshape(22, 37, channels))
        expected = cv2.resize(image, (16, 16)).reshape(16, 16, channels).transpose(2, 0, 1)
        frames = to_float(read_frames(video.frames, channels, 16))
        assert frames.shape == (1, channels, 16, 16) and frames.dtype == torch.float32
        np.testing.assert_allclose(frames[0].numpy(), expected / 127.5 - 1, rtol=0, atol=1e-6)
    cv2.imwrite(str(path.with_name("2.png")), PICTURE[:10])
    with pytest.raises(UserError, match=r"2\.png is 37 x 10 .* 37 x 22"):
        read_frames(index_videos(tmp_path)[0].frames, 3, 8)


@pytest.mark.parametrize(("name", "image", "said"), [
    ("12.png", np.arange(3072, dtype=np.uint16).reshape(48, 64), "0 to 3071, which leave 12 of 256.*--depth_range LOW"),
    ("16.png", np.arange(65536, dtype=np.uint16).reshape(256, 256), None), ("8.png", np.zeros((8, 8), np.uint8), None),
    ("f.tiff", np.ones((8, 8), np.float32), "float32 pixels, 1 to 1.*--depth_range LOW"),
    ("signed.tiff", np.full((8, 8), -7, np.int16), "int16 pixels, -7 to -7.*--depth_range LOW")])
def test_lost_depth_is_said(tmp_path, name, image, said):
    cv2.imwrite(str(tmp_path / name), image)
    with warnings.catch_warnings(action="error"), \
            pytest.raises((UserWarning, UserError), match=said) if said else nullcontext():
        Windows([Video("01", 5 * (str(tmp_path / name),))], 5, 1, 8)


def test_masks_are_whatever_is_not_black(tmp_path):
    """0 and 1, 0 and 255, red, transparent, of 16 bits, of floats; what JPEG leaves around an edge is none."""
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:12] = 1
    clear = np.full((16, 16, 4), 255, np.uint8)
    clear[..., :3] = 255 * mask[..., None]
    for name, image in {"01.png": mask, "255.bmp": 255 * mask, "red.png": np.dstack([0 * mask, 0 * mask, 99 * mask]),
                        "clear.png": clear, "16.png": mask.astype(np.uint16) * 300, "f.tiff": mask.astype(np.float32),
                        "lossy.jpg": 255 * mask}.items():
        cv2.imwrite(str(tmp_path / name), image)
        assert np.array_equal(read_mask(tmp_path / name), mask > 0), name


@pytest.mark.parametrize("suffix, progressive", [(".jpg", 0), (".jpg", 1), (".png", 0), (".bmp", 0), (".tif", 0),
                                                 (".webp", 0)])
def test_damaged_files_are_refused_or_whole(tmp_path, suffix, progressive):
    """A damaged file is refused by name, or lacks nothing of the picture; bytes behind its end do no harm."""
    data = cv2.imencode(suffix, PICTURE, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    (path := tmp_path / "000.jpg").write_bytes(data)
    whole = read_image(str(path), 3)

    def refused(content):
        path.write_bytes(content)
        try:
            image = read_image(str(path), 3)
        except UserError as error:
            assert str(path) in str(error)
            return True
        assert np.array_equal(image, whole), "a damaged picture passes for a frame"
        return False

    cuts = sorted({*range(0, len(data), max(1, len(data) // 12)), *range(len(data) - 4, len(data))})
    assert all([refused(data[:cut]) for cut in cuts][:12])
    assert not any(refused(data + tail) for tail in (b"\r\n", bytes(4096)))
    if not data.startswith((b"BM", b"RIFF")):                         # after a full disk the end may be zeros
        assert [refused(data[:-lost] + bytes(lost)) for lost in (2, 100, len(data) // 2)][-1]
    assert all(map(refused, (b"", b"<html>404</html>", bytes(1000), b"P5\n60000 60000\n255\n" + bytes(99))))


@pytest.fixture
def videos(tmp_path):
    """Three colour videos of 7, 70 and 5 frames."""
    write_videos(tmp_path / "frames", (7, 70, 5), channels=3)
    return index_videos(tmp_path / "frames")


def frame_of(packed, video, t):
    out = np.empty((1, *packed.shape), np.uint8)
    packed.read(video, t, out)
    return out


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 24)])
def test_packed_frames_are_those_that_are_decoded(videos, tmp_path, channels, size):
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


def test_packed_once_and_again_only_when_something_changed(videos, tmp_path):
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
def test_packing_that_fails_leaves_nothing_behind(videos, tmp_path, damage, match):
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
