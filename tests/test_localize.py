"""Where the error lies: planted squares, slow counts over all pixels and thresholds, files, and chosen frames."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from lgn_net.config import Config, DataConfig, ModelConfig, ScoreConfig
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.inference import localize
from lgn_net.inference.chosen import predict_again
from lgn_net.inference.localize import Localization, chance_to_touch, find_masks, read_mask
from lgn_net.inference.loop import score_videos
from lgn_net.model.build import build_model
from lgn_net.scores.maps import (
    FrameMap,
    choose_frames,
    error_map,
    frame_map,
    load_maps,
    parse_frames,
    save_maps,
    smoothed,
    strongest_region,
    to_image,
)
from lgn_net.scores.score_file import VideoScores

CPU = torch.device("cpu")
TINY = Config(data=DataConfig(image_size=32, workers=0), score=ScoreConfig(batch_size=3),
              model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5))


def planted(H, W, *squares):
    """A weak error everywhere, and in the squares (x0, y0, x1, y1) one of the given strength."""
    error = np.random.default_rng(0).uniform(0, 0.002, (H, W)).astype(np.float32)
    for (x0, y0, x1, y1), strength in squares:
        error[y0:y1, x0:x1] = strength
    return error


def write_masks(folder, masks):
    """Masks, bool (H, W), of one video."""
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{t}.png"), 255 * mask.astype(np.uint8))


def watched(folder, masks, errors, batch=2):
    """The Localization of one video with these masks and errors, (T, H, W) in [0, 1]."""
    write_masks(folder / "01", masks)
    found = Localization(find_masks(folder, [Video("01", len(masks) * ("",))]))
    target = -torch.ones(len(errors), 1, *errors.shape[1:])
    predicted = target + 2 * torch.from_numpy(errors).sqrt()[:, None]
    for t in range(0, len(errors), batch):
        found(0, t, predicted[t:t + batch], target[t:t + batch])
    return found


# ------------------------------------------------------------------------------------------------ maps and their region

def test_error_map_by_hand():
    predicted, target = np.zeros((2, 3, 1, 2), np.float32), np.zeros((2, 3, 1, 2), np.float32)
    predicted[1, :, 0, 1], target[1, :, 0, 1] = [1, 0, -1], [-1, 0, -0.5]
    assert error_map(predicted, target).tolist() == [[[0, 0]], [[0, pytest.approx((1 + 0 + 0.0625) / 3)]]]


def test_images_are_the_pixels_read():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    pixels[0, 1] //= 2
    assert np.array_equal(to_image(to_float(pixels)[0].numpy()), pixels[0].transpose(1, 2, 0))
    assert to_image(np.array([[[-1.2, 1.2]]])).tolist() == [[[0], [255]]]


@pytest.mark.parametrize("box", [(40, 20, 56, 36), (0, 0, 14, 14), (70, 44, 96, 64), (30, 8, 44, 60)])
def test_planted_object_is_boxed_exactly(box):
    region, found = strongest_region(planted(64, 96, (box, 0.3)))
    x0, y0, x1, y1 = box
    assert found == box
    assert region[y0 + 2:y1 - 2, x0 + 2:x1 - 2].all() and region.sum() <= (x1 - x0) * (y1 - y0)


def test_region_against_slow_labelling():
    rng = np.random.default_rng(1)
    for _ in range(20):
        error = rng.exponential(size=(24, 30)).astype(np.float32) ** 3
        region, (x0, y0, x1, y1) = strongest_region(error)
        strength = smoothed(error)
        labels, count = ndimage.label(strength >= strength.max() / 2, np.ones((3, 3)))
        best = max(range(1, count + 1), key=lambda k: strength[labels == k].sum())
        assert np.array_equal(region, labels == best)
        y, x = np.nonzero(region)
        assert (x0, y0, x1, y1) == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_smoothing_is_a_gaussian_of_a_share_of_the_height():
    error = np.zeros((128, 64), np.float32)
    error[60, 30] = error[0, 5] = error[127, 63] = 1           # mirrored at the border
    assert np.abs(smoothed(error) - ndimage.gaussian_filter(error, 128 / 32)).max() < 1e-4 * smoothed(error).max()


def test_an_error_without_structure_is_the_whole_frame():
    region, box = strongest_region(np.zeros((16, 20), np.float32))
    assert region.all() and box == (0, 0, 20, 16)


# --------------------------------------------------------------------------------------------------- against the masks

@pytest.fixture
def noisy():
    """Masks and errors of 12 frames that overlap like those of a real detector; frames 0 to 4 are normal."""
    rng = np.random.default_rng(2)
    masks = np.zeros((12, 32, 40), bool)
    for mask in masks[5:]:
        y, x = rng.integers(0, 20, 2)
        mask[y:y + rng.integers(3, 12), x:x + rng.integers(3, 12)] = True
    errors = (rng.exponential(0.02, masks.shape) * (1 + 4 * masks * rng.uniform(0, 1, (12, 1, 1)))).clip(0, 1)
    return masks, errors.astype(np.float32)


def test_pixel_auc_counts_every_pixel(tmp_path, noisy):
    masks, errors = noisy
    expected = roc_auc_score(masks.ravel(), np.stack([smoothed(error) for error in errors]).ravel())
    assert 0.6 < expected < 0.99
    assert watched(tmp_path, masks, errors).results()["pixel_auc"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0])
def test_bins_are_fine_at_any_size_of_the_error(tmp_path, noisy, scale):
    masks, errors = noisy
    strength = np.stack([smoothed(error * np.float32(scale)) for error in errors])
    counts = [np.bincount(localize.bin_of(strength[masks == c]), minlength=localize.BINS) for c in (1, 0)]
    assert localize.histogram_auc(*counts) == pytest.approx(roc_auc_score(masks.ravel(), strength.ravel()), abs=1e-4)


def test_equal_errors_count_half():
    assert localize.histogram_auc(np.array([1, 1, 0]), np.array([2, 1, 1])) == (1 + 0 + 0 + 2 + 0.5 + 0) / 8
    assert localize.histogram_auc(np.array([0, 3]), np.array([2, 0])) == 1
    assert localize.histogram_auc(np.array([0, 3]), np.array([0, 0])) is None


def test_pixel_level_criterion_against_every_threshold(tmp_path, noisy):
    masks, errors = noisy
    strength = np.stack([smoothed(error) for error in errors])
    abnormal = masks.any(axis=(1, 2))
    rates = [(0, 0)]
    for threshold in np.sort(np.unique(strength))[::-1]:
        marked = strength >= threshold
        hits = [10 * (m & y).sum() >= 4 * y.sum() for m, y in zip(marked[abnormal], masks[abnormal])]
        rates.append((marked[~abnormal].any(axis=(1, 2)).mean(), np.mean(hits)))
    expected = np.trapezoid(*np.array(rates).T[::-1])
    assert 0.1 < expected < 0.9
    assert watched(tmp_path, masks, errors).results()["pixel_level_auc"] == pytest.approx(expected, abs=1e-9)


def test_forty_per_cent_of_the_mask():
    error, mask = np.arange(16, dtype=np.float32).reshape(4, 4), np.zeros((4, 4), bool)
    assert localize.frame_score(error, mask) == 15
    mask[:2] = True                                          # 0 to 7; 3.2 of 8 pixels is 4: 7, 6, 5 and 4
    assert localize.frame_score(error, mask) == 4
    mask[2, :2] = True                                       # 0 to 9; 4 of 10: 9, 8, 7 and 6
    assert localize.frame_score(error, mask) == 6


def test_regions_that_touch_the_mask(tmp_path):
    masks = np.zeros((4, 64, 64), bool)
    masks[1:, 20:36, 30:46] = True
    boxes = [(4, 4, 20, 20), (32, 22, 44, 34), (42, 32, 60, 60), (0, 40, 18, 60)]     # normal, inside, overlaps, off
    results = watched(tmp_path, masks, np.stack([planted(64, 64, (box, 0.5)) for box in boxes])).results()
    assert results["region_on_mask"] == pytest.approx(2 / 3)
    assert 0 < results["region_on_mask_chance"] < 0.6
    assert results["frames_with_mask"] == 4 and results["abnormal_frames"] == 3


def test_chance_to_touch_against_every_place():
    rng = np.random.default_rng(3)
    for H, W, h, w in [(12, 15, 3, 4), (40, 36, 14, 13), (9, 9, 9, 9), (30, 30, 1, 30)]:
        for share in (0.0, 0.005, 0.05):
            mask, shape = rng.uniform(size=(H, W)) < share, rng.uniform(size=(h, w)) < 0.6
            y, x = rng.integers(0, H - h + 1), rng.integers(0, W - w + 1)
            region = np.zeros((H, W), bool)
            region[y:y + h, x:x + w] = shape
            places = [(shape & mask[i:i + h, j:j + w]).any() for i in range(H - h + 1) for j in range(W - w + 1)]
            assert chance_to_touch(region, (x, y, x + w, y + h), mask) == pytest.approx(np.mean(places))


def test_undefined_without_abnormal_frames_or_masks(tmp_path):
    errors = np.full((3, 16, 16), 0.1, np.float32)
    numbers = ["pixel_auc", "pixel_level_auc", "region_on_mask", "region_on_mask_chance"]
    normal = watched(tmp_path, np.zeros((3, 16, 16), bool), errors).results()
    assert [normal[name] for name in numbers] == [None] * 4 and normal["frames_with_mask"] == 3
    nothing = Localization([()])
    nothing(0, 4, *torch.zeros(2, 3, 1, 16, 16))
    assert [nothing.results()[name] for name in numbers] == [None] * 4
    assert nothing.results()["frames_without_mask"] == 3 and nothing.results()["videos_without_masks"] == 1
    json.dumps([normal, nothing.results()], allow_nan=False)


# ---------------------------------------------------------------------------------------------------------- mask files

def test_masks_are_found_in_natural_order(tmp_path):
    write_masks(tmp_path / "02", np.zeros((11, 4, 4)))
    (tmp_path / "02" / "notes.txt").write_text("")
    masks = find_masks(tmp_path, [Video("01", ("a",)), Video("02", tuple("abcdefghijk"))])
    assert masks == [(), tuple(str(tmp_path / "02" / f"{t}.png") for t in range(11))]
    assert find_masks(tmp_path / "nowhere", [Video("01", ("a",))]) == [()]
    with pytest.raises(UserError, match="02 holds 11 masks, but video 02 has 12 frames"):
        find_masks(tmp_path, [Video("02", tuple("abcdefghijkl"))])


def test_masks_lie_on_the_resized_frames(tmp_path):
    mask = np.kron(np.random.default_rng(4).integers(0, 2, (24, 24)), np.ones((5, 3))) > 0         # (120, 72)
    write_masks(tmp_path / "01", [mask])
    path = str(tmp_path / "01" / "0.png")
    assert np.array_equal(255 * read_mask(path, 24, 24), read_frames((path,), 1, 24)[0, 0])
    mask = np.zeros((120, 72), bool)
    mask[:, 1::3] = True                                      # the middle one of every three columns is what is sampled
    write_masks(tmp_path / "02", [mask])
    assert read_mask(str(tmp_path / "02" / "0.png"), 24, 24).all()
    mask = np.roll(mask, 1, axis=1)                           # none of these
    mask[2, 4] = True                                         # but this
    write_masks(tmp_path / "03", [mask])
    assert np.argwhere(read_mask(str(tmp_path / "03" / "0.png"), 24, 24)).tolist() == [[0, 1]]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_damaged_mask(tmp_path, content):
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(UserError, match=r"0\.png is damaged .* prepare the data set again"):
        read_mask(str(tmp_path / "0.png"), 8, 8)


# ------------------------------------------------------------------------------------------------ with the network

def test_watches_the_network(blob_dataset):
    root = blob_dataset(testing=(9, 8, 10))
    videos = index_videos(find_split(root, "blobs", "testing"))
    folder = root / "blobs" / "testing" / "masks"
    for video in videos[::2]:                                 # the second has none
        masks = np.zeros((len(video.frames), 20, 24), bool)
        masks[len(masks) // 2:, 6:14, 2:12] = True
        write_masks(folder / video.name, masks)
    found = Localization(find_masks(folder, videos))
    torch.manual_seed(0)
    model, seen = build_model(TINY), []
    config = replace(TINY, score=replace(TINY.score, gamma=1.0))

    def watch(*batch):
        seen.append(batch)
        found(*batch)

    signals = score_videos(model, videos, config, CPU, observers=[watch])
    results = found.results()
    assert results["frames_with_mask"] == 5 + 6 and results["frames_without_mask"] == 4
    assert results["abnormal_frames"] == 5 + 5 and results["videos_without_masks"] == 1
    assert all(results[name] is not None for name in ("pixel_auc", "pixel_level_auc", "region_on_mask"))

    predicted = {(v, first + k): (p[k], t[k]) for v, first, p, t in seen for k in range(len(p))}
    for v, frame, p, t in predict_again(model, videos, config, signals, [(0, 6), (2, 9)], CPU):
        one = frame_map(videos[v].name, frame, "top", 0.5, 1, p, t)
        assert one.error == pytest.approx(error_map(*(x.numpy() for x in predicted[v, frame])), abs=1e-5)
        assert one.box == strongest_region(one.error)[1]
        assert np.array_equal(one.image, read_frames(videos[v].frames[frame:frame + 1], 3, 32)[0].transpose(1, 2, 0))
        assert one.prediction.shape == (32, 32, 3) and one.prediction.dtype == np.uint8
        assert np.abs(one.prediction / 127.5 - 1 - p.permute(1, 2, 0).numpy()).max() <= 0.501 / 127.5


# --------------------------------------------------------------------------------------------------------------- files

def test_maps_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(5)
    maps = [FrameMap(video, frame, kind, float(rng.normal()), frame % 2, rng.integers(0, 256, (8, 10, 3), np.uint8),
                     rng.integers(0, 256, (8, 10, 3), np.uint8), rng.uniform(size=(8, 10)).astype(np.float32),
                     (1, 2, 3, 4))
            for video, frame, kind in [("01", 7, "miss"), ("Überwachung 12", 1234, "false alarm")]]
    save_maps(tmp_path / "maps.npz", maps)
    for back, one in zip(load_maps(tmp_path / "maps.npz"), maps, strict=True):
        for x, y in zip(back, one):
            assert type(x) is type(y)
            assert np.array_equal(x, y) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0)
    save_maps(tmp_path / "maps.npz", [])
    assert load_maps(tmp_path / "maps.npz") == []
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]


def test_files_that_hold_no_maps(tmp_path):
    path = tmp_path / "maps.npz"
    np.savez(path, video=np.array(["01"]))
    with pytest.raises(UserError, match=r"maps\.npz holds no maps"):
        load_maps(path)
    np.savez(path, **{name: np.array([print], object) for name in FrameMap._fields})
    with pytest.raises(ValueError, match="pickle"):
        load_maps(path)


# -------------------------------------------------------------------------------------------------------------- frames

def scored(name, labels, first=4):
    return VideoScores(name, np.arange(first, first + len(labels)), {}, np.array(labels, np.uint8))


def test_the_worst_frames_by_hand():
    videos = [scored("01", [0] * 40 + [1] * 40), scored("02", [1] * 30)]
    normal = [np.full(80, 0.5), np.full(30, 0.1)]
    normal[0][[50, 52, 76]] = 0.9, 0.95, 0.8                  # misses; 50 and 76 are too near to 52, 77 is 25 off
    normal[0][77] = 0.7
    normal[0][[3, 30, 10]] = 0.0, 0.2, 0.1                    # false alarms; 10 is too near to 3
    assert choose_frames(videos, normal, 2) == [(0, 56, "miss"), (0, 81, "miss"), (0, 7, "false alarm"),
                                                (0, 34, "false alarm")]
    normal[1][2] = 0.85                                       # between the two, in another video
    assert choose_frames(videos, normal, 3)[:3] == [(0, 56, "miss"), (1, 6, "miss"), (0, 81, "miss")]


def test_fewer_frames_where_there_are_no_more():
    normal = [np.linspace(0, 1, 30)]
    assert choose_frames([scored("01", [1] * 30)], normal, 5) == [(0, 33, "miss"), (0, 8, "miss")]
    assert choose_frames([scored("01", [0] * 30)], normal, 5) == [(0, 4, "false alarm"), (0, 29, "false alarm")]
    assert choose_frames([scored("01", [0] * 30)], normal, 0) == []


def test_frames_that_a_user_names():
    videos = [scored("01", [0] * 10), scored("cam:2", [0] * 10)]
    assert parse_frames(["01:13", "cam:2:4"], videos) == [(0, 13, "chosen"), (1, 4, "chosen")]
    for text in ("57", "01:x", "01:-3", "1:5", "01:14", "01:3"):
        with pytest.raises(UserError, match=f"--frames {text}: .*01:4 to 13"):
            parse_frames([text], videos)
