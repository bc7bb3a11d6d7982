"""SSIM from its formula, LPIPS against the package, and what happens where the package or its weights are missing."""

import importlib.util
import json
import socket
import sys
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lgn_net.config import Config, DataConfig, ModelConfig, ScoreConfig
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.inference import quality
from lgn_net.inference.loop import score_videos
from lgn_net.inference.quality import ALEXNET, SMALLEST, Quality, summarize
from lgn_net.model.build import build_model
from lgn_net.scores.score_file import write_scores

HAS_LPIPS = importlib.util.find_spec("lpips") is not None


def frames(*shape, seed=0):
    """Smooth true frames and noisy predictions, (B, C, H, W) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    target = gaussian_filter(rng.normal(size=shape), (0, 0, 2, 2)) * 2
    predicted = target + rng.normal(size=shape) * np.linspace(0.05, 0.3, shape[0]).reshape(-1, 1, 1, 1)
    return [torch.from_numpy(x.clip(-1, 1).astype(np.float32)) for x in (predicted, target)]


@pytest.fixture
def no_lpips(monkeypatch):
    """LPIPS is not to be had."""
    monkeypatch.setattr(quality, "load_lpips", lambda: None)


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory):
    """A folder for TORCH_HOME with an AlexNet of random weights, where torchvision is installed."""
    models = pytest.importorskip("torchvision", reason="needs torchvision").models
    folder = tmp_path_factory.mktemp("torch_home")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in models.AlexNet().state_dict().items()}
    rng, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        state[name] = torch.zeros(1).expand(shape)            # LPIPS does not use the classifier's 200 MB
        if name.startswith("features"):
            state[name] = torch.randn(shape, generator=rng) / max(shape[1:].numel(), 1) ** 0.5
    state["features.0.weight"][:, 2] *= 4                     # so that the order of the colours matters
    torch.save(state, folder / "hub" / "checkpoints" / ALEXNET.rpartition("/")[2])
    return folder


@pytest.fixture
def lpips(torch_home, monkeypatch):
    """The package, with these weights."""
    package = pytest.importorskip("lpips", reason="needs lpips")
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return package


# ---------------------------------------------------------------------------------------------------------------- SSIM

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
def test_ssim_of_each_frame_by_its_formula(no_lpips, C):
    predicted, target = frames(3, C, 24, 32)
    watch = Quality()
    watch(1, 4, predicted, target)
    assert [row[:2] for row in watch.rows] == [(1, 4), (1, 5), (1, 6)]
    for row, x, y in zip(watch.rows, (predicted + 1) / 2, (target + 1) / 2):
        expected = np.mean([ssim_by_formula(*pair) for pair in zip(x.numpy(), y.numpy())])
        assert row.ssim == pytest.approx(expected, abs=1e-5)
    assert watch.rows[0].ssim > watch.rows[1].ssim + 0.02 > watch.rows[2].ssim + 0.04


def test_ssim_of_equal_frames_is_one(no_lpips):
    watch = Quality()
    watch(0, 0, *frames(1, 3, 16, 16)[:1] * 2)
    assert watch.rows[0].ssim == pytest.approx(1, abs=1e-6)


# --------------------------------------------------------------------------------------------------------------- LPIPS

def test_lpips_is_that_of_the_package(lpips):
    with warnings.catch_warnings():
        warnings.simplefilter("error")                        # nor does torchvision warn of its old arguments
        watch = Quality()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", verbose=False)
    predicted, target = frames(3, 3, 64, 48)
    watch(0, 4, predicted, target)
    for row, x, y in zip(watch.rows, predicted, target):
        one = network(x[[2, 1, 0]][None], y[[2, 1, 0]][None]).item()                            # red, green, blue
        assert row.lpips == pytest.approx(one, rel=1e-5)
        assert network(x[None], y[None]).item() != pytest.approx(one, rel=1e-3)
    grey = [x[:, :1] for x in (predicted, target)]
    watch(0, 7, *grey)
    for row, x, y in zip(watch.rows[3:], *grey):
        assert row.lpips == pytest.approx(network(x.repeat(3, 1, 1)[None], y.repeat(3, 1, 1)[None]).item(), rel=1e-4)
    watch(0, 10, predicted, predicted)
    assert [row.lpips for row in watch.rows[6:]] == [0, 0, 0]
    assert all(isinstance(x, float) for x in watch.rows[0][2:])


def test_the_file_of_weights_is_the_one_torchvision_asks_for():
    models = pytest.importorskip("torchvision", reason="needs torchvision").models
    assert models.AlexNet_Weights.IMAGENET1K_V1.url == ALEXNET


def test_small_frames_have_no_lpips(lpips):
    watch = Quality()
    watch(0, 0, *frames(1, 3, SMALLEST, SMALLEST))                                              # the smallest that have
    assert watch.rows[0].lpips > 0
    watch = Quality()
    with pytest.warns(UserWarning, match="frames of 40 x 30 pixels are smaller than the 31 x 31") as record:
        watch(0, 0, *frames(1, 3, 30, 40))
        watch(0, 1, *frames(1, 3, 30, 40))
    assert len(record) == 1 and np.isnan(watch.rows[1].lpips) and watch.rows[1].ssim > 0


def test_without_the_package(monkeypatch):
    if HAS_LPIPS:
        monkeypatch.setitem(sys.modules, "lpips", None)                           # as if it were not there
    with pytest.warns(UserWarning, match="no LPIPS: .*lpips.*; pip install lpips torchvision") as record:
        watch = Quality()
    assert len(record) == 1
    watch(0, 4, *frames(2, 3, 40, 40))
    means = summarize(watch.scores([Video("01", 6 * ("",))]))
    assert means["lpips"] is None and means["lpips_normal"] is None and 0 < means["ssim"] < 1


def without_weights(monkeypatch, tmp_path, capsys):
    """The one warning of Quality() where torch.hub has no weights."""
    pytest.importorskip("lpips", reason="needs lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    timeout = socket.getdefaulttimeout()
    with pytest.warns(UserWarning) as record:
        watch = Quality()
    assert socket.getdefaulttimeout() == timeout
    watch(0, 4, *frames(1, 3, 40, 40))
    assert watch.rows[0].ssim > 0 and np.isnan(watch.rows[0].lpips)
    out = capsys.readouterr()
    assert out.out == "" and "Traceback" not in out.err
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert len(record) == 1
    return str(record[0].message)


def test_without_the_weights(monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    assert without_weights(monkeypatch, tmp_path, capsys) == (
        "no LPIPS: the weights of its AlexNet can be neither read nor downloaded (<urlopen error no network>); put "
        f"https://download.pytorch.org/models/alexnet-owt-7be5be79.pth into {tmp_path}/hub/checkpoints")


def test_a_server_that_never_answers_is_given_up(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quality, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(torch.hub, "Request", lambda *_, **__: urllib.request.Request(url))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        start = time.monotonic()
        assert "timed out" in without_weights(monkeypatch, tmp_path, capsys)
    assert time.monotonic() - start < 5


def test_damaged_weights(monkeypatch, tmp_path):
    pytest.importorskip("lpips", reason="needs lpips")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"no weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="can be neither read nor downloaded .*; put https"):
        assert Quality().lpips is None


# --------------------------------------------------------------------------------------------------- per frame and mean

def test_means_and_file(no_lpips, tmp_path):
    watch = Quality()
    watch.lpips = object()
    watch.rows = [quality.FrameQuality(*row) for row in [(0, 4, 0.5, 0.4), (0, 5, 0.9, 0.1), (2, 4, 0.1, 0.6)]]
    videos = [Video("01", 6 * ("",)), Video("02", ("",)), Video("03", 5 * ("",))]
    truth = {"01": np.array([0, 0, 0, 0, 1, 0]), "03": np.array([0, 0, 0, 0, 1])}
    scored = watch.scores(videos, truth)
    assert summarize(scored) == pytest.approx({
        "ssim": 0.5, "ssim_normal": 0.9, "ssim_abnormal": 0.3,
        "lpips": 1.1 / 3, "lpips_normal": 0.1, "lpips_abnormal": 0.5})
    write_scores(tmp_path / "quality.csv", scored, labelled=False)
    assert (tmp_path / "quality.csv").read_text().split() == [
        "video,frame,ssim,lpips", "01,4,0.5,0.4", "01,5,0.9,0.1", "03,4,0.1,0.6"]
    watch.lpips = None
    unlabelled = watch.scores(videos)
    write_scores(tmp_path / "quality.csv", unlabelled, labelled=False)
    assert (tmp_path / "quality.csv").read_text().startswith("video,frame,ssim\n01,4,0.5\n")
    assert summarize(unlabelled) == {"ssim": 0.5, "ssim_normal": 0.5, "ssim_abnormal": None, "lpips": None,
                                     "lpips_normal": None, "lpips_abnormal": None}
    json.dumps(summarize(unlabelled), allow_nan=False)
    assert set(summarize([]).values()) == {None}


def test_watches_the_network(no_lpips, blob_dataset):
    videos = index_videos(find_split(blob_dataset(testing=(9, 8)), "blobs", "testing"))
    config = Config(data=DataConfig(image_size=16, workers=0), score=ScoreConfig(batch_size=3),
                    model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5))
    watch = Quality()
    signals = score_videos(build_model(config), videos, config, torch.device("cpu"), observers=[watch])
    assert [row[:2] for row in watch.rows] == [(s.video, s.frame) for s in signals]
    assert [len(video.frames) for video in watch.scores(videos)] == [5, 4]
