"""One video: its frames decoded and written, with masks and labels. It appears under its name when it is complete."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgn_net.data.clips import is_truncated
from lgn_net.data.footage import open_footage, slack
from lgn_net.errors import UserError
from lgn_net.files import replacing, replacing_folder
from lgn_net.preparation.sources import SourceVideo, read_image, read_masks

# Lossless, or half the bytes at 52 dB (measured on Avenue), with colours at full resolution, unlike OpenCV's default.
ENCODING = {"png": (".png", []),
            "jpg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100,
                             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])}
MASK_BYTES = 3000              # of a mask as PNG, about
ONE_MAT = threading.Lock()     # a MATLAB file of masks takes some 300 MB of memory while it is read


class Header(NamedTuple):
    """What is known of a video before all of it is decoded: its length (0: unknown), and the bytes it will take."""

    frames: int
    bytes: float
    size: tuple[int, int]      # (H, W) of the first frame


def probe(video: SourceVideo, image_format: str) -> Header:
    """Read the header, encode the first frame. UserError when there is none, or when the masks are of another video."""
    if isinstance(video.frames, tuple):
        frames, data = len(video.frames), next(encoded_frames(video, image_format))[1]
        copied = [path.stat().st_size for path in video.frames if is_copied(path, image_format)]
        size, shape = sum(copied) + (frames - len(copied)) * len(data), read_image(data, video.frames[0]).shape
    else:
        try:
            with open_footage(video.frames) as file:
                frames, first = file.length or 0, next(file.frames).picture
        except UserError as error:
            raise UserError(f"{video.split} {video.name}: {error}") from None
        size, shape = frames * len(encode(first, image_format)), first.shape
    if video.length and abs(frames - video.length) > slack(frames):
        raise UserError(f"{video.split} {video.name}: {frames} frames in {video.frames}, {video.length} masks in "
                        f"{video.masks}; the masks are of another video, or the video is another one")
    return Header(frames, size + MASK_BYTES * frames * bool(video.masks), shape[:2])


def write_video(video: SourceVideo, header: Header, root: Path, image_format: str, tick: Callable[[], None]) \
        -> tuple[int, str | None]:
    """Write frames, masks and labels of a video below `root`; complete or not at all.

    Args:
        video: what to write.
        header: what `probe` returned for it.
        root: the data set's folder.
        image_format: "png" or "jpg".
        tick: called after every frame.

    Returns:
        the number of frames, and a remark where something is odd.

    Raises:
        UserError: a damaged frame, or a video that stops early or has another number of masks.
    """
    folder = root / video.split / "frames" / video.name
    expected = video.length or header.frames
    digits = max(3, len(str(expected - 1)))
    with replacing_folder(folder) as part:
        count = 0
        for suffix, data in encoded_frames(video, image_format):
            (part / f"{count:0{digits}d}{suffix}").write_bytes(data)
            count += 1
            tick()
        if video.length and count != video.length:
            raise UserError(f"{video.frames}: decoded {count} frames, {video.length} masks; the video is damaged, or "
                            f"the masks are of another one")
        remark = f"decoded {count} frames where its header says {expected}" if count < expected else None
        labels = video.labels
        if video.masks:
            abnormal = write_masks(video, count, digits, root, header.size)
            labels = abnormal if labels is None else labels
            if different := int((labels != abnormal).sum()):
                remark = f"labels and masks differ on {different} of {count} frames"
                if video.masks_agree:
                    raise UserError(f"{remark}, and on none in the published set; unpack the archive again")
        if labels is not None:
            save_array(root / video.split / "labels" / f"{video.name}.npy", labels)
    return count, remark


def write_masks(video: SourceVideo, count: int, digits: int, root: Path, size: tuple[int, int]) -> np.ndarray:
    """Write the masks, (H, W) as the frames, as black and white PNG; return which have a pixel set, uint8 (T,)."""
    assert video.masks
    abnormal = []
    is_mat = isinstance(video.masks, Path) and video.masks.suffix == ".mat"
    one_at_a_time = ONE_MAT if is_mat else contextlib.nullcontext()
    with replacing_folder(root / video.split / "masks" / video.name) as part, one_at_a_time:
        for t, mask in enumerate(read_masks(video.masks)):
            if mask.shape != size:
                raise UserError(f"the mask of frame {t} is {mask.shape[1]} x {mask.shape[0]}, the frames are "
                                f"{size[1]} x {size[0]}; the masks are of another video")
            (part / f"{t:0{digits}d}.png").write_bytes(encode(np.uint8(255) * mask, "png"))
            abnormal.append(mask.any())
        if len(abnormal) != count:
            raise UserError(f"{len(abnormal)} masks, {count} frames; the masks are of another video")
    return np.array(abnormal, np.uint8)


def encoded_frames(video: SourceVideo, image_format: str) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of every frame's file. UserError for a damaged frame or a video that stops early."""
    if isinstance(video.frames, Path):
        count = 0
        with open_footage(video.frames) as file:
            for frame in file.frames:
                yield ENCODING[image_format][0], encode(frame.picture, image_format)
                count += 1
        expected = file.length or 0
        if count < expected - slack(expected) and not file.whole:
            raise UserError(f"{video.frames} stops early, decoded {count} of {expected} frames; get it again")
        return
    for path in video.frames:
        data = path.read_bytes()
        if not is_copied(path, image_format):
            yield ENCODING[image_format][0], encode(read_image(data, path), image_format)
        elif not data or is_truncated(data):
            raise UserError(f"{path} is damaged or truncated ({len(data)} bytes); unpack the archive again")
        else:
            yield path.suffix.lower(), data


def is_copied(path: Path, image_format: str) -> bool:
    """Tell whether an image stays as it is, byte for byte: nothing is gained from a JPEG in another format."""
    return path.suffix.lower() in (".jpg", ".jpeg", ENCODING[image_format][0])


def encode(image: np.ndarray, image_format: str) -> bytes:
    """Encode an image (H, W) or (H, W, C) as the content of a file."""
    suffix, options = ENCODING[image_format]
    return cv2.imencode(suffix, image, options)[1].tobytes()


def count_files(folder: Path) -> int:
    """Count the files in a folder, without hidden ones, which some systems put everywhere."""
    return sum(not name.startswith(".") for name in os.listdir(folder))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file completely or not at all."""
    with replacing(path) as file:
        np.save(file, array)
