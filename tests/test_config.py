"""Knobs: published defaults, files, command line, and one sentence for whatever does not fit."""

import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from lgn_net.cli import (
    command_parser,
    config_from_dict,
    given,
    knob_parser,
    parse,
    parse_command,
    show_help,
    train_parser,
)
from lgn_net.config import Config, ModelConfig, flatten, to_yaml
from lgn_net.errors import UserError
from lgn_net.training.checkpoint import check_architecture, check_same_run, save_checkpoint

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Published: memory items, lambda_c, lambda_s, lambda, gamma.
PUBLISHED = {"ped2": (10, 10, 5, 0.6, 0.009), "avenue": (10, 10, 2, 0.5, 0.006),
             "shanghaitech": (200, 1, 1, 0.8, 0.0135)}
# lambda_c, lambda_s, batch, lr, lambda, gamma of the relatives; those that are not here have the data set's.
OWN = {"mnad_pred": (0.1, 0.1, 4, 2e-4, 0.6, 0.01), "mnad_recon": (0.01, 0.01, 4, 2e-5, 0.7, 0.015),
       "msn_net": (0.1, 0.1, 8, 2e-4, 0.6, 0.01), "loc_net": (10, 5, 8, 2e-4, 1, 0.009)}
FAMILY = ["glo_net", "lgn_net", "lgn_st", "loc_net", "mnad_pred", "mnad_recon", "msn_net"]


def published_knobs(config):
    return (config.model.memory_items, config.loss.compactness, config.loss.separateness, config.score.psnr_weight,
            config.score.gamma)


def hyper_parameters(config):
    return (config.loss.compactness, config.loss.separateness, config.train.batch_size, config.train.lr,
            config.score.psnr_weight, config.score.gamma)


COMMAND = command_parser("", "x.py")                                    # building a parser takes longer than using it


def from_flags(*argv):
    return parse(knob_parser(), list(argv))[0]


def from_file(path):
    return from_flags("--config", str(path))


def from_command(*argv, parser=COMMAND):
    return parse_command(parser, ["--dataset_path", "DATA", *map(str, argv)])[0]


def refusal(load, *args):
    """The sentence of the UserError that the call must end with."""
    with pytest.raises(UserError) as caught:
        load(*args)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence
    return sentence


@pytest.fixture
def write(tmp_path):
    """Content -> a config file with it."""

    def write(content):
        path = tmp_path / "my settings.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# -------------------------------------------------------------------------------------------------- what is right

def test_defaults_are_the_published_ones_for_ped2():
    config = Config()
    assert from_flags() == config
    assert config.data.dataset == "ped2" and published_knobs(config) == PUBLISHED["ped2"]
    assert (config.data.image_size, config.data.channels, config.data.shuffle) == (256, 3, True)
    assert (config.model.input_frames, config.model.base_width, config.model.hidden_width, config.model.lstm_layers) \
        == (4, 64, 128, 4)
    assert (config.loss.margin, config.train.epochs, config.train.batch_size, config.train.lr) == (1, 60, 8, 2e-4)
    # The switches of docs/differences.md stand as in the authors' code.
    assert not (config.model.read_grad or config.model.concat_query or config.model.fold_time)
    assert (config.model.update_max, config.model.forget_bias, config.model.bn_init) == ("all", 1, "ones")
    assert (config.score.memory_update, config.score.psnr_peak, config.score.normalize, config.score.average) \
        == ("carry", "one", "video", "micro")


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_configs_differ_from_the_defaults_only_in_the_table(dataset):
    config = from_file(CONFIGS / f"{dataset}.yaml")
    assert config.data.dataset == dataset and published_knobs(config) == PUBLISHED[dataset]
    raw, defaults = asdict(config), asdict(Config())
    for section, knob in [("data", "dataset"), ("data", "cache"), ("model", "memory_items"), ("loss", "compactness"),
                          ("loss", "separateness"), ("score", "psnr_weight"), ("score", "gamma")]:
        del raw[section][knob], defaults[section][knob]
    assert raw == defaults


def test_every_config_and_unusual_values_survive_file_and_dict(write):
    unusual = ["--score.memory_update", "frozen", "--train.max_steps", "7", "--train.lr", "1e-05", "--seed", "3",
               "--data.dataset", "01", "--data.shuffle", "false", "--train.keep_epochs", "2", "--train.minutes", ".5"]
    odd = from_flags(*unusual)
    assert (odd.train.lr, odd.data.dataset, odd.train.keep_epochs) == (1e-5, "01", "2")
    for config in [odd, *(from_flags("--config", str(file)) for file in sorted(CONFIGS.glob("*.yaml")))]:
        assert from_flags("--config", str(write(to_yaml(config)))) == config
        assert config_from_dict(asdict(config)) == config


def test_what_counts_more(write):
    """Files in their order, then single flags, wherever these stand; a data set's own file only without others."""
    first, second = str(write("seed: 1\ntrain: {lr: 1e-3, epochs: 5}\nloss: {compactness: 3}")), CONFIGS / "avenue.yaml"
    for argv in (["--train.lr=0.5", f"--config={first}"], ["--config", first, "--train.lr", "0.5"]):
        config = from_command(*argv, "--dataset_type", "avenue")
        assert (config.seed, config.train.lr, config.train.epochs, config.train.batch_size) == (1, 0.5, 5, 8)
        assert config.data.dataset == "avenue" and published_knobs(config) == (10, 3, 5, 0.6, 0.009)
    assert from_command("--config", first, "--config", second).loss.compactness == 10
    assert from_command("--config", second, "--config", first).loss.compactness == 3
    assert published_knobs(from_command("--msize=11", "--lambda", "0.4", "--gamma=0.02", "--loss_compact", "0.1",
                                        "--loss_separate=0.2", "--dataset_type=avenue")) == (11, 0.1, 0.2, 0.4, 0.02)
    assert published_knobs(from_command("--dataset_type", "shanghai")) == PUBLISHED["shanghaitech"]


@pytest.mark.parametrize("name", FAMILY)
def test_name_on_the_command_line_brings_its_file(name):
    file, family = CONFIGS / "ped2.yaml", CONFIGS / f"family/{name}.yaml"
    expected = from_command("--config", file, "--config", family)
    assert expected.model.name == name and expected.model.input_frames == (1 if name == "mnad_recon" else 4)
    assert hyper_parameters(expected) == OWN.get(name, (10, 5, 8, 2e-4, 0.6, 0.009))
    for argv in (["--config", file, "--model.name", name], ["--dataset_type", "ped2", f"--model.name={name}"]):
        assert hyper_parameters(from_command(*argv)) == hyper_parameters(expected)
        assert from_command(*argv).model == expected.model
    config = from_command("--lambda=0.3", "--model.name", name, "--train.lr", 1)             # flags win everywhere
    assert (config.score.psnr_weight, config.train.lr) == (0.3, 1)


def test_the_name_of_a_checkpoint_changes_nothing(tmp_path):
    trained = from_command("--dataset_type", "ped2", "--model.name", "mnad_pred", "--train.lr", 1e-3, "--gamma", 0.02)
    path = tmp_path / "last.pt"
    save_checkpoint(path, trained, {})
    parser = command_parser("", "x.py")
    parser.add_argument("--resume")

    def again(*argv):
        return from_command("--resume", path, *argv, parser=parser)

    assert again() == again("--model.name=mnad_pred", "--dataset_type", "ped2") == trained
    repeated = again("--config", CONFIGS / "ped2.yaml", "--model.name", "mnad_pred", "--train.lr", 1e-3, "--gamma", .02)
    check_same_run(repeated, trained, path)                               # the run's whole command line
    for check in (check_same_run, check_architecture):
        said = refusal(check, again("--model.name", "glo_net"), trained, path)
        assert "model.name is mnad_pred there, glo_net here" in said


def test_words_and_knobs_of_earlier_versions():
    for argv in (["--score.memory_update", "off"], ["--score.memory_update=off"]):
        assert from_command(*argv).score.memory_update == "frozen"
    old = asdict(Config())
    old["model"] |= {"read_temperature": 1.0, "ema": 0.0, "skips": False}
    old["train"] |= {"sync_batch_norm": True}
    old["score"]["memory_update"] = "off"
    for new in ("minutes", "fit_minutes", "keep_epochs", "save_minutes"):
        del old["train"][new]
    assert config_from_dict(old) == from_command("--score.memory_update", "frozen")
    for section, knob, value in (("model", "ema", 0.9), ("model", "skips", True), ("train", "sync_batch_norm", False)):
        assert f"{section}.{knob} is {value}" in refusal(config_from_dict, {section: {knob: value}})
        assert f"--{section}.{knob}" in refusal(from_command, f"--{section}.{knob}", str(value))


def test_flags_of_the_neighbours():
    """Those of MNAD's and LGN-Net's scripts set their knobs."""
    line = ("--batch_size 4 --test_batch_size=2 --epochs 7 --loss_compact 0.1 --loss_separate 0.2 --h 128 "
            "--c 1 --lr 1e-3 --msize 5 --num_workers 0 --alpha 0.7 --th 0.015")
    config = from_command(*line.split())
    assert (config.train.batch_size, config.score.batch_size, config.train.epochs, config.train.lr) == (4, 2, 7, 1e-3)
    assert (config.data.image_size, config.data.channels, config.data.workers) == (128, 1, 0)
    assert published_knobs(config) == (5, 0.1, 0.2, 0.7, 0.015)
    assert given(["--alpha=0.7"], "--score.psnr_weight") and not given(["--th", "1"], "--lambda")


def test_help_is_short_and_help_all_is_not(capsys):
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            show_help(train_parser("Train."), [flag], "data", "model", "loss", "train")
        shown[flag] = set(re.findall(r"^  (--[\w.]+)", capsys.readouterr().out, re.MULTILINE))
    knobs = {f"--{knob}" for knob in flatten(asdict(Config()))}
    assert knobs < shown["--help-all"] and shown["--help"] < shown["--help-all"]
    assert len(shown["--help"] & knobs) < 15 and {"--exp_dir", "--train.lr"} < shown["--help"]


# -------------------------------------------------------------------------------------------------- what is wrong

@pytest.mark.parametrize("argv, words", [
    (["--gpus", "0", "1"], "--device torchrun"), (["--method", "pred"], "--model.name mnad_pred"),
    (["--t_length", "5"], "--model.input_frames"), (["--fdim", "512"], "--model.base_width"),
    (["--mdim", "512"], "--model.base_width"), (["--num_workers_test", "1"], "out"),
    (["--checkpoint_path", "x"], "--exp_dir"), (["--checkpoint", "x"], "--exp_dir --resume --init_from"),
    (["--model_dir", "x"], "scripts/import_official.py --init_from"), (["--m_items_dir", "x"], "--init_from"),
    (["--exp_dir", "log"], "--checkpoint --out"), (["--h", "240", "--w", "360"], "--data.image_size"),
    (["--workers", "2"], "--data.workers"), (["--batch-size", "2"], "--train.batch_size --score.batch_size"),
    (["--train.memory_item", "2"], "--model.memory_items"), (["--data.image_siz=8"], "--data.image_size"),
    (["--precision", "tf32"], "--train.precision --score.precision")], ids=str)
def test_what_to_give_in_place_of_a_flag(argv, words):
    said = refusal(from_command, *argv)
    assert "no flag of" in said and all(word in said for word in words.split()), said


@pytest.mark.parametrize("name", ["foo", "data.image_siz", "dat.image_size"])
def test_unknown_names(name, write):
    section, _, knob = name.rpartition(".")
    said = section if section == "dat" else knob
    assert said in refusal(from_file, write(f"{section}: {{{knob}: 8}}" if section else f"{knob}: 8"))
    assert said in refusal(config_from_dict, {section: {knob: 8}} if section else {knob: 8})
    assert f"--{name}" in refusal(from_command, f"--{name}=8")


@pytest.mark.parametrize("argv, word", [
    (["--dataset_typ", "1"], "--dataset_typ"), (["--lambda"], "psnr_weight"), (["--lambda", "2"], "psnr_weight"),
    (["--msize", "1.5"], "memory_items"), (["stray"], "stray"), (["--dataset_type"], "data"),
    (["--dataset_type", "mine"], "mine"), (["--config", "none.yaml"], "none.yaml"),
    (["--train.lr", "x"], "train.lr")], ids=str)
def test_bad_command_lines(argv, word):
    assert word in refusal(from_command, *argv)


@pytest.mark.parametrize(("knob", "value"), [
    ("data.image_size", "64.5"), ("data.image_size", "60"), ("data.image_size", "8"), ("data.shuffle", "1"),
    ("data.channels", "2"), ("data.workers", "-1"), ("model.input_frames", "0"), ("model.memory_items", "1"),
    ("loss.compactness", "true"), ("loss.compactness", "-1"), ("loss.margin", ".nan"), ("train.lr", "fast"),
    ("train.lr", "0"), ("train.lr", ".inf"), ("train.lr", "null"), ("train.epochs", "0"), ("train.max_steps", "0"),
    ("train.minutes", "0"), ("train.keep_epochs", "some"), ("train.precision", "float16"),
    ("score.psnr_weight", "1.01"), ("score.gamma", "-1e-9"), ("score.gamma", ".nan"),
    ("score.memory_update", "never"), ("seed", str(2**70))])
def test_wrong_values(knob, value, write):
    section, _, name = knob.rpartition(".")
    file = write(f"{section}: {{{name}: {value}}}" if section else f"{knob}: {value}")
    assert knob in refusal(from_file, file)
    assert value == "null" or knob in refusal(from_flags, f"--{knob}={value}")


def test_networks_that_are_not_defined():
    for knobs, named in (({"name": "mnad_recon"}, "input_frames"), ({"name": "msn_net", "memory": False}, "memory")):
        assert named in refusal(lambda knobs=knobs: Config(model=ModelConfig(**knobs)))


@pytest.mark.parametrize("content", ["", "data: {image_size: 64", "\tseed: 1", "- seed", "seed: 1\n---\nseed: 2",
                                     "seed: !!python/object/apply:os.getcwd []", "data: Straße".encode("latin1"),
                                     "data: 3", "data: []", "data: ped2", "data: "], ids=repr)
def test_files_that_are_no_config_are_a_sentence(content, write):
    refusal(from_file, write(content))


@pytest.mark.parametrize("text", [
    "train: {lr: " + "9" * 5000 + "}", "train: {epochs: 1e400}", "train: {lr: .nan}", "train: {epochs: 2020-01-01}",
    "train: {epochs: [1, 2]}", "train: {epochs: 99999999999}", "train: " + "[" * 5000, "- " * 3000 + "x", "\0",
    "a: &a [x, x]\n" + "".join(f"b{k}: &a [*a, *a]\n" for k in range(40)), "train: !!python/tuple [1]"])
def test_text_that_is_not_what_it_seems(tmp_path, text):
    """One sentence, soon."""
    (tmp_path / "c.yaml").write_text(text)
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse(knob_parser(), [f"--config={tmp_path / 'c.yaml'}"])
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value) and time.monotonic() - begun < 5
