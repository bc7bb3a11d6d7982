"""The authors' checkpoint pair, imported: the same network, the same training."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import load_script, random_official_state, run
from reference import authors_training_steps, lgn_net, mnad_pred, mnad_recon, official_name
from torch import nn
from torch.testing import assert_close

from lgn_net.config import Config, LossConfig
from lgn_net.errors import UserError
from lgn_net.model.build import build_model
from lgn_net.model.losses import compute_losses
from lgn_net.official import SYSTEMS, import_official
from lgn_net.training.checkpoint import load_checkpoint

NAMES = Path(__file__).parents[2] / "shared" / "official_state_dict.json"
SIZES = {"lgn_net": {"width": 4, "hidden": 6, "layers": 2, "n": 4, "channels": 3, "items": 5},
         "mnad_pred": {"width": 4, "n": 4, "channels": 3, "items": 5},
         "mnad_recon": {"width": 4, "n": 1, "channels": 3, "items": 5}}
OURS = {"width": "base_width", "hidden": "hidden_width", "layers": "lstm_layers", "n": "input_frames",
        "channels": "channels", "items": "memory_items"}
OWN = {"lgn_net": (0.6, 0.009), "mnad_pred": (0.6, 0.01), "mnad_recon": (0.7, 0.015)}       # lambda, gamma
SLOW = {"lgn_net": lgn_net, "mnad_pred": mnad_pred, "mnad_recon": mnad_recon}


@pytest.fixture
def pair(tmp_path):
    """Writes (state, items) as the authors do and returns both paths."""
    def write(state, items):
        torch.save(state, tmp_path / "60model.pth")
        torch.save(items, tmp_path / "60keys.pt")
        return tmp_path / "60model.pth", tmp_path / "60keys.pt"
    return write


def imported(paths):
    """The network with every weight."""
    config, state = import_official(Config(), *paths)
    model = build_model(config)
    model.load_state_dict(state)                                          # strict: every name, every shape
    return model


def random_clips(B, T, H=16, W=24, channels=3, seed=0):
    """Noise of another contrast in every frame: (B, T, C, H, W) in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(B, T, 1, 1, 1, generator=rng) * (2 * torch.rand(B, T, channels, H, W, generator=rng) - 1)


@pytest.mark.parametrize("system, there", [("lgn_net", "lgn"), ("mnad_pred", "mnad_pred"),
                                           ("mnad_recon", "mnad_recon")])
def test_published_names_and_shapes(system, there):
    if not NAMES.exists():
        pytest.skip("needs ../shared/official_state_dict.json")
    state, _ = random_official_state(0, system=system, n=SIZES[system]["n"])
    assert {name: list(tensor.shape) for name, tensor in state.items()} == json.loads(NAMES.read_text())[there]


@pytest.mark.parametrize("system, change", [
    ("lgn_net", {"n": 2, "channels": 1, "layers": 1}), ("lgn_net", {"n": 5, "width": 3, "hidden": 8, "items": 20}),
    ("mnad_pred", {}), ("mnad_pred", {"n": 1, "channels": 1, "width": 3}), ("mnad_recon", {}),
    ("mnad_recon", {"channels": 1, "width": 6, "items": 2})], ids=str)
def test_every_tensor_arrives_and_every_size_is_inferred(pair, system, change):
    wanted = SIZES[system] | change
    state, items = random_official_state(3, **wanted, system=system)
    paths = pair(state, items)
    config, ours = import_official(Config(), *paths)
    found = asdict(config.model) | asdict(config.data)
    assert found["name"] == system and {name: found[OURS[name]] for name in wanted} == wanted
    assert torch.equal(ours["memory.items"], items)
    for prefix, wrap in (("module.", dict), ("model.module.", lambda x: {"epoch": 3, "state_dict": x}),  # as others do
                         ("", lambda x: {"network": {"ema": x}, "m_items": items})):
        torch.save({"keys": items}, paths[1])
        torch.save(wrap({f"{prefix}{name}": value for name, value in state.items()}), paths[0])
        assert import_official(Config(), *paths)[0] == config
    arrived = {official_name(name): tensor for name, tensor in ours.items() if name != "memory.items"}
    assert set(state) - set(arrived) == {name for name in state if name.startswith("encoder.moduleBatchNorm.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in arrived.items())
    clip = random_clips(1, wanted["n"], channels=wanted["channels"])
    out, (prediction, queries) = imported(paths).eval()(clip), SLOW[system](state, [items], clip, False)
    assert_close(out.prediction, prediction, atol=1e-5, rtol=1e-5)
    assert_close([lookup.queries for lookup in out.lookups], queries, atol=1e-5, rtol=1e-5)


def test_three_training_steps(pair):
    state, items = random_official_state(0, **SIZES["lgn_net"])
    model = imported(pair(state, items)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    batches = [random_clips(2, 5, H=32, W=32, seed=seed) for seed in range(3)]
    expected = authors_training_steps(state, items, batches, lr=2e-4, lambda_c=10, lambda_s=5)
    for batch, wanted, tolerance in zip(batches, expected, (1e-5, 1e-4, 2e-3), strict=True):
        out = model(batch[:, :-1])
        losses = compute_losses(out, batch[:, -1], model.memories, LossConfig())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        model.memory.update_(out.lookups[0])
        assert [loss.item() for loss in losses] == pytest.approx(list(wanted), rel=tolerance)
    assert_close(model.memory.items, items, atol=1e-5, rtol=0)
    for name, tensor in model.state_dict().items():       # where the gradient is rounding, Adam still steps by +-lr
        if name != "memory.items":
            assert_close(tensor, state[official_name(name)], atol=2e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pair_brings_its_hyper_parameters(pair, tmp_path, system):
    paths = pair(*random_official_state(0, **SIZES[system], system=system))
    said = run(load_script("scripts/import_official.py").main, *paths, "--out", tmp_path / "own.pt")
    assert said.status == 0 and SYSTEMS[system] in said.out, said
    own, _ = load_checkpoint(tmp_path / "own.pt")
    assert own.model.name == system and (own.score.psnr_weight, own.score.gamma) == OWN[system]


@pytest.mark.parametrize("system, spoil, named", [
    ("lgn_net", lambda state: state.pop("decoder.moduleUpsample3.0.bias"), "moduleUpsample3.0.bias is missing"),
    ("lgn_net", lambda state: state.pop("encoder.moduleConv1.0.weight"), "encoder.moduleConv1.0.weight is missing"),
    ("mnad_pred", lambda state: state.update({"decoder.a.weight": torch.zeros(1)}), "decoder.a.weight is unknown"),
    ("mnad_pred", lambda state: state.update({"decoder.moduleDeconv3.3.weight": torch.zeros(16, 32, 3, 3)}),
     "decoder.moduleDeconv3.3.weight is (16, 32, 3, 3)"),
    ("mnad_pred", lambda state: state.update({"st_decoder.0.weight": torch.zeros(1)}), "pred.")])
def test_weights_that_do_not_fit(pair, system, spoil, named):
    state, items = random_official_state(0, **SIZES[system], system=system)
    spoil(state)
    with pytest.raises(UserError, match="60model.pth") as caught:
        import_official(Config(), *pair(state, items))
    assert named in str(caught.value)


def test_files_that_are_missing_swapped_old_or_broken(pair):
    state, items = random_official_state(0, **SIZES["lgn_net"])
    paths = pair(state, items)
    for wrong in (paths[1], paths[0]), (paths[0], None):
        with pytest.raises(UserError, match="keys.pt"):
            import_official(Config(), *wrong)
    with pytest.raises(UserError, match="keys.pt"):
        import_official(Config(), *pair(state, items[:, :16].clone()))
    for content, path in zip((state, items), paths, strict=True):
        torch.save(content, path, _use_new_zipfile_serialization=False)       # as PyTorch 1.1 wrote them
    assert_close(imported(paths).memory.items, items)
    whole = paths[0].read_bytes()
    for broken, word in ((whole[:len(whole) // 2], "damaged"), (b"\n<!DOCTYPE html><title>404</title>", "web page"),
                         (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull")):
        paths[0].write_bytes(broken)
        with pytest.raises(UserError, match=f"60model.pth.*{word}"):
            import_official(Config(), *paths)
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 3)), paths[0])
    with pytest.raises(UserError, match="60model.pth.*pickled"):              # as MNAD publishes its models
        import_official(Config(), *paths)
