"""Where predictions err, against slow counts over all pixels and thresholds; SSIM and LPIPS; the maps to look at."""

import itertools
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label
from skimage.metrics import structural_similarity
from sklearn.metrics import roc_auc_score

from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.inference.around import find_masks
from lgn_net.inference.observers import Localization, Quality, chance_to_touch, resized_mask
from lgn_net.scores import maps
from lgn_net.scores.maps import FrameMap, choose_frames, error_map, smoothed, strong_regions
from lgn_net.scores.score_file import VideoScores


def write_masks(folder, masks):
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{t}.png"), 255 * np.asarray(mask, np.uint8))


def localized(folder, masks, errors):
    """The results of a Localization of one video with these masks and errors, (T, H, W) in [0, 1]."""
    write_masks(folder / "masks/01", masks)
    localization = Localization(find_masks(folder, [Video("01", len(masks) * ("",))]))
    target = -torch.ones(len(errors), 1, *errors.shape[1:])
    predicted = target + 2 * torch.from_numpy(errors).sqrt()[:, None]
    return localization.results([gathered([localization(0, t, predicted[t], target[t]) for t in range(len(errors))])])


def gathered(rows):
    signals = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return VideoScores("01", np.arange(4, 4 + len(rows)), signals, np.zeros(len(rows)))


def test_error_map_and_image_by_hand():
    predicted, target = np.zeros((2, 3, 1, 2), np.float32), np.zeros((2, 3, 1, 2), np.float32)
    predicted[1, :, 0, 1], target[1, :, 0, 1] = [1, 0, -1], [-1, 0, -0.5]
    assert error_map(predicted, target).tolist() == [[[0, 0]], [[0, pytest.approx((1 + 0 + 0.0625) / 3)]]]
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    assert np.array_equal(maps.to_image(to_float(pixels).numpy()), pixels.transpose(1, 2, 0))


def test_region_against_slow_labelling():
    rng = np.random.default_rng(1)
    for _ in range(10):
        error = rng.exponential(size=(24, 30)).astype(np.float32) ** 3
        (region, (x0, y0, x1, y1)), *others = strong_regions(error)
        strength = smoothed(error)
        labels, count = label(strength >= strength.max() / 2, np.ones((3, 3)))
        sums = sorted((-strength[labels == k].sum(), k) for k in range(1, count + 1))
        assert np.array_equal(region, labels == sums[0][1])
        assert len(others) == sum(2 * x <= sums[0][0] for x, _ in sums[1:])
        y, x = np.nonzero(region)
        assert (x0, y0, x1, y1) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    (region, box), = strong_regions(np.zeros((16, 20), np.float32))
    assert region.all() and box == (0, 0, 20, 16)
    error = rng.exponential(size=(128, 64)).astype(np.float32)                              # mirrored at the border
    np.testing.assert_allclose(smoothed(error), gaussian_filter(error, 128 / 32), rtol=2e-3)


def test_areas_against_every_pixel_and_every_threshold(tmp_path):
    """Masks and errors of 12 frames that overlap like those of a real detector; frames 0 to 4 are normal."""
    rng = np.random.default_rng(2)
    masks = np.zeros((12, 16, 20), bool)
    for mask in masks[5:]:
        y, x = rng.integers(0, 10, 2)
        mask[y:y + rng.integers(3, 7), x:x + rng.integers(3, 9)] = True
    errors = (rng.exponential(0.02, masks.shape) * (1 + 9 * masks * rng.uniform(0, 1, (12, 1, 1)))).clip(0, 1)
    results = localized(tmp_path, masks, errors.astype(np.float32))
    seen = (2 * np.sqrt(errors.astype(np.float32)) - 1) + 1               # the frames are on [-1, 1] in float32
    strength = np.stack([smoothed(np.square(x / 2)) for x in seen])
    pixel_auc = roc_auc_score(masks.ravel(), strength.ravel())
    assert 0.6 < pixel_auc < 0.99 and results["pixel_auc"] == pytest.approx(pixel_auc, abs=1e-4)

    rates, abnormal = [(0, 0)], masks.any(axis=(1, 2))
    for threshold in np.sort(np.unique(strength))[::-1]:
        marked = strength >= threshold
        hits = [10 * (m & y).sum() >= 4 * y.sum() for m, y in zip(marked[abnormal], masks[abnormal])]
        rates.append((marked[~abnormal].any(axis=(1, 2)).mean(), np.mean(hits)))
    expected = np.trapezoid(*np.array(rates).T[::-1])
    assert 0.1 < expected < 0.9 and results["pixel_level_auc"] == pytest.approx(expected, abs=1e-9)


def test_regions_that_touch_the_mask(tmp_path):
    masks = np.zeros((4, 64, 64), bool)
    masks[1:, 20:36, 30:46] = True
    errors = np.random.default_rng(0).uniform(0, 0.002, masks.shape).astype(np.float32)
    boxes = [(4, 4, 20, 20), (32, 22, 44, 34), (42, 32, 60, 60), (0, 40, 18, 60)]     # normal, inside, overlaps, off
    for error, (x0, y0, x1, y1) in zip(errors, boxes):
        error[y0:y1, x0:x1] = 0.5
    results = localized(tmp_path, masks, errors)
    assert results["region_on_mask"] == pytest.approx(2 / 3)
    assert 0 < results["region_on_mask_chance"] < 0.6
    assert results["frames_with_mask"] == 4 and results["abnormal_frames"] == 3
    rng = np.random.default_rng(3)
    for H, W, h, w in [(12, 15, 3, 4), (9, 9, 9, 9), (30, 30, 1, 30)]:
        mask, region, shape = rng.uniform(size=(H, W)) < 0.02, np.zeros((H, W), bool), rng.uniform(size=(h, w)) < 0.6
        y, x = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
        region[y:y + h, x:x + w] = shape
        places = [(shape & mask[i:i + h, j:j + w]).any() for i in range(H - h + 1) for j in range(W - w + 1)]
        assert chance_to_touch(region, (x, y, x + w, y + h), mask) == pytest.approx(np.mean(places))


def test_undefined_without_abnormal_frames_or_masks(tmp_path):
    with pytest.warns(UserWarning, match="none of 3 masks has an abnormal pixel"):
        normal = localized(tmp_path, np.zeros((3, 16, 16), bool), np.full((3, 16, 16), 0.1, np.float32))
    half = np.zeros((1, 16, 16), bool)
    half[:, :8] = True                                                                        # ties count half
    assert localized(tmp_path / "half", half, np.full((1, 16, 16), 0.1, np.float32))["pixel_auc"] == 0.5
    without = Localization([()])
    nothing = gathered(3 * [without(0, 4, *torch.zeros(2, 1, 16, 16))])
    for results, counts in (normal, [3, 0, 0, 0]), (without.results([nothing]), [0, 0, 3, 1]):
        assert list(results.values()) == [None] * 4 + counts


def test_masks_are_found_and_lie_on_the_resized_frames(tmp_path):
    mask = np.kron(np.random.default_rng(4).integers(0, 2, (24, 24)), np.ones((5, 3))) > 0         # (120, 72)
    speck = np.zeros((120, 72), bool)
    speck[2, 5] = True                                     # what is between two samples is found all the same
    write_masks(tmp_path / "masks/02", [mask, speck] + 9 * [mask])
    for split in tmp_path, tmp_path / "frames":            # test videos in testing/, or in testing/frames/
        nothing, paths = find_masks(split, [Video("01", ("a",)), Video("02", tuple("abcdefghijk"))])
        assert nothing == () and paths == tuple(str(tmp_path / f"masks/02/{t}.png") for t in range(11))  # natural order
    with pytest.raises(UserError, match="02 holds 11 masks, but video 02 has 12 frames"):
        find_masks(tmp_path, [Video("02", tuple("abcdefghijkl"))])
    assert np.array_equal(255 * resized_mask(paths[0], 24, 24), read_frames(paths[:1], 1, 24)[0, 0])
    assert np.argwhere(resized_mask(paths[1], 24, 24)).tolist() == [[0, 1]]


def frames(*shape):
    """Smooth true frames and noisy predictions, (B, C, H, W) in [-1, 1]."""
    rng = np.random.default_rng(0)
    target = gaussian_filter(rng.normal(size=shape), (0, 0, 2, 2)) * 2
    predicted = target + rng.normal(size=shape) * np.linspace(0.05, 0.3, shape[0]).reshape(-1, 1, 1, 1)
    return [torch.from_numpy(x.clip(-1, 1).astype(np.float32)) for x in (predicted, target)]


def test_quality_of_each_frame(monkeypatch):
    """SSIM is the mean over channels; LPIPS sees red, green, blue, and grey as three equal channels."""
    def network(x, y):
        return (torch.tensor([1.0, 2.0, 4.0])[:, None, None] * (x - y).square()).mean()

    network.requires_grad_ = network.to = lambda _: network
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.warns(UserWarning, match="no LPIPS .* pip install lpips"):
        alone = Quality()
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=lambda net, verbose: network))
    for x, y in zip(*frames(3, 3, 24, 32)):
        ssim = [structural_similarity(a, b, data_range=2, gaussian_weights=True, use_sample_covariance=False)
                for a, b in zip(x.double().numpy() + 1, y.double().numpy() + 1)]
        assert alone(1, 4, x, y) == {"ssim": pytest.approx(np.mean(ssim), abs=1e-5)}
        assert Quality()(0, 4, x, y)["lpips"] == pytest.approx(network(x[[2, 1, 0]], y[[2, 1, 0]]).item())
        grey = network(x[:1].expand(3, -1, -1), y[:1].expand(3, -1, -1)).item()
        assert Quality()(0, 4, x[:1], y[:1])["lpips"] == pytest.approx(grey)


def test_maps_come_back_as_they_were(tmp_path):
    rng, path = np.random.default_rng(5), tmp_path / "maps.npz"
    images, error = rng.integers(0, 256, (2, 8, 10, 3), np.uint8), rng.uniform(size=(8, 10)).astype(np.float32)
    written = [FrameMap("01", 7, "miss", 0.1 + 0.2, 1, *images, error),
               FrameMap("Überwachung 12", 1234, "false alarm", -1.0, 0, *images, error, 1.5)]
    for some in written, []:
        maps.save_maps(path, some)
        for x, y in zip(itertools.chain(*maps.load_maps(path)), itertools.chain(*some), strict=True):
            assert type(x) is type(y)
            assert np.array_equal(x, y) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0)
    np.savez(path, **{name: np.array([print], object) for name in FrameMap._fields})           # a pickle
    with pytest.raises(UserError, match="maps.npz"):
        maps.load_maps(path)


def test_the_worst_frames_by_hand():
    videos = [VideoScores(name, np.arange(4, 4 + len(labels)), {}, np.array(labels))
              for name, labels in (("01", [0] * 40 + [1] * 40), ("02", [1] * 30))]
    normal = [np.full(80, 0.5), np.full(30, 0.1)]
    normal[0][[50, 52, 76]] = 0.9, 0.95, 0.8                  # misses; 50 and 76 are too near to 52, 77 is 25 off
    normal[0][77] = 0.7
    normal[0][[3, 30, 10]] = 0.0, 0.2, 0.1                    # false alarms; 10 is too near to 3
    assert choose_frames(videos, normal, 2) == [(0, 56, "miss"), (0, 81, "miss"), (0, 7, "false alarm"),
                                                (0, 34, "false alarm"), (1, 4, "detection"), (1, 29, "detection")]
    normal[1][2] = 0.85                                       # between the two, in another video
    assert choose_frames(videos, normal, 3)[:3] == [(0, 56, "miss"), (1, 6, "miss"), (0, 81, "miss")]
