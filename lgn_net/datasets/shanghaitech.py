"""ShanghaiTech Campus: one archive, which the project page hands out by hand.

Layout: `training/videos/SS_NNN.avi`, `testing/frames/SS_NNNN/NNN.jpg`, `testing/test_{frame,pixel}_mask/SS_NNNN.npy`.
Luo, Liu and Gao, A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN Framework, ICCV 2017.
"""

from collections.abc import Iterator
from pathlib import Path

from lgn_net.datasets.common import Benchmark, SourceVideo, entries, find_folders, load_array


def find_videos(roots: list[Path]) -> Iterator[SourceVideo]:
    """Yield the training videos, which are video files, and the testing videos, which are folders of frames."""
    for folder in find_folders(roots, "training"):
        for path in entries(folder / "videos"):
            if path.suffix.lower() == ".avi":
                yield SourceVideo("training", path.stem, path)
    for home in find_folders(roots, "testing"):
        for folder in entries(home / "frames"):
            if frames := tuple(path for path in entries(folder) if path.suffix.lower() == ".jpg"):
                flags, pixels = (home / f"test_{kind}_mask" / f"{folder.name}.npy" for kind in ("frame", "pixel"))
                labels = (load_array(flags).ravel() != 0).astype("uint8") if flags.exists() else None
                yield SourceVideo("testing", folder.name, frames, labels,
                                  pixels if pixels.exists() else None)


BENCHMARKS = {
    "shanghaitech": Benchmark(
        "https://svip-lab.github.io/dataset/campus_dataset.html",
        train=(330, 274515), test=(107, 40791), aliases=("shanghai",),
        layout="training/videos/01_001.avi, testing/frames/01_0014/000.jpg and so on",
        files=("*.avi", "*.npy", "*testing/*.jpg"), find=find_videos),
}
