"""What publishers hand out, unpacked, as videos: one function per data set knows its layout."""

import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io

from lgn_net.data.clips import is_truncated
from lgn_net.data.labels import from_ranges, ucsd_ranges
from lgn_net.data.videos import SPLIT_FOLDERS, Video, natural_key
from lgn_net.errors import UserError
from lgn_net.preparation.archives import check_name

VIDEO_SUFFIXES = frozenset([".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp", ".ogv"])
DEPTH = 4                      # folders below a source in which its data may begin
MAT_ERRORS = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, OSError, StopIteration, zlib.error,
              scipy.io.matlab.MatReadError)


class SourceVideo(NamedTuple):
    """A video as it was published."""

    split: str                                       # "training" or "testing"
    name: str
    frames: Path | tuple[Path, ...]                  # a video file, or image files in order
    length: int | None = None                        # frames it must have; None: as many as its header says
    labels: np.ndarray | None = None                 # uint8 (T,)
    masks: Path | tuple[Path, ...] | None = None     # .mat (cells of (H, W)), .npy (T, H, W), or image files
    masks_agree: bool = True                         # labels and masks are known to agree in every frame

    def files(self) -> tuple[Path, ...]:
        """The files of its frames."""
        return (self.frames,) if isinstance(self.frames, Path) else self.frames


def wanted(dataset: str, path: PurePath) -> bool:
    """Whether a file of an archive is needed for a data set."""
    folders, suffix = {part.lower() for part in path.parts[:-1]}, path.suffix.lower()
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    if dataset in ("ped1", "ped2"):
        return suffix in (".tif", ".bmp", ".m") and ("ucsdped2" if dataset == "ped1" else "ucsdped1") not in folders
    if dataset == "avenue":
        return suffix == ".avi" or (suffix == ".mat" and "testing_label_mask" in folders)
    if dataset == "shanghaitech":
        return suffix in (".avi", ".npy") or (suffix == ".jpg" and "testing" in folders)
    return suffix in VIDEO_SUFFIXES


def read_source(dataset: str, roots: list[Path]) -> list[SourceVideo]:
    """The videos in the given folders, in natural order; files that do not belong to the data set are passed over.

    Raises UserError when there is none, when a name is not UTF-8, and when masks are of another number than frames.
    """
    layouts = {"ped1": ucsd, "ped2": ucsd, "avenue": avenue, "shanghaitech": shanghaitech}
    videos = list(layouts[dataset](roots, dataset) if dataset in layouts else own_videos(roots))
    where = ", ".join(map(str, roots))
    if not videos:
        raise UserError(f"no {dataset} videos in {where}; expected {EXPECTED.get(dataset, EXPECTED['custom'])}")
    seen = {}
    for video in videos:
        check_name(video.files()[0], roots[0])
        check_name(PurePath(video.name), roots[0])
        if (other := seen.setdefault((video.split, video.name), video)) is not video:
            raise UserError(f"two {video.split} videos are called {video.name}: {other.files()[0]} and "
                            f"{video.files()[0]}; rename or remove one")
        if video.length and video.masks and video.length != (count := count_masks(video.masks)):
            raise UserError(f"{video.split} {video.name}: {count} masks, {video.length} frames; the masks are of "
                            f"another video, or some files are missing")
    return videos


EXPECTED = {
    "ped1": "UCSDped1/Train/Train001/001.tif and so on", "ped2": "UCSDped2/Train/Train001/001.tif and so on",
    "avenue": "training_videos/01.avi, testing_videos/01.avi and so on",
    "shanghaitech": "training/videos/01_001.avi, testing/frames/01_0014/000.jpg and so on",
    "custom": "video files in the folders training and testing",
}


def ucsd(roots: list[Path], dataset: str) -> Iterator[SourceVideo]:
    """Ped1 and Ped2: `Train/TrainNNN/NNN.tif`, `Test/TestNNN/NNN.tif`, `Test/TestNNN_gt/NNN.bmp`, `Test/UCSDpedN.m`."""
    homes = (find_folders(roots, f"UCSD{dataset}") or
             [root for root in roots if not root.name.lower().startswith("ucsdped")])
    ranges_file = next((file for home in homes for file in (home / "Test").glob("UCSDped?.m")), None)
    ranges = ucsd_ranges(ranges_file) if ranges_file else []
    for split, title in (("training", "Train"), ("testing", "Test")):
        folders = {folder.name: folder for home in homes for folder in entries(home / title) if folder.is_dir()}
        for folder, number in matching(folders.values(), rf"{title}(\d+)"):
            files = matching(folder.iterdir(), r"(\d+)\.tif")
            if lost := sorted(set(range(1, len(files) + 1)) - {i for _, i in files}):
                raise UserError(f"{folder}: frame {lost[0]:03d}.tif is missing; unpack the archive again")
            name, frames = f"{number:02d}", tuple(path for path, _ in files)
            if not frames:
                warnings.warn(f"{folder} holds no frames; skipped", stacklevel=2)
                continue
            if (dataset, split, number) == ("ped1", "testing", 17):
                frames = without_damaged(frames, 142)
            labels = masks = None
            if split == "testing" and number <= len(ranges):
                video = Video(name, tuple(map(str, frames)))
                labels = from_ranges(ranges_file, [video], [ranges[number - 1]])[0]
            if gt := folders.get(f"{folder.name}_gt"):
                masks = tuple(path for path, _ in matching(gt.iterdir(), r"(?:frame)?(\d+)\.bmp")) or None
            yield SourceVideo(split, name, frames, len(frames), labels, masks, masks_agree=dataset == "ped2")


def without_damaged(frames: tuple[Path, ...], number: int) -> tuple[Path, ...]:
    """Repeat the frame before one that is damaged in the published archive itself, so that the labels still fit."""
    if number > len(frames):
        return frames
    try:
        read_image(frames[number - 1].read_bytes(), frames[number - 1])
        return frames
    except UserError:
        pass
    warnings.warn(f"{frames[number - 1]} is damaged in the published archive; the frame before it is repeated",
                  stacklevel=2)
    return (*frames[:number - 1], frames[number - 2], *frames[number:])


def avenue(roots: list[Path], _dataset: str) -> Iterator[SourceVideo]:
    """`training_videos/NN.avi`, `testing_videos/NN.avi`; `testing_label_mask/N_label.mat` from a second archive."""
    masks = {number: path for folder in find_folders(roots, "testing_label_mask")
             for path, number in matching(folder.iterdir(), r"(\d+)_label\.mat")}
    for split in SPLIT_FOLDERS:
        files = (path for folder in find_folders(roots, f"{split}_videos") for path in folder.iterdir())
        for path, number in matching(files, r"(\d+)\.avi"):
            mask = masks.get(number) if split == "testing" else None
            yield SourceVideo(split, f"{number:02d}", path, count_masks(mask) if mask else None, None, mask)


def shanghaitech(roots: list[Path], _dataset: str) -> Iterator[SourceVideo]:
    """`training/videos/SS_NNN.avi`, `testing/frames/SS_NNNN/NNN.jpg`, `testing/test_{frame,pixel}_mask/SS_NNNN.npy`."""
    for folder in find_folders(roots, "training"):
        for path in entries(folder / "videos"):
            if path.suffix.lower() == ".avi":
                yield SourceVideo("training", path.stem, path)
    for home in find_folders(roots, "testing"):
        for folder in (path for path in entries(home / "frames") if path.is_dir()):
            frames = tuple(path for path in entries(folder) if path.suffix.lower() == ".jpg")
            if not frames:
                warnings.warn(f"{folder} holds no frames; skipped", stacklevel=2)
                continue
            flags, pixels = (home / f"test_{kind}_mask" / f"{folder.name}.npy" for kind in ("frame", "pixel"))
            labels = (load_array(flags).ravel() != 0).astype(np.uint8) if flags.exists() else None
            if labels is not None and len(labels) != len(frames):
                raise UserError(f"{flags}: {len(labels)} labels, {len(frames)} frames in {folder}; unpack the archive "
                                f"again")
            yield SourceVideo("testing", folder.name, frames, len(frames), labels, pixels if pixels.exists() else None,
                              masks_agree=False)


def own_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Video files in `training` and `testing` (or `train` and `test`); the name of the file is that of the video."""
    folders = []
    for root in roots:
        found = find_folders([path for path in entries(root) if path.is_dir()], *sum(SPLIT_FOLDERS.values(), ()))
        folders += [folder for folder in found if len(folder.parts) == len(found[0].parts)]    # the uppermost
    for split, names in SPLIT_FOLDERS.items():
        for path in (path for folder in folders if folder.name.lower() in names for path in entries(folder)):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield SourceVideo(split, path.stem, path)
            else:
                warnings.warn(f"{path} is no video file; passed over", stacklevel=2)


# ------------------------------------------------------------------------------------------------- folders and files

def find_folders(roots: Iterable[Path], *names: str) -> list[Path]:
    """The folders of these names, in upper or lower case, among `roots` and at most DEPTH levels below them."""
    found, level, lower = [], list(roots), [name.lower() for name in names]
    for _ in range(DEPTH + 1):
        found += [folder for folder in level if folder.name.lower() in lower]
        level = [path for folder in level if folder not in found for path in entries(folder) if path.is_dir()]
    return found


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order; nothing hidden, nothing that macOS left; empty for no folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))),
                  key=lambda path: natural_key(path.name))


def matching(paths: Iterable[Path], pattern: str) -> list[tuple[Path, int]]:
    """The paths whose whole name fits, and the number in it, in the order of the numbers."""
    found = ((path, re.fullmatch(pattern, path.name, re.IGNORECASE)) for path in paths)
    return sorted(((path, int(match[1])) for path, match in found if match), key=lambda pair: pair[1])


# ------------------------------------------------------------------------------------------------------------- masks

def load_array(path: Path) -> np.ndarray:
    """A NumPy file of numbers, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is no plain NumPy array, or truncated ({error}); unpack the archive again") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise UserError(f"{path} is no array of numbers; unpack the archive again")
    return array


def load_masks(path: Path) -> np.ndarray:
    """Masks (T, H, W) of a NumPy file."""
    if (array := load_array(path)).ndim != 3:
        raise UserError(f"{path} has the shape {array.shape}, not (frames, height, width); unpack the archive again")
    return array


def count_masks(masks: Path | tuple[Path, ...]) -> int:
    """Number of masks, without reading them."""
    if isinstance(masks, tuple):
        return len(masks)
    if masks.suffix == ".npy":
        return len(load_masks(masks))
    try:
        count = next(int(np.prod(shape)) for name, shape, _ in scipy.io.whosmat(masks) if name == "volLabel")
    except MAT_ERRORS as error:
        raise UserError(f"{masks} is no MATLAB file with a cell array `volLabel` ({error!r}); unpack the archive "
                        f"again") from None
    if not count:
        raise UserError(f"{masks} holds no masks, its `volLabel` is empty; unpack the archive again")
    return count


def read_masks(masks: Path | tuple[Path, ...]) -> Iterator[np.ndarray]:
    """Masks (H, W) of one video, bool, frame after frame."""
    if isinstance(masks, tuple):
        for path in masks:
            yield read_image(path.read_bytes(), path)[..., 0] > 0
    elif masks.suffix == ".npy":
        yield from (mask > 0 for mask in load_masks(masks))
    else:
        try:
            cells = scipy.io.loadmat(masks, variable_names=["volLabel"])["volLabel"].ravel()
        except MAT_ERRORS as error:
            raise UserError(f"{masks} is damaged ({error}); unpack the archive again") from None
        for t, cell in enumerate(cells):
            if not isinstance(cell, np.ndarray) or cell.ndim != 2 or cell.dtype.kind not in "biuf":
                raise UserError(f"{masks}: the mask of frame {t} is no picture; unpack the archive again")
            yield cell > 0


def read_image(data: bytes, path: Path) -> np.ndarray:
    """Decode an image as it is: uint8 (H, W, C), C of the file. UserError when it is damaged."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:                                      # more pixels than OpenCV takes, for example
        image = None
    if image is None or is_truncated(data):
        raise UserError(f"{path} is damaged or truncated ({len(data)} bytes); unpack the archive again")
    return image.reshape(*image.shape[:2], -1)
