"""Benchmarks: what they compare is the same work, what they count is right, and their figures fit together."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import TINY, load_script, run, sentence, write_videos
from torch import nn

from lgn_net import benchmark
from lgn_net.benchmark import Parts, authors_way, calibrate_norms, flops, measure, score_plainly, stream_in_parts
from lgn_net.config import config_from_dict
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import index_videos
from lgn_net.inference.loop import score_videos
from lgn_net.inference.stream import for_inference
from lgn_net.model.build import build_model

CPU = torch.device("cpu")
main = load_script("scripts/benchmark.py").main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with a configuration beside it."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_videos(folder / "made" / "training" / "frames", [8, 7])
    write_videos(folder / "made" / "testing" / "frames", [9, 14])
    (folder / "tiny.yaml").write_text(TINY + "score: {batch_size: 2}\n")
    return folder


def bench(data, what, *argv):
    """Run a benchmark -> its JSON file and what it printed."""
    result = run(main, what, "--dataset_path", data, "--config", data / "tiny.yaml", "--repeats", 1,
                 "--json", data / f"{what}.json", *argv)
    assert result.status == 0, result.err
    return json.loads((data / f"{what}.json").read_text()), result.out


def check_figures(ways, unit):
    """The figures of every way follow from each other."""
    for f in ways.values():
        assert f[f"{unit}s_per_s"] * f[f"s_per_{unit}"] == pytest.approx(1)
        assert f["ratio"] == pytest.approx(f[f"{unit}s_per_s"] / ways["plain"][f"{unit}s_per_s"])
        assert f[f"floor_s_per_{unit}"] == pytest.approx(f[f"gflop_per_{unit}"] / f["device_gflop_per_s"])
        assert f["reached"] == pytest.approx(f[f"floor_s_per_{unit}"] / f[f"s_per_{unit}"])
        assert f["peak_mb"] > 50                                            # Python and torch alone take more


def check_printed(out, *words):
    """Every table is aligned, and all words are there."""
    for table in out.split("\n\n"):
        if table.startswith("|"):
            assert len({len(line) for line in table.splitlines()}) == 1, table
    for word in words:
        assert word in out


def test_evaluate(data):
    result, out = bench(data, "evaluate", "--frames", 9)
    ways = result["ways"]
    assert list(ways) == ["plain", "streaming, float32", "streaming, bfloat16"]
    assert result["video"] == "01" and 2 <= result["updates"] <= 7
    check_figures(ways, "frame")
    assert ways["streaming, float32"]["gflop_per_frame"] == ways["streaming, bfloat16"]["gflop_per_frame"]
    assert 0 < ways["streaming, float32"]["gflop_per_frame"] < ways["plain"]["gflop_per_frame"]

    exact, rounded = result["agreement"]["streaming, float32"], result["agreement"]["streaming, bfloat16"]
    assert exact["max_psnr_db"] < 1e-3 and exact["max_distance"] < 1e-6 and exact["updates_differ"] == 0
    assert exact["max_psnr_db"] < rounded["max_psnr_db"] < 1

    for way in list(ways)[1:]:
        parts, latency = result["parts"][way], result["latency"][way]
        assert list(parts) == ["decode", "local branch", "prototype encoder", "memory", "decoder", "scoring", "other"]
        assert all(part["ms"] > 0 for part in parts.values())
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
        assert 0 < latency["p50_ms"] <= latency["p95_ms"] and latency["frames"] == 8
    check_printed(out, "Speed", "Floor", "GFLOP/frame", "p95 ms", "updates that differ", "torch", result["cpu"],
                  result["versions"]["git"])


def test_train(data):
    modes = ["float32", "bfloat16"]
    result, out = bench(data, "train", "--steps", 2, "--modes", *modes)
    assert list(result["ways"]) == ["plain", *modes]
    check_figures(result["ways"], "image")
    for parts in result["parts"].values():
        assert list(parts) == ["data", "forward", "losses, backward", "optimizer", "memory"]
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    check_printed(out, "images/s", "2 steps of 2 images")


def test_data_and_gamma(data):
    result, out = bench(data, "data", "--batches", 1)
    assert list(result["windows_per_s"]) == ["decoded", "decoded, 2 workers", "packed"]
    assert result["frames"] == 15 and result["packed_mb"] == pytest.approx(15 * 16 * 16 / 1e6)
    check_printed(out, "windows/s")
    result, out = bench(data, "gamma", "--frames", 5)
    assert result["ratio"]["ten gammas"] == pytest.approx(result["seconds"]["ten gammas"]
                                                          / result["seconds"]["one gamma"])
    assert len(result["updates"]) == 10 and result["updates"][0] < result["updates"][-1]
    check_printed(out, "ten gammas")


def tiny_network(name, video_folder, **score):
    """A small member of the family whose BatchNorm has seen a window, its configuration, and a video."""
    config = config_from_dict({
        "data": {"image_size": 16, "channels": 1}, "score": {"batch_size": 3} | score,
        "model": {"name": name, "base_width": 4, "hidden_width": 6, "lstm_layers": 2, "memory_items": 5,
                  "input_frames": 1 if name == "mnad_recon" else 4}})
    video = index_videos(video_folder / "made" / "testing" / "frames")[0]
    torch.manual_seed(1)
    model = build_model(config)
    clip = to_float(read_frames(video.frames[:config.model.input_frames], 1, 16))[None]
    calibrate_norms(model, clip)
    return model, config, video


@pytest.mark.parametrize("name", ["lgn_net", "lgn_st", "loc_net", "glo_net", "mnad_recon", "msn_net"])
def test_all_ways_give_the_same_scores(data, name):
    model, config, video = tiny_network(name, data)
    plain = authors_way(model)
    regular = sorted(s.regular_score for s in score_plainly(plain, video, config, CPU))
    config = replace(config, score=replace(config.score, gamma=(regular[1] + regular[2]) / 2))
    truth = score_plainly(plain, video, config, CPU)
    assert name == "loc_net" or 0 < sum(s.memory_updated for s in truth) < len(truth)
    parted = [row for batch in (1, 3)
              for rows in stream_in_parts(for_inference(model, config), video, config, CPU, batch) for row in rows]
    assert len(parted) == 2 * len(truth)
    for a, b in zip(truth, score_videos(model, [video], config, CPU), strict=True):
        assert (a.frame, a.memory_updated) == (b.frame, b.memory_updated)
        assert (a.psnr, *a.distance) == pytest.approx((b.psnr, *b.distance), rel=1e-4)
    for a, row in zip(truth * 2, parted):
        assert row == pytest.approx([a.psnr, a.regular_score, *a.distance], rel=1e-4)


def by_hand(model, clip):
    """Floating-point operations of the convolutions in a forward pass, from each layer's shapes."""
    total = 0

    def count(conv, inputs, output):
        nonlocal total
        places = (inputs[0] if isinstance(conv, nn.ConvTranspose2d) else output)[:, 0].numel()
        total += 2 * places * conv.in_channels * conv.out_channels * conv.kernel_size[0] ** 2

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(clip)
    return total


def test_operations_are_those_counted_by_hand(data):
    assert flops(lambda: nn.Conv2d(3, 5, 3)(torch.zeros(2, 3, 8, 10))) == 2 * (3 * 3 * 3) * 5 * 2 * 6 * 8

    model, config, video = tiny_network("lgn_net", data, gamma=2.0)           # every frame updates
    one = video._replace(frames=video.frames[:5])
    plain, clip = authors_way(model), torch.zeros(1, 4, 1, 16, 16)
    products = 5 * 2 * (2 * 2) * 5 * 32                                       # read, nearest, update (2, 1, 2): N M D
    counted = flops(lambda: score_plainly(plain, one, config, CPU))
    assert counted == by_hand(plain, clip) + products

    conv_h, conv_m = 2 * 16 * 9 * 6 * 4 * 6, 2 * 16 * 9 * 6 * 3 * 6           # on 4 x 4 states
    skipped = 2 * conv_h + conv_m                                             # of the first frame; M climbs the layers
    streamed = flops(lambda: list(stream_in_parts(for_inference(model, config), one, config, CPU, 1)))
    E_loc = 2 * 9 * (8 * 8 * (1 * 4 + 4 * 4) + 4 * 4 * (4 * 8 + 8 * 8)) + 2 * 16 * 9 * 8 * 7 * 6
    assert streamed == counted - skipped + E_loc                              # of the fifth frame: for windows to come


def test_ways_take_turns():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    measured = measure(ways, 3, CPU)
    assert "".join(calls) == "abababab"
    assert (measured["a"].result, measured["b"].result) == (7, 8)


def test_parts_within_parts_and_in_a_row(monkeypatch):
    clock = iter([0, 1, 3, 6, 10, 20, 21, 23])
    monkeypatch.setattr(benchmark, "now", lambda _: next(clock))
    parts = Parts(CPU)
    with parts("outer"):
        with parts("inner"):                  # from 1 to 3
            pass
        with parts("inner"):                  # from 6 to 10
            pass
    assert parts.take() == {"outer": 1 + 3 + 10, "inner": 2 + 4}
    parts.begin("first")
    parts.become("second")
    monkeypatch.setattr(benchmark, "now", lambda _: 30)
    parts.end()
    assert parts.take() == {"first": 2, "second": 7}


@pytest.mark.parametrize("argv, words", [
    (["speed"], "speed was given"),
    (["evaluate", "--frames", 11], "at most 10"),
    (["evaluate", "--repeats", 0], "--repeats 0"),
    (["evaluate", "--precisions", "float8"], "float8"),
    (["train", "--modes", "float32+wings"], "float32+wings"),
    (["train", "--steps", 99], "hold 7"),
    (["gamma", "--score.precison", "float32"], "precision"),
    (["evaluate", "--device", "cuda:9"], "cuda:9"),
    (["evaluate", "--score.gamma", "0.1"], "--score.gamma: benchmark.py evaluate sets this itself"),
    (["train", "--train.compile=true"], "see --modes"),
])
def test_mistakes_end_in_a_sentence(data, argv, words):
    assert words in sentence(run(main, *argv[:1], "--dataset_path", data, "--config", data / "tiny.yaml", *argv[1:]))
