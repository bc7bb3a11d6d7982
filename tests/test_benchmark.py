"""Benchmarks: the ways do the same work, what is counted is right, and the figures fit together."""

import json

import benchmark
import pytest
import torch
from benchmark import difference, draw_video, evaluation, profile_parts, random_model, training
from helpers import TINY, load_script, run, write_videos
from torch.utils.flop_counter import FlopCounterMode

from lgn_net.cli import config_from_dict
from lgn_net.config import with_knobs
from lgn_net.inference.loop import score_videos

CPU = torch.device("cpu")
gpu_check = load_script("scripts/gpu_check.py")


def tiny(name="lgn_net"):
    """A tiny configuration of a system."""
    model = {"name": name, "base_width": 4, "hidden_width": 4, "lstm_layers": 2, "memory_items": 5}
    return config_from_dict({"data": {"image_size": 16, "channels": 1}, "model": model, "train": {"batch_size": 2},
                             "score": {"batch_size": 2}})


@pytest.mark.parametrize("what, ways", [
    pytest.param(["evaluate", "--frames", 6], ["plain", "float32", "bfloat16"], marks=pytest.mark.slow),
    pytest.param(["train", "--precisions", "bfloat16"], ["plain", "bfloat16"], marks=pytest.mark.slow),
    pytest.param(["gamma", "--frames", 5], ["one gamma", "ten gammas"], marks=pytest.mark.slow),
    (["data"], ["decoded", "packed", "decoded, 2 workers"]),
], ids=lambda value: value[0])
def test_commands(tmp_path, what, ways):
    for split, lengths in (("training", [8, 7]), ("testing", [9, 14])):
        write_videos(tmp_path / "made" / split / "frames", lengths)
    (tmp_path / "tiny.yaml").write_text(TINY + "score: {batch_size: 2}\n")
    where = [] if what[0] == "evaluate" else ["--dataset_path", tmp_path]
    done = run(benchmark.main, *what, *where, "--config", tmp_path / "tiny.yaml", "--repeats", 2, "--json",
               tmp_path / "out.json")
    assert done.status == 0, done.err
    result = json.loads((tmp_path / "out.json").read_text())
    assert [*result["ways"]] == ways and all(word in done.out for word in [*ways, result["machine"]["processor"]])
    for figures in result["ways"].values():
        assert figures["1/s"] * figures["s"] == pytest.approx(1)
        assert figures["ratio min"] <= figures["ratio"] <= figures["ratio max"]
    for found in result.get("ms", {}).values():
        assert {*found} - {"optimizer"} == {*benchmark.PARTS.values(), "other"} and min(found.values()) > 0


@pytest.mark.parametrize("name", ["lgn_net", "loc_net"])
def test_ways_score_as_the_evaluation_does(tmp_path, name):
    """Then the parts are those of the network. LocNet has no queries to look up, but is asked."""
    config, video = tiny(name), draw_video(tmp_path, tiny(name), 10)
    model = random_model(config, video, CPU)
    R = sorted(s.regular_score for s in score_videos(model, [video], config, CPU))
    config = with_knobs(config, {"score.gamma": (R[2] + R[3]) / 2})
    truth = [*score_videos(model, [video], config, CPU)]
    assert name == "loc_net" or any(s.memory_updated for s in truth)
    for plain in (True, False):
        work = evaluation(model, video, config, CPU, plain)
        for _ in range(2):
            found = difference(work[1](), truth)
            assert found["psnr_db"] < 1e-4 and found["distance"] < 1e-7 and found["updates"] == 0
    missing = {*benchmark.PARTS.values(), "other"} - {*profile_parts(work, CPU)} - {"memory"}
    assert missing == ({"E_glo"} if name == "loc_net" else set())
    assert difference([truth[0]._replace(psnr=0.0), *truth[1:]], truth)["psnr_db"] == truth[0].psnr


def test_the_plain_way(tmp_path):
    """It trains as ours does, and convolves states of zeros."""
    config, video = tiny(), draw_video(tmp_path, tiny(), 8)
    plain, ours = (training(config, video, CPU, 3, plain)[1]() for plain in (True, False))
    assert plain == pytest.approx(ours, rel=1e-4) and len({*ours}) == 3
    model, gates, zeros = random_model(config, video, CPU), *torch.zeros(2, 1, 28, 4, 4)
    counts = []
    for one, states in ((benchmark.plain_model(model), [None] * 3), (model, [zeros[:, :4]] * 3)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            one.local_branch.cells[0].step(gates, *states)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_gpu_check_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_check.main.__globals__, "conv_rate", lambda *_: 2e9)
    monkeypatch.setitem(gpu_check.main.__globals__, "ROUNDS", 1)
    done = run(gpu_check.main, "--device", "cpu", "--size", "tiny", "--json", tmp_path / "out.json")
    assert done.status == 0, (done.out, done.err)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["scores"]["ok"] and result["losses"]["ok"] and result["scores"]["frames_that_update"] > 0
    assert result["scores"]["float32"]["psnr_db"] < 1e-4 < result["scores"]["bfloat16"]["psnr_db"]
    for check in ("training", "evaluation"):
        assert sum(x > 0 for name, x in result[check].items() if name not in ("check_s", "ok", "graph_psnr_db")) == 4
