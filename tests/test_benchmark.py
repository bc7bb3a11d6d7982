"""Benchmarks: the ways do the same work, what is counted is right, and the figures fit together."""

import itertools
import json

import pytest
import torch
from helpers import TINY, load_script, run, write_videos
from torch.utils.flop_counter import FlopCounterMode

from lgn_net import benchmark
from lgn_net.benchmark import (
    difference,
    draw_video,
    evaluation,
    profile_parts,
    random_model,
    training,
)
from lgn_net.cli import config_from_dict
from lgn_net.config import with_knobs
from lgn_net.inference.loop import score_videos

CPU = torch.device("cpu")
main, gpu_check = load_script("scripts/benchmark.py").main, load_script("scripts/gpu_check.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with a configuration beside it."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_videos(folder / "made" / "training" / "frames", [8, 7])
    write_videos(folder / "made" / "testing" / "frames", [9, 14])
    (folder / "tiny.yaml").write_text(TINY + "score: {batch_size: 2}\n")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Convolve no large tensors, and do every step once."""
    for name, value in (("conv_rate", lambda *_: 2e9), ("ROUNDS", 1)):
        monkeypatch.setitem(gpu_check.main.__globals__, name, value)


def scores(model, videos, config):
    return [*score_videos(model, videos, config, CPU)]


def tiny(name="lgn_net", **knobs):
    """A tiny configuration of a system."""
    model = {"name": name, "base_width": 4, "hidden_width": 4, "lstm_layers": 2, "memory_items": 5}
    config = config_from_dict({"data": {"image_size": 16, "channels": 1}, "model": model, "train": {"batch_size": 2}})
    return with_knobs(config, {"score.batch_size": 2, **knobs})


@pytest.mark.parametrize("drawn, what, ways", [
    pytest.param(True, ["evaluate", "--frames", 6], ["plain", "float32", "bfloat16"], marks=pytest.mark.slow),
    pytest.param(False, ["train", "--steps", 1, "--precisions", "bfloat16", "--train.checkpoint_activations", "true"],
                 ["plain", "bfloat16"], marks=pytest.mark.slow),
    (False, ["gamma", "--frames", 5], ["one gamma", "ten gammas"]),
    (False, ["data", "--batches", 2], ["decoded", "packed", "decoded, 2 workers"]),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_commands(data, tmp_path, drawn, what, ways):
    where = () if drawn else ("--dataset_path", data)
    done = run(main, *what, *where, "--config", data / "tiny.yaml", "--repeats", 2, "--json", tmp_path / "out.json")
    assert done.status == 0, done.err
    result = json.loads((tmp_path / "out.json").read_text())
    table = result["ways"]
    assert list(table) == ways and result["dataset"] == ("noise" if drawn else "made")
    assert all(way in done.out for way in ways) and result["machine"]["processor"] in done.out
    for figures in table.values():
        rate, *_ = figures.values()
        assert rate * figures["s"] == pytest.approx(1)
        assert figures["ratio min"] <= figures["ratio"] <= figures["ratio max"]
    assert table[ways[0]]["ratio min"] == table[ways[0]]["ratio max"] == 1
    for found in result.get("parts_s", {}).values():
        assert set(found) - {"optimizer"} == {*benchmark.PARTS.values(), "other"}
        assert all(seconds > 0 for seconds in found.values())
    if what[0] == "evaluate":
        exact = result["agreement"]["float32"]
        assert exact["psnr_db"] < min(1e-4, result["agreement"]["bfloat16"]["psnr_db"])
        assert exact["distance"] < 1e-7 and exact["updates"] == 0 < result["updates"] < 6


@pytest.mark.parametrize("name", ["lgn_net", "loc_net", "msn_net"])
def test_ways_score_as_the_evaluation_does(tmp_path, name):
    """Twice; then the parts are those of the network. LocNet has no queries to look up, but is asked."""
    config = tiny(name)
    video = draw_video(tmp_path, config, 10)
    model = random_model(config, video, CPU)
    frozen = scores(model, [video], with_knobs(config, {"score.memory_update": "frozen"}))
    ordered = sorted(s.regular_score for s in frozen)
    config = with_knobs(config, {"score.gamma": (ordered[2] + ordered[3]) / 2})
    truth = scores(model, [video], config)
    assert name == "loc_net" or any(s.memory_updated for s in truth)
    for plain in (True, False):
        work = evaluation(model, video, config, CPU, plain)
        for _ in range(2):
            found = difference(work[1](), truth)
            assert found["psnr_db"] < 1e-4 and found["distance"] < 1e-7 and found["updates"] == 0
    missing = {"lgn_net": set(), "loc_net": {"E_glo"}, "msn_net": {"E_loc", "cells", "local deconvolution"}}[name]
    assert {*benchmark.PARTS.values(), "other"} - set(profile_parts(work, CPU)) - {"memory"} == missing


def test_plain_training_is_the_same_training(tmp_path):
    config = tiny()
    video = draw_video(tmp_path, config, 8)
    plain, ours = (training(config, video, CPU, 3, plain)[1]() for plain in (True, False))
    assert plain == pytest.approx(ours, rel=1e-4) and len({*ours}) == 3


@pytest.mark.slow
def test_gpu_check_on_the_cpu(tmp_path, quick):
    done = run(gpu_check.main, "--device", "cpu", "--size", "tiny", "--json", tmp_path / "out.json")
    assert done.status == 0, (done.out, done.err)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["scores"]["ok"] and result["losses"]["ok"] and result["scores"]["frames_that_update"] > 0
    assert result["scores"]["float32"]["psnr_db"] < 1e-4 < result["scores"]["bfloat16"]["psnr_db"]
    for check, count in (("training", 4), ("evaluation", 3)):
        assert sum(rate > 0 for name, rate in result[check].items() if name != "check_s") == count


def test_gpu_check_keeps_what_it_has(tmp_path, quick, monkeypatch):
    """A device whose scores are wrong, a check that fails, and a stop in the middle."""
    def off(model, *args):
        signals = [*score_videos(model, *args)]
        return signals if next(calls) < 2 else [*signals[:-1], signals[-1]._replace(psnr=signals[-1].psnr + 2e-3)]

    def losses(*_):
        raise RuntimeError("injected")

    def training(*_):
        raise KeyboardInterrupt

    calls = itertools.count()
    for name, fake in {"score_videos": off, "losses": losses, "training": training}.items():
        monkeypatch.setitem(gpu_check.main.__globals__, name, fake)
    done = run(gpu_check.main, "--device", "cpu", "--size", "tiny", "--json", tmp_path / "out.json")
    assert done.status == 130
    result = json.loads((tmp_path / "out.json").read_text())
    assert not result["scores"]["ok"] and result["scores"]["float32"]["psnr_db"] == pytest.approx(2e-3, rel=0.01)
    assert "RuntimeError" in result["losses"]["error"] and "training" not in result


def test_the_plain_way_convolves_states_of_zeros(tmp_path):
    config = tiny()
    plain, gates, zeros = random_model(config, draw_video(tmp_path, config, 6), CPU), *torch.zeros(2, 1, 28, 4, 4)
    counts = []
    for model, states in ((benchmark.plain_model(plain), [None] * 3), (plain, [zeros[:, :4]] * 3)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.local_branch.cells[0].step(gates, *states)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
