"""Benchmarks: the ways do the same work, what is counted is right, and the figures fit together."""

import itertools
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import TINY, load_script, run, sentence, shell, write_videos
from torch import nn

from lgn_net import benchmark
from lgn_net.benchmark import (
    Evaluation,
    Training,
    difference,
    draw_video,
    flops,
    interleave,
    plain_model,
    profile_parts,
    random_model,
)
from lgn_net.config import config_from_dict, with_knobs
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
    """Convolve no large tensors."""
    monkeypatch.setattr(benchmark, "conv_rate", lambda *_: 2e9)
    for module in (main.__globals__, gpu_check.main.__globals__):
        monkeypatch.setitem(module, "conv_rate", lambda *_: 2e9)


def tiny(name="lgn_net", **knobs):
    """A tiny configuration of a system."""
    model = {"name": name, "base_width": 4, "hidden_width": 4, "lstm_layers": 2, "memory_items": 5}
    config = config_from_dict({"data": {"image_size": 16, "channels": 1}, "model": model, "train": {"batch_size": 2}})
    return with_knobs(config, {"score.batch_size": 2, **knobs})


@pytest.mark.parametrize("drawn, what, ways, parts", [
    (True, ["evaluate", "--frames", 5], ["plain", "float32", "bfloat16"], {"other"}),
    (False, ["evaluate", "--frames", 6, "--precisions", "float32"], ["plain", "float32"], {"other"}),
    (False, ["train", "--steps", 1, "--modes", "bfloat16+checkpoint_activations"],
     ["plain", "bfloat16+checkpoint_activations"], {"optimizer", "losses, backward"}),
    (True, ["gamma", "--frames", 5], ["one gamma", "ten gammas"], set()),
    (False, ["data", "--batches", 2], ["decoded", "decoded, 2 workers", "packed"], set()),
])
def test_commands(data, tmp_path, quick, drawn, what, ways, parts):
    where = () if drawn else ("--dataset_path", data)
    done = run(main, *what, *where, "--config", data / "tiny.yaml", "--repeats", 2, "--json", tmp_path / "out.json")
    assert done.status == 0, done.err
    result = json.loads((tmp_path / "out.json").read_text())
    table = result["ways"]
    assert list(table) == ways and result["dataset"] == ("noise" if drawn else "made")
    assert all(way in done.out for way in ways) and result["machine"]["processor"] in done.out
    for figures in table.values():
        rate, *_ = figures.values()
        assert rate * figures["s"] == pytest.approx(1) and figures["CPU s"] > 0
        assert figures["ratio min"] <= figures["ratio"] <= figures["ratio max"]
        if "GFLOP" in figures:
            assert figures["reached"] == pytest.approx(figures["GFLOP"] / 2 / figures["s"])
    assert table[ways[0]]["ratio min"] == table[ways[0]]["ratio max"] == 1
    for found in result.get("parts_s", {}).values():
        assert set(found) == {"E_loc", "cells", "local deconvolution", "E_glo", "memory", "decoder"} | parts
        assert all(seconds > 0 for seconds in found.values())
    if what[0] == "evaluate":
        assert result["frames"] == 6 and 0 < result["updates"] < 18           # whole batches, three rounds
        assert table["float32"]["GFLOP"] < table["plain"]["GFLOP"]
        exact = result["agreement"]["float32"]
        assert exact["psnr_db"] < 1e-4 and exact["distance"] < 1e-7 and exact["updates"] == 0
        assert not drawn or exact["psnr_db"] < result["agreement"]["bfloat16"]["psnr_db"]


@pytest.mark.parametrize("name", ["lgn_net", "lgn_st", "loc_net", "mnad_pred", "msn_net"])
def test_ways_score_as_the_evaluation_does(tmp_path, name):
    config = tiny(name)
    video = draw_video(tmp_path, config, 10)
    model = random_model(config, video, CPU)
    frozen = score_videos(model, [video], with_knobs(config, {"score.memory_update": "frozen"}), CPU)
    ordered = sorted(s.regular_score for s in frozen)
    config = with_knobs(config, {"score.gamma": (ordered[2] + ordered[3]) / 2})
    truth = score_videos(model, [video], config, CPU)
    assert name == "loc_net" or any(s.memory_updated for s in truth)
    for plain in (True, False):
        work = Evaluation(model, video, config, CPU, plain)
        found = difference([*work.run(4), *work.run(2)], truth)
        assert found["psnr_db"] < 1e-4 and found["distance"] < 1e-7 and found["updates"] == 0


def test_plain_training_is_the_same_training(tmp_path):
    config = tiny()
    video = draw_video(tmp_path, config, 8)
    plain, ours = (Training(config, video, CPU, plain).run(3) for plain in (True, False))
    assert plain == pytest.approx(ours, rel=1e-4) and len({*ours}) == 3


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


def test_operations_are_those_counted_by_hand(tmp_path):
    config = tiny(**{"score.gamma": 2.0, "model.lstm_layers": 1, "score.batch_size": 1})      # every frame updates
    video = draw_video(tmp_path, config, 8)
    model = random_model(config, video, CPU)
    products = 3 * 2 * (2 * 2) * 5 * 32                        # similarity, read, update (2 h w) M D
    truth = by_hand(plain_model(model), torch.zeros(1, 4, 1, 16, 16)) + products
    assert flops(partial(Evaluation(model, video, config, CPU, plain=True).run, 1)) == truth

    streaming = Evaluation(model, video, config, CPU)
    streaming.run(1)
    of_frame = 2 * 9 * (8 * 8 * (1 * 4 + 4 * 4) + 4 * 4 * (4 * 8 + 8 * 8)) + 2 * 16 * 9 * 8 * 7 * 4      # E_loc, conv_x
    zeros = 2 * 16 * 9 * 4 * (4 + 3) * 4                       # conv_h and conv_m of the first time step
    assert flops(partial(streaming.run, 1)) == truth - 3 * of_frame - zeros


def test_ways_take_turns():
    calls = []
    timings = interleave({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 3)
    assert "".join(calls) == "abababab" and timings["b"].results == [2, 4, 6, 8]
    assert all(len(t.seconds) == len(t.cpu_seconds) == 3 for t in timings.values())


@pytest.mark.parametrize("name, missing", [("lgn_net", set()), ("loc_net", {"E_glo", "memory"}),
                                           ("msn_net", {"E_loc", "cells", "local deconvolution"})])
def test_parts_are_those_of_the_network(tmp_path, name, missing):
    config = tiny(name)
    video = draw_video(tmp_path, config, 8)
    work = Evaluation(random_model(config, video, CPU), video, config, CPU)
    parts = profile_parts(work.model, partial(work.run, 2), CPU, "other")
    # LocNet has no queries to look up, but is asked.
    assert {*benchmark.PARTS.values(), "other"} - set(parts) in (missing, missing - {"memory"})


@pytest.mark.parametrize("argv, word", [
    (["speed"], "evaluate"),
    (["evaluate", "--frames", 11], "14"),
    (["evaluate", "--precisions", "float8"], "float8"),
    (["train", "--modes", "float32+wings"], "float32+wings"),
    (["gamma", "--score.precison", "float32"], "precision"),
])
def test_mistakes_end_in_a_sentence(data, argv, word):
    assert word in sentence(run(main, *argv, "--dataset_path", data, "--config", data / "tiny.yaml"))


def test_gpu_check_on_the_cpu(tmp_path, quick, monkeypatch):
    monkeypatch.setitem(gpu_check.main.__globals__, "STEPS", 1)
    done = run(gpu_check.main, "--device", "cpu", "--size", "tiny", "--json", tmp_path / "out.json")
    assert done.status == 0, (done.out, done.err)
    result = json.loads((tmp_path / "out.json").read_text())
    assert set(result) == {"size", "machine", "memory", "convolution", "scores", "losses", "training", "evaluation",
                           "device_tests"}
    assert result["scores"]["ok"] and result["losses"]["ok"] and result["scores"]["frames_that_update"] > 0
    assert result["scores"]["float32"]["psnr_db"] < 1e-4 < result["scores"]["bfloat16"]["psnr_db"]
    for check, count in (("training", 4), ("evaluation", 3)):
        assert [rate["per_s"] > 0 for rate in result[check].values() if isinstance(rate, dict)] == [True] * count


def test_gpu_check_keeps_what_it_has(tmp_path, quick, monkeypatch):
    """A device whose scores are wrong, a check that fails, and a stop in the middle."""
    def off(model, *args):
        signals = score_videos(model, *args)
        return signals if next(calls) < 2 else [*signals[:-1], signals[-1]._replace(psnr=signals[-1].psnr + 2e-3)]

    calls = itertools.count()
    fakes = {"score_videos": off, "losses": raising(RuntimeError), "training": raising(KeyboardInterrupt)}
    for name, fake in fakes.items():
        monkeypatch.setitem(gpu_check.main.__globals__, name, fake)
    done = run(gpu_check.main, "--device", "cpu", "--size", "tiny", "--json", tmp_path / "out.json")
    assert done.status == 130
    result = json.loads((tmp_path / "out.json").read_text())
    assert not result["scores"]["ok"] and result["scores"]["float32"]["psnr_db"] == pytest.approx(2e-3, rel=0.01)
    assert "RuntimeError" in result["losses"]["error"] and "training" not in result


def raising(error):
    """A check that raises an error."""
    def losses(*_):
        raise error("injected")

    return losses


OPTIONAL = """
import runpy, sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("av", "plotly", "lpips", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["scripts/gpu_check.py", "train.py", "evaluate.py"])
def test_optional_packages_are_not_imported(tmp_path, command):
    Path(tmp_path / "without.py").write_text(OPTIONAL)
    done = shell(tmp_path / "without.py", command, "--help")
    assert done.status == 0, done.err
