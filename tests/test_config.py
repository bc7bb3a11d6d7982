"""Knobs: published defaults, files, command line, and one sentence for whatever does not fit."""

from dataclasses import asdict

import pytest
from helpers import ROOT, refusal

from lgn_net.cli import command_parser, config_from_dict, parse_command
from lgn_net.config import Config, flatten, to_yaml
from lgn_net.training.checkpoint import check_network, save_checkpoint

CONFIGS = ROOT / "configs"
# Published: memory items, lambda_c, lambda_s, batch, learning rate, lambda, gamma; and those of the relatives on Ped2.
PUBLISHED = {"ped2": (10, 10, 5, 8, 2e-4, 0.6, 0.009), "avenue": (10, 10, 2, 8, 2e-4, 0.5, 0.006),
             "shanghaitech": (200, 1, 1, 8, 2e-4, 0.8, 0.0135)}
FAMILY = dict.fromkeys(["lgn_net", "lgn_st", "glo_net"], PUBLISHED["ped2"]) | {
    "mnad_pred": (10, 0.1, 0.1, 4, 2e-4, 0.6, 0.01), "mnad_recon": (10, 0.01, 0.01, 4, 2e-5, 0.7, 0.015),
    "msn_net": (10, 0.1, 0.1, 8, 2e-4, 0.6, 0.01), "loc_net": (10, 10, 5, 8, 2e-4, 1, 0.009)}
COMMAND = command_parser("", "x.py")                                    # building a parser takes longer than using it


def published_knobs(config):
    return (config.model.memory_items, config.loss.compactness, config.loss.separateness, config.train.batch_size,
            config.train.lr, config.score.psnr_weight, config.score.gamma)


def read(*argv, parser=COMMAND):
    """The configuration of a command line."""
    return parse_command(parser, ["--dataset_path", "DATA", *map(str, argv)])[0]


def write(folder, content):
    """A config file with this content."""
    (folder / "my settings.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "my settings.yaml"


def test_defaults_are_the_published_ones_for_ped2():
    config = Config()
    assert read() == config
    assert config.data.dataset == "ped2" and published_knobs(config) == PUBLISHED["ped2"]
    assert (config.data.image_size, config.data.channels, config.data.shuffle) == (256, 3, True)
    assert (config.model.input_frames, config.model.base_width, config.model.hidden_width, config.model.lstm_layers) \
        == (4, 64, 128, 4)
    assert (config.loss.margin, config.train.epochs) == (1, 60)
    # The switches of docs/differences.md stand as in the authors' code.
    assert not (config.model.read_grad or config.model.concat_query or config.model.fold_time)
    assert (config.model.update_max, config.model.forget_bias, config.model.bn_init) == ("all", 1, "ones")
    assert (config.score.memory_update, config.score.psnr_peak, config.score.normalize, config.score.average) \
        == ("carry", "one", "video", "micro")


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_configs_differ_from_the_defaults_only_in_the_table(dataset):
    config = read("--config", CONFIGS / f"{dataset}.yaml")
    assert read("--dataset_type", dataset) == config
    assert config.data.dataset == dataset and published_knobs(config) == PUBLISHED[dataset]
    ours, defaults = flatten(asdict(config)), flatten(asdict(Config()))
    assert {knob for knob in ours if ours[knob] != defaults[knob]} <= {
        "data.dataset", "data.cache", "model.memory_items", "loss.compactness", "loss.separateness",
        "score.psnr_weight", "score.gamma"}


def test_every_config_and_unusual_values_survive_file_and_dict(tmp_path):
    odd = read("--score.memory_update", "frozen", "--train.max_steps", 7, "--train.lr", "1e-05", "--seed", 3,
               "--data.shuffle", "false", "--train.keep_epochs", 2, "--train.minutes", ".5")
    assert (odd.train.lr, odd.train.keep_epochs) == (1e-5, "2")
    for config in [odd, *(read("--config", file) for file in CONFIGS.glob("*.yaml"))]:
        assert read("--config", write(tmp_path, to_yaml(config))) == config == config_from_dict(asdict(config))


def test_what_counts_more(tmp_path):
    """Files in their order, then single flags, wherever these stand; a data set's own file only without others."""
    first = write(tmp_path, "seed: 1\ntrain: {lr: 1e-3, epochs: 5}\nloss: {compactness: 3}")
    second = CONFIGS / "avenue.yaml"
    for argv in (["--train.lr=0.5", f"--config={first}"], ["--config", first, "--train.lr", "0.5"]):
        config = read(*argv, "--dataset_type", "avenue")
        assert (config.seed, config.train.epochs, config.data.dataset) == (1, 5, "avenue")
        assert published_knobs(config) == (10, 3, 5, 8, 0.5, 0.6, 0.009)
    assert read("--config", first, "--config", second).loss.compactness == 10
    assert read("--config", second, "--config", first).loss.compactness == 3
    assert published_knobs(read("--lambda=0.3", "--model.name", "mnad_recon", "--train.lr", 1))[4:6] == (1, 0.3)


@pytest.mark.parametrize("name", FAMILY)
def test_name_on_the_command_line_brings_its_file(name):
    file, family = CONFIGS / "ped2.yaml", CONFIGS / f"family/{name}.yaml"
    expected = read("--config", file, "--config", family)
    assert expected.model.name == name and expected.model.input_frames == (1 if name == "mnad_recon" else 4)
    assert published_knobs(expected) == FAMILY[name]
    for argv in (["--config", file, "--model.name", name], ["--dataset_type", "ped2", f"--model.name={name}"]):
        config = read(*argv)
        assert published_knobs(config) == FAMILY[name] and config.model == expected.model


def test_the_name_of_a_checkpoint_changes_nothing(tmp_path):
    trained = read("--dataset_type", "ped2", "--model.name", "mnad_pred", "--train.lr", 1e-3, "--gamma", 0.02)
    path = tmp_path / "last.pt"
    save_checkpoint(path, trained, {})
    parser = command_parser("", "x.py")
    parser.add_argument("--resume")
    assert read("--resume", path, parser=parser) == trained
    assert read("--resume", path, "--model.name=mnad_pred", "--dataset_type", "ped2", parser=parser) == trained
    repeated = read("--resume", path, "--config", CONFIGS / "ped2.yaml", "--model.name", "mnad_pred", "--train.lr",
                    1e-3, "--gamma", 0.02, parser=parser)
    check_network(repeated, trained, path, same_run=True)                 # the run's whole command line
    for argv, word in ((["--model.name", "glo_net"], "model.name is mnad_pred there, glo_net here"),
                       (["--train.lr", 1], "train.lr is 0.001 there, 1.0 here")):
        said = refusal(check_network, read("--resume", path, *argv, parser=parser), trained, path, True)
        assert word in said


def test_words_and_knobs_of_earlier_versions():
    old = asdict(Config())
    old["score"]["memory_update"], old["model"]["ema"] = "off", 0.0
    del old["train"]["minutes"]
    for config in (config_from_dict(old), read("--score.memory_update", "off")):
        assert config == read("--score.memory_update", "frozen")
    assert "model.ema is 0.9" in refusal(config_from_dict, {"model": {"ema": 0.9}})


def test_flags_of_the_neighbours():
    """Those of MNAD's and LGN-Net's scripts set their knobs."""
    line = ("--batch_size 4 --test_batch_size=2 --epochs 7 --loss_compact 0.1 --loss_separate 0.2 --h 128 "
            "--c 1 --lr 1e-3 --msize 5 --num_workers 0 --alpha 0.7 --th 0.015 --dataset_type shanghai")
    config = read(*line.split())
    assert published_knobs(config) == (5, 0.1, 0.2, 4, 1e-3, 0.7, 0.015)
    assert (config.score.batch_size, config.train.epochs) == (2, 7)
    assert (config.data.image_size, config.data.channels, config.data.workers) == (128, 1, 0)


@pytest.mark.parametrize("argv, words", [
    # Flags that are not there, and what to give in their place.
    ("--gpus 0 1", "--device torchrun"), ("--method pred", "--model.name mnad_pred"),
    ("--checkpoint x", "--exp_dir --resume --init_from"), ("--h 240 --w 360", "--data.image_size"),
    ("--workers 2", "--data.workers"), ("--batch-size 2", "--train.batch_size --score.batch_size"),
    ("--train.memory_item 2", "--model.memory_items"), ("--dat.image_size=8", "--data.image_size"),
    # Values that are missing or wrong.
    ("--lambda", "psnr_weight"), ("--lambda 2", "psnr_weight"), ("--msize 1.5", "memory_items"), ("stray", "stray"),
    ("--dataset_type", "data"), ("--dataset_type mine", "mine"), ("--config none.yaml", "none.yaml"),
    ("--model.name mnad_recon --model.input_frames 4", "input_frames"),
    ("--model.name msn_net --model.memory false", "memory")])
def test_bad_command_lines(argv, words):
    said = refusal(read, *argv.split())
    assert all(word in said for word in words.split()), said


@pytest.mark.parametrize(("knob", "value"), [
    ("foo", "8"), ("data.image_siz", "8"), ("data.image_size", "64.5"), ("data.image_size", "60"),
    ("data.image_size", "8"), ("data.shuffle", "1"), ("data.channels", "2"), ("data.workers", "-1"),
    ("model.input_frames", "0"), ("model.memory_items", "1"), ("loss.compactness", "true"), ("loss.compactness", "-1"),
    ("loss.margin", ".nan"), ("train.lr", "fast"), ("train.lr", "0"), ("train.lr", ".inf"), ("train.lr", "null"),
    ("train.epochs", "0"), ("train.max_steps", "0"), ("train.minutes", "0"), ("train.keep_epochs", "some"),
    ("train.precision", "float16"), ("score.psnr_weight", "1.01"), ("score.gamma", "-1e-9"), ("score.gamma", ".nan"),
    ("score.memory_update", "never"), ("seed", str(2**70)),
    ("train.keep_epochs", f"'{10**20}'"), ("train.epochs", str(2**31)),
    *((knob, str(2**31 - 8)) for knob in ("data.image_size", "data.workers", "model.base_width", "model.hidden_width",
                                          "model.lstm_layers", "model.memory_items"))])
def test_wrong_values(knob, value, tmp_path):
    section, _, name = knob.rpartition(".")
    file = write(tmp_path, f"{section}: {{{name}: {value}}}" if section else f"{knob}: {value}")
    assert (name if section else knob) in refusal(read, "--config", file)


@pytest.mark.parametrize("content", [
    "", "data: {image_size: 64", "- seed", "seed: 1\n---\nseed: 2", "seed: !!python/object/apply:os.getcwd []",
    "data: Straße".encode("latin1"), "data: 3", f"train: {{lr: {10**400}}}", "train: {epochs: 2020-01-01}",
    "train: " + "[" * 5000, "a: &a [x, x]\n" + "".join(f"b{k}: &a [*a, *a]\n" for k in range(40))],
    ids=lambda content: repr(content)[:30])
def test_files_that_are_no_config_are_a_sentence_soon(content, tmp_path):
    refusal(read, "--config", write(tmp_path, content))
