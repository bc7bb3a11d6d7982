"""Videos as they come, by PyAV: the pixels of OpenCV, upright, all of them, with their times; and what is written."""

import contextlib
import math
import warnings
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from helpers import load_script

from lgn_net.data.footage import find_footage, open_footage
from lgn_net.datasets.common import SourceVideo
from lgn_net.errors import UserError
from lgn_net.video.output import write_mp4

write_video = load_script("scripts/prepare_data.py").write_video

COARSE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def pictures(count=12, H=48, W=64):
    smooth = cv2.resize(COARSE, (W, H), interpolation=cv2.INTER_CUBIC)
    return [np.roll(smooth, 3 * t, axis=1) for t in range(count)]


def write(path, frames, codec="libx264", form="yuv420p", rotation=0, times=None, **options):
    """A video file of ten frames a second, or with the given times in tenths of a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options=options)
        (stream.height, stream.width), stream.pix_fmt = frames[0].shape[:2], form
        stream.codec_context.time_base = Fraction(1, 10)
        if rotation:
            stream.set_display_rotation(rotation)
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = times[t] if times else t, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut(folder, first, last, start):
    """Packets first to last of a video, as `ffmpeg -c copy` cuts them: what is before `start` is not for showing."""
    source, path = write(folder / "a.mp4", pictures(80), g="25", bf="0"), folder / "b.mp4"
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        packets = [packet for packet in file.demux(video=0) if packet.size][first:last]
        offset = packets[start - first].dts
        for packet in packets:
            packet.dts, packet.pts, packet.stream = packet.dts - offset, packet.pts - offset, stream
            out.mux(packet)
    return path


def read(path, *args):
    with open_footage(path, *args) as footage:
        return list(footage.frames), footage


def by_opencv(path):
    file = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while (frame := file.read()[1]) is not None:
        yield frame


@pytest.mark.parametrize(("suffix", "codec", "form", "H", "W", "rotation"), [
    ("mp4", "libx264", "yuv420p", 48, 64, 0), ("mp4", "libx264", "yuv420p", 50, 66, 90),
    ("mp4", "libx264", "yuv420p10le", 48, 64, 270), ("ts", "libx264", "yuv420p", 48, 64, 0),
    ("avi", "mjpeg", "yuvj420p", 49, 65, 0), ("mkv", "ffv1", "gray", 48, 64, 0)])
def test_pixels_are_those_of_opencv(tmp_path, suffix, codec, form, H, W, rotation):
    path = write(tmp_path / f"a.{suffix}", pictures(H=H, W=W), codec, form, rotation)
    frames, footage = read(path, 1)
    assert all(np.array_equal(frame.picture, other) for frame, other in zip(frames, by_opencv(path), strict=True))
    assert (footage.fps, footage.live, footage.whole) == (10, False, True) and footage.length in range(12, 15)
    upright = np.rot90(pictures(1, H, W)[0], rotation // 90)
    assert frames[0].picture.shape == upright.shape and (form == "gray" or cv2.PSNR(frames[0].picture, upright) > 25)
    assert [frame.seconds for frame in frames] == pytest.approx([t / 10 for t in range(12)])
    assert np.array_equal(frames[5].image[..., 0], cv2.cvtColor(frames[5].picture, cv2.COLOR_BGR2GRAY))


@pytest.mark.slow
def test_real_avenue_is_decoded_as_by_opencv(shared_data):
    for path in sorted(shared_data.glob("avenue_partial/testing_videos/*.avi")):
        assert all(np.array_equal(frame.picture, other)
                   for frame, other in zip(read(path)[0], by_opencv(path), strict=True))


def test_times_that_vary_and_files_put_together(tmp_path):
    times = [3, 4, 6, 10, 11]
    path = write(tmp_path / "12:30.mp4", pictures(5), times=times)             # FFmpeg would take 12 for a protocol
    assert [frame.seconds for frame in read(path)[0]] == pytest.approx([(t - 3) / 10 for t in times])
    assert [frame.seconds for frame in read(path, 3, 5.0)[0]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    one = write(tmp_path / "a.ts", pictures())
    one.write_bytes(2 * one.read_bytes())
    assert [frame.seconds for frame in read(one)[0]] == pytest.approx([t / 10 for t in range(24)])


def test_lost_depth_of_a_video_is_said(tmp_path):
    """As of a thermal camera: 12 bits in 16."""
    path = write(tmp_path / "a.mkv", [picture // 16 for picture in pictures()], "ffv1", "gray16le")
    with pytest.warns(UserWarning, match="of 256 grey levels are left.*--depth_range"):
        read(path)


def test_a_change_of_size_is_said(tmp_path):
    parts = [write(tmp_path / f"{H}.h264", pictures(5, H)).read_bytes() for H in (48, 96)]
    (path := tmp_path / "a.h264").write_bytes(b"".join(parts))
    with pytest.warns(UserWarning, match="frame 5 is 64 x 96 pixels, the one before 64 x 48"):
        frames, footage = read(path)
    assert len(frames) == 5 and not footage.whole


def test_folder(tmp_path):
    for t, picture in enumerate(pictures(11)):
        cv2.imwrite(str(tmp_path / f"{t}.png"), picture)
    frames, footage = read(tmp_path, 1, 4.0)
    assert (footage.length, footage.fps, footage.live) == (11, 4, False) and frames[10].seconds == 2.5
    assert all(np.array_equal(frame.picture, picture) for frame, picture in zip(frames, pictures(11), strict=True))
    assert np.array_equal(frames[9].image[..., 0], cv2.imread(str(tmp_path / "9.png"), cv2.IMREAD_GRAYSCALE))
    assert math.isnan(read(tmp_path)[0][3].seconds)


@pytest.mark.parametrize(("text", "match"), [
    ("text.mp4", "no picture that FFmpeg .* cut off before its index"), ("97", "camera 97: no picture"),
    ("http://me:secret@127.0.0.1:9/?key=secret", r"at http://\*\*\*@127.0.0.1:9/\?\*\*\* .*Connection refused"),
    ("/dev/video97", "camera 97: no picture"), ("gone.mp4", "no such video"), ("empty", "holds no images")])
def test_what_is_no_video(tmp_path, text, match):
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=match):
        read(find_footage(str(tmp_path / text) if (tmp_path / text).exists() else text)[0])


def truncated(folder, name="a.avi", codec="mjpeg", form="yuvj420p"):
    path = write(folder / name, list(np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3), np.uint8)), codec, form)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 5])
    return path


def damaged(folder):
    path = write(folder / "a.mp4", pictures(80), g="20")
    data = bytearray(path.read_bytes())
    data[len(data) // 3:len(data) // 3 + 1000] = bytes(1000)
    path.write_bytes(data)
    return path


SPARSE = [0, 1, 2, 3, 30, 31, 60, 100, 200, 201]            # times of ten pictures; an AVI counts the gaps as frames


@pytest.mark.parametrize(("make", "length", "counts", "whole"), [
    (truncated, 50, range(3, 15), False), (damaged, 80, range(10, 70), False),
    (lambda folder: truncated(folder, "a.mkv", "libx264", "yuv420p"), 50, range(3, 30), False),
    (lambda folder: cut(folder, 25, 75, 38), 50, [37], True),                          # between the key frames
    (lambda folder: cut(folder, 12, 62, 12), 50, [37], True),                          # off them
    (lambda folder: write(folder / "a.avi", pictures(10), "mjpeg", "yuvj420p", times=SPARSE), 202, [10], True)])
def test_file_with_fewer_frames_than_its_header_says(tmp_path, make, length, counts, whole):
    """The preparation refuses a damaged file; one that was cut without decoding gives its frames, and a remark."""
    path = make(tmp_path)
    with warnings.catch_warnings(record=True) as remarks:
        frames, footage = read(path)
    expected = list(by_opencv(path))
    assert [str(remark.message) for remark in remarks] == [
        f"{path}: decoded {len(frames)} frames where its header says {length}; these are used"] * whole
    assert footage.length == length and footage.whole == whole and len(frames) == len(expected) in counts
    assert all(np.array_equal(frame.picture, other) for frame, other in zip(frames[:-1], expected))
    with contextlib.nullcontext() if whole else pytest.raises(UserError, match="stops early"), \
            warnings.catch_warnings(action="ignore"):
        write_video(SourceVideo("testing", "01", path), tmp_path / "testing", "png")
    assert len(list(tmp_path.glob("testing/frames/*/*"))) == (len(frames) if whole else 0)


def test_written_video_is_one_that_browsers_play(tmp_path):
    """Of even size, that of its first picture, with the given times."""
    given, times = pictures(3, 49, 65) + pictures(2, 90, 120), [0, 0.04, 0.5, 7.25, 7.3]
    with write_mp4(tmp_path / "a.mp4", 25) as add:
        for picture, time in zip(given, times):
            add(picture, time)
    with av.open(str(tmp_path / "a.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 66, 50)
    frames = read(tmp_path / "a.mp4")[0]
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=1e-3)
    assert all(cv2.PSNR(frame.picture[:49, :65], picture) > 25 for frame, picture in zip(frames, given[:3]))
