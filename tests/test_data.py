"""From folders to clips: which frames, in which order, with which pixels, and what is refused."""

import struct
from itertools import chain

import cv2
import numpy as np
import pytest
import torch
from helpers import shell

from lgn_net.data.clips import read_frame, read_frames, read_mask, to_8_bits, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.datasets import difference_from_published
from lgn_net.errors import UserError

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (37, 22))        # smooth, H = 22, W = 37


def encode(suffix, image=PICTURE, *parameters):
    return cv2.imencode(suffix, image, parameters)[1].tobytes()


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def frame_names(video):
    return [path.rpartition("/")[2] for path in video.frames]


def numbered_videos(root, lengths):
    """Frames all of whose pixels hold their own address: blue the video, red the frame."""
    for v, length in enumerate(lengths):
        for t in range(length):
            cv2.imwrite(str(touch(root / f"v{v}") / f"{t}.png"), np.full((8, 8, 3), (v, 0, t), np.uint8))
    return index_videos(root)


def addresses(clip):
    """The (video, frame) that each frame of a clip (T, 3, 8, 8) holds."""
    assert torch.equal(clip, clip[:, :, :1, :1].expand_as(clip))
    return [(v, t) for v, _, t in clip[:, :, 0, 0].tolist()]


# ------------------------------------------------------------------------------------------ folders, names, order

@pytest.mark.parametrize(("folder", "dataset"), [
    ("ped2/{}ing", "ped2"), ("ped2/{}", "ped2"), ("{}ing", "ped2"), ("{}", "ped2"), ("shanghai/{}ing", "shanghaitech"),
    ("shanghaitech/{}ing", "shanghai"), ("UCSDped2/{}", "ped2"), ("mine/{}ing", "mine")])
def test_folder_layouts(tmp_path, folder, dataset):
    for split in ("train", "test"):
        expected = touch(tmp_path / folder.format(split) / "frames" / "01", "0.jpg").parent
        assert find_split(tmp_path, dataset, f"{split}ing") == expected
        assert [video.name for video in index_videos(expected)] == ["01"]
    if folder == "{}ing":
        named = touch(tmp_path / "ped2/train/frames")                             # goes before the folder itself
        assert find_split(tmp_path, "ped2", "training") == named


@pytest.mark.parametrize(("frame", "found"), [
    ("Mine/Testing/Frames/01/0.jpg", "Mine/Testing/Frames"), ("mine/testing/01/0.JPG", "mine/testing"),
    ("MINE/Test/01/0.png", "MINE/Test"), ("testing/01/0.jpg", "testing")])
def test_near_misses_are_read(tmp_path, frame, found):
    touch((tmp_path / frame).parent, (tmp_path / frame).name)
    touch(tmp_path / found / "test_frame_mask", "01.npy")
    folder = find_split(tmp_path, "mine", "testing")
    assert folder == tmp_path / found and [video.name for video in index_videos(folder)] == ["01"]


@pytest.mark.parametrize(("dataset", "file", "below", "command"), [
    ("ped2", "UCSDped2/Train/Train001/001.tif", "", "ped2 --source {} --out prepared,"),
    ("ped2", "UCSD_Anomaly_Dataset.v1p2/UCSDped2/Train/Train001/001.tif", "",
     "ped2 --source {} --out"),
    ("ped2", "ped2/Train/Train001/001.tif", "ped2", "ped2 --source {}/ped2 --out"),
    ("avenue", "Avenue Dataset/training_videos/01.avi", "", "avenue --source {} --out"),
    ("shanghai", "shanghaitech/training/videos/01_001.avi", "", "shanghaitech --source {} --out"),
    ("mine", "mine/training/monday.MP4", "", "custom --name mine --source {} --out prepared,")])
def test_near_misses_that_a_command_mends(tmp_path, dataset, file, below, command):
    touch((tmp_path / file).parent, (tmp_path / file).name)
    touch(tmp_path / "UCSDped2/Test/Test001_gt", "001.bmp")
    with pytest.raises(UserError) as caught:
        find_split(tmp_path / below, dataset, "training")
    assert f"prepare_data.py {command.format(tmp_path)}" in str(caught.value)


@pytest.mark.parametrize(("name", "image", "said"), [
    ("12.png", np.arange(3072, dtype=np.uint16).reshape(48, 64), "0 to 3071, which leave 12 of 255"),
    ("31.tif", np.full((8, 8), 700, np.uint16), "700 to 700, which leave 1 of 255"),
    ("16.png", np.arange(65536, dtype=np.uint16).reshape(256, 256), None),
    ("8.png", np.zeros((8, 8), np.uint8), None)])
def test_lost_depth_is_said(tmp_path, name, image, said):
    cv2.imwrite(str(tmp_path / name), image)
    video = Video("01", 5 * (str(tmp_path / name),))
    if said:
        with pytest.warns(UserWarning, match=f"{said} .*--depth_range LOW HIGH"):
            Windows([video], 5, 1, 8)
    else:
        Windows([video], 5, 1, 8)
    assert np.array_equal(to_8_bits(image, 0, 4095), np.round(image.clip(0, 4095) / 4095 * 255))


def test_masks_are_whatever_is_not_black(tmp_path):
    """0 and 1, 0 and 255, red, transparent, of 16 bits, of floats; what JPEG leaves around an edge is none."""
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:12] = 1
    red, clear = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 4), 255, np.uint8)
    red[..., 2], clear[..., :3] = 128 * mask, 255 * mask[..., None]
    for name, image in {"01.png": mask, "255.bmp": 255 * mask, "red.png": red, "clear.png": clear,
                        "16.png": mask.astype(np.uint16) * 300, "f.tiff": mask.astype(np.float32),
                        "lossy.jpg": 255 * mask}.items():
        cv2.imwrite(str(tmp_path / name), image)
        assert np.array_equal(read_mask(tmp_path / name), mask > 0), name


@pytest.mark.parametrize("names", [
    ["1", "2", "10"], ["frame_0009", "frame_10", "frame_0011"], ["a1b9", "a1b10", "a2b1"], ["4", "5²", "10"],
    ["998", "999", "1000", "1001"]], ids=lambda names: names[-1])
def test_natural_order(tmp_path, names):
    for name in reversed(names):
        touch(tmp_path / name, *(f"{name}.jpg" for name in reversed(names)))
    videos = index_videos(tmp_path)
    assert [video.name for video in videos] == names and frame_names(videos[0]) == [f"{name}.jpg" for name in names]


def test_what_is_no_frame_is_passed_over(tmp_path):
    touch(tmp_path / "01", "2.JPG", "10.Jpeg", "1.jpg", "Thumbs.db", ".3.jpg", "._1.jpg", ".DS_Store", "notes.txt", "4")
    touch(tmp_path / ".hidden", "1.jpg")
    touch(tmp_path, "stray.jpg")
    video, = index_videos(tmp_path)
    assert video.name == "01" and frame_names(video) == ["1.jpg", "2.JPG", "10.Jpeg"]
    touch(tmp_path / "02", "Thumbs.db")
    with pytest.raises(UserError, match="02 holds no image"):
        index_videos(tmp_path)
    with pytest.raises(UserError, match="01 holds no videos"):
        index_videos(tmp_path / "01")
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="nowhere|testing frames of ped2.*ped2/testing/frames"):
            find_split(root, "ped2", "testing")


def test_what_is_told_of_incomplete_benchmarks():
    assert difference_from_published("ped2", "testing", [180] * 9 + [150, 120, 120]) is None
    assert difference_from_published("mine", "testing", [3]) is None
    sentence = difference_from_published("shanghai", "training", [100, 20])
    assert all(number in sentence for number in ("2 videos", "120 frames", "330 videos", "274515 frames"))


# ------------------------------------------------------------------------------------------------------- windows

def test_windows_hold_consecutive_frames_of_one_video(tmp_path):
    windows = Windows(numbered_videos(tmp_path, [7, 5, 6]), 5, 3, 8)
    expected = [(v, start) for v, length in enumerate([7, 5, 6]) for start in range(length - 4)]
    assert len(windows) == len(expected) == 3 + 1 + 2
    for i, (v, start) in enumerate(expected):
        assert windows[i].dtype == torch.uint8 and windows[i].shape == (5, 3, 8, 8)
        assert addresses(windows[i]) == [(v, start + t) for t in range(5)]


def test_short_videos_are_skipped_by_name(tmp_path):
    videos = numbered_videos(tmp_path, [4, 5, 1, 6])
    with pytest.warns(UserWarning) as warned:
        windows = Windows(videos, 5, 3, 8)
    assert [str(w.message)[:8] for w in warned] == ["video v0", "video v2"]
    assert [addresses(clip)[0] for clip in windows] == [(1, 0), (3, 0), (3, 1)]
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(UserError, match="5 frames"):
        Windows(videos[:1], 5, 3, 8)


def test_epoch_batches():
    batches = epoch_batches(23, 4, True, seed=1, epoch=2)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert sorted(chain(*batches)) == list(range(23))
    torch.manual_seed(5)                                                  # the global random state plays no part
    assert epoch_batches(23, 4, True, seed=1, epoch=2) == batches
    orders = {tuple(chain(*epoch_batches(23, 4, True, seed, epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert list(chain(*epoch_batches(23, 4, False, seed=1, epoch=2))) == list(range(23))


def test_loader_gives_the_batches_asked_for_with_and_without_workers(tmp_path):
    windows = Windows(numbered_videos(tmp_path, [7, 9]), 5, 3, 8)
    batches = epoch_batches(len(windows), 3, True, seed=0, epoch=0)
    alone, helped = (list(loader(windows, batches, workers, CPU)) for workers in (0, 2))
    assert [len(clips) for clips in alone] == [3, 3, 2]
    for batch, a, b in zip(batches, alone, helped, strict=True):
        assert torch.equal(a, b) and torch.equal(a, torch.stack([windows[i] for i in batch]))


@pytest.mark.slow
def test_error_in_a_worker_ends_the_process(tmp_path):
    """Workers that ignore SIGTERM must not keep a failing process from ending."""
    numbered_videos(tmp_path / "videos", [6])
    (tmp_path / "videos" / "v0" / "5.png").write_bytes(b"no picture")
    code = f"""if True:
        import faulthandler
        from lgn_net.data.windows import Windows, loader, torch
        from lgn_net.data.videos import index_videos
        windows = Windows(index_videos({str(tmp_path / "videos")!r}), 5, 3, 8)
        faulthandler.dump_traceback_later(15, exit=True)          # prints "Timeout"
        list(loader(windows, [[0], [1]], 2, torch.device("cpu")))"""
    done = shell("-c", code)
    assert "5.png" in done.err and "Timeout" not in done.err and done.status == 1


# -------------------------------------------------------------------------------------------------------- pixels

@pytest.mark.parametrize("suffix", [".png", ".JPEG", ".bmp", ".tif", ".webp"])
def test_pixels_are_those_of_opencv(tmp_path, suffix):
    """Blue, green, red of any format, or grey, resized as OpenCV does."""
    path = touch(tmp_path / "v") / f"1{suffix}"
    path.write_bytes(encode(suffix.lower()))
    video, = index_videos(tmp_path)
    assert np.abs(read_frame(video.frames[0], 3).astype(int) - PICTURE).mean() < 6                  # the right picture
    for channels, flag in (3, cv2.IMREAD_COLOR), (1, cv2.IMREAD_GRAYSCALE):
        image = cv2.imread(str(path), flag)
        assert np.array_equal(read_frame(video.frames[0], channels), image.reshape(22, 37, channels))
        expected = cv2.resize(image, (16, 16)).reshape(16, 16, channels).transpose(2, 0, 1)
        frames = to_float(read_frames(video.frames, channels, 16))
        assert frames.shape == (1, channels, 16, 16) and frames.dtype == torch.float32
        np.testing.assert_allclose(frames[0].numpy(), expected / 127.5 - 1, rtol=0, atol=1e-6)


def test_one_size_per_video(tmp_path):
    folder = touch(tmp_path / "v")
    for t in range(6):
        cv2.imwrite(str(folder / f"{t}.png"), np.zeros((10, 12 if t < 4 else 14, 3), np.uint8))
    video, = index_videos(tmp_path)
    assert len(read_frames(video.frames[:4], 3, 8)) == 4
    with pytest.raises(UserError, match=r"4\.png is 14 x 10 .* 12 x 10"):
        read_frames(video.frames, 3, 8)


# -------------------------------------------------------------------------------------------------- damaged frames

def jpeg_with_thumbnail():
    """A JPEG as cameras write them: the thumbnail inside has an end-of-image marker of its own."""
    data, small = encode(".jpg"), encode(".jpg", PICTURE[::4, ::4].copy())
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + small
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


PICTURES = {
    "jpg": encode(".jpg"), "progressive jpg": encode(".jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "grey jpg": encode(".jpg", PICTURE[..., 0]), "jpg with thumbnail": jpeg_with_thumbnail(),
    "jpg with padding": encode(".jpg").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),      # ITU T.81, B.1.1.2
    "png": encode(".png"), "bmp": encode(".bmp"), "tif": encode(".tif"),
    "webp": encode(".webp"), "lossy webp": encode(".webp", PICTURE, cv2.IMWRITE_WEBP_QUALITY, 60),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_files_are_refused_or_whole(tmp_path, kind):
    """A damaged file is refused by name, or lacks nothing of the picture; bytes behind its end do no harm."""
    data, path = PICTURES[kind], tmp_path / "000.jpg"
    path.write_bytes(data)
    whole = read_frame(str(path), 3)

    def refused(content):
        path.write_bytes(content)
        try:
            image = read_frame(str(path), 3)
        except UserError as error:
            assert str(path) in str(error)
            return True
        assert np.array_equal(image, whole), "a damaged picture passes for a frame"
        return False

    cuts = sorted({*range(0, len(data), max(1, len(data) // 12)), *range(len(data) - 4, len(data))})
    assert all([refused(data[:cut]) for cut in cuts][:12])
    assert not any(refused(data + tail) for tail in (b"\r\n", bytes(range(64)), bytes(4096)))
    if kind in ("jpg", "progressive jpg", "png", "tif"):          # after a full disk the end of a file may be zeros
        assert [refused(data[:-lost] + bytes(lost)) for lost in (2, 100, len(data) // 2)][-1]
    for other in (b"", b"<html>404</html>", bytes(1000), b"P5\n60000 60000\n255\n" + bytes(99)):
        assert refused(other)
