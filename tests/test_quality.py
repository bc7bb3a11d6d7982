"""SSIM from its formula, LPIPS against the package, and what happens where the package or its weights are missing."""

import json
import sys
import urllib.error

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lgn_net.data.videos import Video
from lgn_net.inference.observers import ALEXNET, FrameQuality, Quality, summarize
from lgn_net.scores.score_file import write_scores


def frames(*shape):
    """Smooth true frames and noisy predictions, (B, C, H, W) in [-1, 1]."""
    rng = np.random.default_rng(0)
    target = gaussian_filter(rng.normal(size=shape), (0, 0, 2, 2)) * 2
    predicted = target + rng.normal(size=shape) * np.linspace(0.05, 0.3, shape[0]).reshape(-1, 1, 1, 1)
    return [torch.from_numpy(x.clip(-1, 1).astype(np.float32)) for x in (predicted, target)]


@pytest.fixture
def without_lpips(monkeypatch):
    """A Quality where the package is missing."""
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.warns(UserWarning, match="no LPIPS .* pip install lpips") as record:
        quality = Quality()
    assert len(record) == 1
    return quality


def ssim_by_formula(x, y):
    """Wang et al. (2004), eq. 13, of one channel (H, W) on [0, 1]: mean over the windows that lie within the frame."""
    def mean(z):
        return gaussian_filter(z, 1.5, radius=5)[5:-5, 5:-5]

    x, y, c1, c2 = x.astype(float), y.astype(float), 0.01 ** 2, 0.03 ** 2
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    return np.mean((2 * mean(x) * mean(y) + c1) * (2 * covariance + c2)
                   / ((mean(x) ** 2 + mean(y) ** 2 + c1) * (variances + c2)))


@pytest.mark.parametrize("C", [1, 3])
def test_ssim_of_each_frame_by_its_formula(without_lpips, C):
    predicted, target = frames(3, C, 24, 32)
    without_lpips(1, 4, predicted, target)
    without_lpips(1, 7, target, target)
    assert [row[:2] for row in without_lpips.kept] == [(1, t) for t in range(4, 10)]
    found = [row.measures["ssim"] for row in without_lpips.kept]
    for value, x, y in zip(found, (predicted + 1) / 2, (target + 1) / 2):
        assert value == pytest.approx(np.mean(list(map(ssim_by_formula, x.numpy(), y.numpy()))), abs=1e-5)
    assert found[0] > found[1] + 0.02 > found[2] + 0.04 and found[3:] == pytest.approx([1, 1, 1], abs=1e-6)


@pytest.mark.slow
def test_lpips_is_that_of_the_package(tmp_path, monkeypatch):
    """AlexNet of random weights, in the file that torchvision asks for; the package's warnings do not come through."""
    models = pytest.importorskip("torchvision").models
    assert models.AlexNet_Weights.IMAGENET1K_V1.url == ALEXNET
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state, rng = models.AlexNet().state_dict(), torch.Generator().manual_seed(0)
    for name, x in state.items():
        state[name] = torch.zeros(1).expand(x.shape)              # LPIPS does not use the classifier's 200 MB
        if name.startswith("features"):
            state[name] = torch.randn(x.shape, generator=rng) / max(x.shape[1:].numel(), 1) ** 0.5
    state["features.0.weight"][:, 2] *= 4                         # so that the order of the colours matters
    torch.save(state, tmp_path / "hub/checkpoints" / ALEXNET.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    quality, (predicted, target) = Quality(), frames(3, 3, 64, 48)
    network = quality.lpips
    quality(0, 4, predicted, target)
    quality(0, 7, *(x[:, :1] for x in (predicted, target)))                                     # grey
    quality(0, 10, predicted, predicted)
    found = [row.measures["lpips"] for row in quality.kept]
    for k, (x, y) in enumerate(zip(predicted, target)):
        expected = network(x[[2, 1, 0]][None], y[[2, 1, 0]][None]).item()                       # red, green, blue
        assert found[k] == pytest.approx(expected, rel=1e-5) != pytest.approx(network(x[None], y[None]).item(), 1e-3)
        grey = network(x[:1].repeat(3, 1, 1)[None], y[:1].repeat(3, 1, 1)[None]).item()
        assert found[3 + k] == pytest.approx(grey, rel=1e-4)
    assert found[6:] == [0, 0, 0]


@pytest.mark.parametrize("content", [None, b"no weights"], ids=["no network", "damaged"])
def test_without_the_weights(monkeypatch, tmp_path, content):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if content:
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        (tmp_path / "hub/checkpoints" / ALEXNET.rpartition("/")[2]).write_bytes(content)
    with pytest.warns(UserWarning, match=f"no LPIPS .*{ALEXNET} in {tmp_path}/hub/checkpoints") as record:
        quality = Quality()
    quality(0, 4, *frames(1, 3, 40, 40))
    assert len(record) == 1 and list(quality.kept[0].measures) == ["ssim"]


def test_means_and_file(without_lpips, tmp_path):
    rows = [(0, 4, 0.5, 0.4), (0, 5, 0.9, 0.1), (2, 4, 0.1, 0.6)]
    videos = [Video("01", 6 * ("",)), Video("02", ("",)), Video("03", 5 * ("",))]
    truth = {"01": np.array([0, 0, 0, 0, 1, 0]), "03": np.array([0, 0, 0, 0, 1])}
    parts = [[FrameQuality(v, t, {"ssim": s, "lpips": d}) for v, t, s, d in part] for part in (rows[2:], rows[:2])]
    without_lpips.merge(parts)
    scored = without_lpips.scores(videos, truth)
    assert summarize(scored) == pytest.approx({
        "ssim": 0.5, "ssim_normal": 0.9, "ssim_abnormal": 0.3,
        "lpips": 1.1 / 3, "lpips_normal": 0.1, "lpips_abnormal": 0.5})
    write_scores(tmp_path / "quality.csv", scored, labelled=False)
    assert (tmp_path / "quality.csv").read_text().split() == [
        "video,frame,ssim,lpips", "01,4,0.5,0.4", "01,5,0.9,0.1", "03,4,0.1,0.6"]
    without_lpips.merge([[FrameQuality(v, t, {"ssim": s}) for v, t, s, _ in rows]])
    assert summarize(without_lpips.scores(videos)) == {
        "ssim": 0.5, "ssim_normal": 0.5, "ssim_abnormal": None, "lpips": None, "lpips_normal": None,
        "lpips_abnormal": None}
    json.dumps(summarize(without_lpips.scores(videos)), allow_nan=False)
