"""The library: `from lgn_net import AnomalyDetector`, on files, arrays, and sources that are cut, slow and silent."""

import cv2
import numpy as np
import pytest
from helpers import shell
from test_footage import write
from test_predict_video import exported, frames_of, write_videos

from lgn_net import AnomalyDetector
from lgn_net.data.footage import Frame
from lgn_net.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [9, 12])
    write_videos(folder / "made/testing/frames", [20])
    exported(folder, folder, {})
    return folder


@pytest.fixture
def detector(data):
    return AnomalyDetector.load(data / "small.pt", "cpu", threshold=-1.0, min_frames=1, gap=0)


@pytest.fixture
def pictures(data):
    return frames_of(data / "made/testing/frames/00")


def test_package_is_cheap_until_the_detector_is_asked_for():
    done = shell("-c", "import sys, lgn_net as lgn; print(lgn.__version__, 'torch' in sys.modules, 'numpy' in sys.modules);"
                       "print(lgn.AnomalyDetector.__name__, 'torch' in sys.modules); lgn.other")
    assert done.out.split()[1:] == ["False", "False", "AnomalyDetector", "True"]
    assert "AttributeError: module 'lgn_net' has no attribute 'other'" in done.err


def test_watching_a_file_is_scoring_its_pictures(detector, pictures, data, tmp_path):
    video = write(tmp_path / "00.avi", pictures, "ffv1", "bgr0")
    watched, scores = list(detector.watch(video)), detector.score(pictures)
    assert [frame.number for frame in watched] == list(range(20)) and np.isnan(scores.normality[:4]).all()
    assert [frame.seconds for frame in watched] == pytest.approx([t / 10 for t in range(20)])
    np.testing.assert_allclose([frame.normality for frame in watched], scores.normality)
    np.testing.assert_allclose([frame.signals["psnr"] for frame in watched[4:]], scores.signals["psnr"][4:])
    assert [frame.alarm for frame in watched] == scores.alarm.tolist() == (scores.normality < -1).tolist()
    grey = detector.score(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures)
    np.testing.assert_allclose(grey.normality, scores.normality)
    assert detector.score([]).normality.shape == (0,) and detector.score(pictures[:3]).signals == {}
    normal = AnomalyDetector.load(data / "last.pt", "cpu")
    with pytest.raises(UserError, match="does not say how it scores normal frames"):
        normal.watch(video)
    assert np.nanmean(normal.calibrate(video).score(pictures).normality) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("update_memory", [False, True])
def test_each_part_between_gaps_starts_anew(detector, pictures, tmp_path, update_memory):
    """A hole in the time stamps, and None of a source; the memory, if it is updated, goes on."""
    times = [t + 60 * (t >= 9) for t in range(20)]
    path = write(tmp_path / "hole.mkv", pictures, "ffv1", "bgr0", times=times)
    watched = list(detector.watch(path, update_memory=update_memory))
    assert [t for t, frame in enumerate(watched) if not frame.signals] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert [frame.number for frame in watched] == list(range(20)) and watched[9].seconds == pytest.approx(6.9)
    if not update_memory:
        alone = [detector.score(pictures[:9]).normality, detector.score(pictures[9:]).normality]
        np.testing.assert_allclose([frame.normality for frame in watched], np.concatenate(alone))
        assert detector.score(pictures).normality == pytest.approx(detector.score(pictures).normality, nan_ok=True)
    frames = [None, *((t, detector.to_frame(p)) for t, p in enumerate(pictures[:6])), None, None, (6, Frame(
        pictures[6], pictures[6][..., :1], 0.6))]
    assert [bool(frame.signals) for frame in detector.judge(iter(frames))] == [False] * 4 + [True] * 2 + [False]
