"""One video: its frames decoded and written, with masks and labels. It appears under its name when it is complete."""

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from lgn_net.data.clips import is_truncated
from lgn_net.data.footage import open_footage, slack
from lgn_net.datasets.common import SourceVideo, load_array
from lgn_net.errors import UserError
from lgn_net.files import replacing, replacing_folder

# Lossless, or half the bytes at 52 dB (measured on Avenue), with colours at full resolution, unlike OpenCV's default.
ENCODING = {"png": (".png", []),
            "jpg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100,
                             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])}
MASK_BYTES = 3000              # of a mask as PNG, about
ONE_MAT = threading.Lock()     # a MATLAB file of masks takes some 300 MB of memory while it is read


def probe(video: SourceVideo, image_format: str) -> tuple[int, int]:
    """Return the number of frames that the header tells (0: unknown), and about how many bytes they will take.

    UserError when there is no frame.
    """
    if isinstance(video.frames, tuple):
        frames, data = len(video.frames), next(encoded_frames(video, image_format))[1]
    else:
        with open_footage(video.frames) as file:
            frames, data = file.length or 0, encode(next(file.frames).picture, image_format)
    return frames, frames * (len(data) + MASK_BYTES * bool(video.masks))


def write_video(video: SourceVideo, expected: int, root: Path, image_format: str, tick: Callable[[], object]) -> int:
    """Write frames, masks and labels of a video below `root`, complete or not at all; return the number of frames.

    `expected` is the number of frames by the header, `tick` is called after every one. UserError for a damaged frame,
    or a video that stops early or has another number of masks or labels.
    """
    count, digits, path = 0, max(3, len(str(expected - 1))), root
    with replacing_folder(root / video.split / "frames" / video.name) as part:
        for suffix, data in encoded_frames(video, image_format):
            path = part / f"{count:0{digits}d}{suffix}"
            path.write_bytes(data)
            count += 1
            tick()
        if count < expected:
            warnings.warn(f"{video.key}: decoded {count} frames where its header says {expected}")

        # Labels, or else which masks have a pixel set.
        truth = {} if video.labels is None else {"labels": video.labels}
        if video.masks:
            size = read_image(path.read_bytes(), path).shape[:2]
            truth["masks"] = write_masks(video.masks, root / video.split / "masks" / video.name, digits, size)
        for what, array in truth.items():
            if len(array) != count:
                raise UserError(f"{len(array)} {what}, {count} frames; the {what} are of another video")
        if len(truth) == 2 and (different := int((truth["labels"] != truth["masks"]).sum())):
            warnings.warn(f"{video.key}: labels and masks differ on {different} of {count} frames")
        for array in list(truth.values())[:1]:
            save_array(root / video.split / "labels" / f"{video.name}.npy", array)
    return count


def encoded_frames(video: SourceVideo, image_format: str) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of every frame's file. UserError for a damaged frame or a video that stops early."""
    suffix = ENCODING[image_format][0]
    if isinstance(video.frames, Path):
        count = 0
        with open_footage(video.frames) as footage:
            for frame in footage.frames:
                yield suffix, encode(frame.picture, image_format)
                count += 1
        expected = footage.length or 0
        if count < expected - slack(expected) and not footage.whole:
            raise UserError(f"{video.frames} stops early, decoded {count} of {expected} frames; get it again")
        return
    file = suffix, b""
    for t, path in enumerate(video.frames):
        try:
            image = read_image(data := path.read_bytes(), path)
            # Nothing is gained from a JPEG in another format.
            copied = path.suffix.lower() in (".jpg", ".jpeg", suffix)
            file = (path.suffix.lower(), data) if copied else (suffix, encode(image, image_format))
        except UserError:
            if t != video.damaged:
                raise
            warnings.warn(f"{path} is damaged in the published archive; the frame before it is repeated")
        yield file


def encode(image: np.ndarray, image_format: str) -> bytes:
    """Encode an image (H, W) or (H, W, C) as the content of a file."""
    suffix, options = ENCODING[image_format]
    return cv2.imencode(suffix, image, options)[1].tobytes()


def read_image(data: bytes, path: Path) -> np.ndarray:
    """Decode an image as it is: uint8 (H, W, C), C of the file. Raise UserError when it is damaged."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None or is_truncated(data):
        raise UserError(f"{path} is damaged or truncated ({len(data)} bytes); unpack the archive again")
    return image.reshape(*image.shape[:2], -1)


def read_masks(masks: Path | tuple[Path, ...]) -> Iterator[np.ndarray]:
    """Yield the masks (H, W) of one video, bool, frame after frame."""
    if isinstance(masks, tuple):
        yield from (read_image(path.read_bytes(), path)[..., 0] > 0 for path in masks)
    elif masks.suffix == ".npy":
        yield from (mask > 0 for mask in load_array(masks))
    else:
        with ONE_MAT:
            try:
                yield from (cell > 0 for cell in scipy.io.loadmat(masks, variable_names=["volLabel"])["volLabel"].flat)
            except Exception as error:                     # SciPy raises many kinds for a damaged file
                raise UserError(f"{masks} is damaged ({error}); unpack the archive again") from None


def write_masks(masks: Path | tuple[Path, ...], folder: Path, digits: int, size: tuple[int, ...]) -> np.ndarray:
    """Write masks of the `size` (H, W) as black and white PNG; return which have a pixel set, uint8 (T,)."""
    abnormal = []
    with replacing_folder(folder) as part:
        for t, mask in enumerate(read_masks(masks)):
            if mask.shape != size:
                raise UserError(f"the mask of frame {t} is {mask.shape[1]} x {mask.shape[0]}, the frames are "
                                f"{size[1]} x {size[0]}; the masks are of another video")
            (part / f"{t:0{digits}d}.png").write_bytes(encode(np.uint8(255) * mask, "png"))
            abnormal.append(mask.any())
    return np.array(abnormal, np.uint8)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file completely or not at all."""
    with replacing(path) as file:
        np.save(file, array)
