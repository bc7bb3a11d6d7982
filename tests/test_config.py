"""Knobs: published defaults, files, command line, and one sentence for whatever does not fit."""

from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, config_from_dict, config_parser, load_config, parse, to_yaml
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Published: memory items, lambda_c, lambda_s, lambda, gamma.
PUBLISHED = {"ped2": (10, 10, 5, 0.6, 0.009), "avenue": (10, 10, 2, 0.5, 0.006),
             "shanghaitech": (200, 1, 1, 0.8, 0.0135)}


def published_knobs(config):
    return (config.model.memory_items, config.loss.compactness, config.loss.separateness, config.score.psnr_weight,
            config.score.gamma)


KNOBS, COMMAND = config_parser(""), command_parser("", "x.py")          # building a parser takes longer than using it


def from_flags(*argv):
    return parse(KNOBS, list(argv))[0]


def from_command(*argv):
    return parse_command(COMMAND, ["--dataset_path", "DATA", *argv])


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
    assert (config.train.max_steps, config.train.precision, config.score.precision) == (None, "float32", "float32")
    # The switches of docs/differences.md stand as in the authors' code.
    assert not (config.model.read_grad or config.model.concat_query or config.model.fold_time)
    assert (config.model.update_max, config.model.forget_bias, config.model.bn_init) == ("all", 1, "ones")
    assert (config.score.memory_update, config.score.psnr_peak, config.score.normalize, config.score.average) \
        == ("carry", "one", "video", "micro")


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_configs_differ_from_the_defaults_only_in_the_table(dataset):
    config = load_config(CONFIGS / f"{dataset}.yaml")
    assert config.data.dataset == dataset and published_knobs(config) == PUBLISHED[dataset]
    raw, defaults = asdict(config), asdict(Config())
    for section, knob in [("data", "dataset"), ("data", "cache"), ("model", "memory_items"), ("loss", "compactness"),
                          ("loss", "separateness"), ("score", "psnr_weight"), ("score", "gamma")]:
        del raw[section][knob], defaults[section][knob]
    assert raw == defaults


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_survives_file_and_dict(path, write):
    config = load_config(path)
    assert load_config(write(to_yaml(config))) == config
    assert config_from_dict(asdict(config)) == config


def test_unusual_values_survive_file_and_dict(write):
    config = from_flags("--score.memory_update", "off", "--train.max_steps", "7", "--train.lr", "1e-05", "--seed", "3",
                        "--data.dataset", "01", "--data.shuffle", "false", "--model.bn_init", "uniform")
    assert (config.score.memory_update, config.train.lr, config.data.dataset) == ("off", 1e-5, "01")
    assert load_config(write(to_yaml(config))) == config
    assert config_from_dict(asdict(config)) == config


def test_what_comes_later_wins(write):
    file = str(write("seed: 1\ntrain: {lr: 1e-3, epochs: 5}"))
    config = from_flags("--config", file, "--train.lr=0.5", "--seed", "2")
    assert (config.seed, config.train.lr, config.train.epochs, config.train.batch_size) == (2, 0.5, 5, 8)
    assert from_flags("--seed", "2", "--config", file).seed == 1


def test_off_needs_no_quotes_in_a_file(write):
    """To YAML 1.1 a bare `off` is false; here it is the setting of that name."""
    assert load_config(write("score: {memory_update: off}")).score.memory_update == "off"


def test_frozen():
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1
    with pytest.raises(FrozenInstanceError):
        config.train.lr = 1.0


def test_authors_flags():
    config, args = from_command("--dataset_type", "ped2", "--loss_compact", "0.1", "--loss_separate=0.2", "--msize",
                                "12", "--lambda=0.5", "--gamma", "0.01")
    assert args.dataset_path == "DATA"
    assert config.data.dataset == "ped2" and published_knobs(config) == (12, 0.1, 0.2, 0.5, 0.01)
    config, _ = from_command("--msize=11", "--lambda", "0.4", "--gamma=0.02", "--dataset_type=avenue")
    assert config.data.dataset == "avenue" and published_knobs(config) == (11, 10, 2, 0.4, 0.02)


@pytest.mark.parametrize("name", ["ped2", "avenue", "shanghai", "shanghaitech", "UCSDped2"])
def test_dataset_type_brings_its_published_values(name):
    config, _ = from_command("--dataset_type", name)
    assert published_knobs(config) == PUBLISHED[canonical_name(config.data.dataset)]


def test_config_file_goes_before_that_of_the_dataset_type(write):
    file = str(write("loss: {compactness: 3}"))
    for argv in (["--config", file, "--dataset_type", "avenue"], ["--dataset_type=avenue", f"--config={file}"]):
        config, _ = from_command(*argv)
        assert config.data.dataset == "avenue" and published_knobs(config) == (10, 3, 5, 0.6, 0.009)


# -------------------------------------------------------------------------------------------------- what is wrong

UNKNOWN = ["foo", "image_size", "data.image_siz", "dat.image_size", "train.Lr", "score.lambda"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names(name, write):
    section, _, knob = name.rpartition(".")
    assert name in refusal(load_config, write(f"{section}: {{{knob}: 8}}" if section else f"{knob}: 8"))
    assert name in refusal(config_from_dict, {section: {knob: 8}} if section else {knob: 8})
    assert f"--{name}" in refusal(from_flags, f"--{name}", "8")
    assert f"--{name}" in refusal(from_command, f"--{name}=8")


def test_a_knob_given_twice(write):
    said = refusal(load_config, write("train:\n  lr: 1e-3\n  epochs: 2\n  lr: 2e-3\n"))
    assert "lr stands here twice" in said and "line 4" in said


def test_unknown_name_gets_the_nearest_one():
    assert "mean --train.batch_size or" in refusal(from_flags, "--train.batchsize", "4")
    assert "mean train.batch_size or" in refusal(config_from_dict, {"train": {"batchsize": 4}})


@pytest.mark.parametrize("flag", ["--dataset_typ", "--lambd", "--gam", "--conf", "--see", "--msiz", "--dataset_pat",
                                  "--loss_compac", "--devic"])
def test_abbreviations_are_refused(flag):
    assert flag in refusal(from_command, flag, "1")


WRONG_TYPE = [("data.image_size", "big"), ("data.image_size", "64.5"), ("data.image_size", "[64]"),
              ("data.shuffle", "1"), ("data.channels", "2"), ("model.update_max", "some"), ("train.lr", "fast"),
              ("train.max_steps", "many"), ("train.precision", "float16"), ("loss.compactness", "true"),
              ("seed", "1.5")]
OUT_OF_RANGE = [("data.image_size", "0"), ("data.image_size", "60"), ("data.workers", "-1"),
                ("model.input_frames", "0"), ("model.base_width", "0"), ("model.lstm_layers", "0"),
                ("model.memory_items", "1"), ("loss.compactness", "-1"), ("loss.separateness", "-0.5"),
                ("loss.margin", "-1"), ("train.epochs", "0"), ("train.batch_size", "0"), ("train.lr", "0"),
                ("train.max_steps", "0"), ("train.log_every", "0"), ("score.psnr_weight", "1.01"),
                ("score.psnr_weight", "-0.1"), ("score.gamma", "-1e-9"), ("score.batch_size", "0"),
                ("seed", str(2**70))]


def file_with(knob, value):
    section, _, name = knob.rpartition(".")
    return f"{section}: {{{name}: {value}}}" if section else f"{knob}: {value}"


@pytest.mark.parametrize(("knob", "value"), WRONG_TYPE + OUT_OF_RANGE)
def test_wrong_values(knob, value, write):
    assert knob in refusal(from_flags, "--config", str(write(file_with(knob, value))))
    assert knob in refusal(from_flags, f"--{knob}={value}")


@pytest.mark.parametrize("knob", ["loss.compactness", "score.gamma", "score.psnr_weight", "train.lr"])
def test_not_a_number(knob, write):
    assert knob in refusal(load_config, write(file_with(knob, ".nan")))


@pytest.mark.parametrize("knob", ["data.dataset", "data.image_size", "train.epochs", "score.gamma", "seed"])
def test_null_where_a_value_is_needed(knob, write):
    assert knob in refusal(load_config, write(file_with(knob, "null")))
    section, _, name = knob.rpartition(".")
    assert knob in refusal(config_from_dict, {section: {name: None}} if section else {name: None})


@pytest.mark.parametrize("content", ["3", "[]", "ped2", ""])
def test_section_that_is_no_mapping(content, write):
    assert "data" in refusal(load_config, write(f"seed: 1\ndata: {content}"))


NO_CONFIG = {"empty": "", "comments": "# data:\n#   image_size: 64\n", "open bracket": "data: {image_size: 64",
             "two colons": "data: a: b", "tab": "\tseed: 1", "list": "- seed", "word": "hello",
             "two documents": "seed: 1\n---\nseed: 2", "code": "seed: !!python/object/apply:os.getcwd []",
             "Latin-1": "data: {dataset: Wuppertaler Straße}".encode("latin1"), "UTF-16": "seed: 1".encode("utf-16"),
             "binary": bytes(range(256))}


@pytest.mark.parametrize("kind", NO_CONFIG)
def test_files_that_are_no_config_are_named(kind, write):
    path = write(NO_CONFIG[kind])
    assert str(path) in refusal(load_config, path)


def test_missing_file_and_folder(tmp_path):
    assert "none.yaml" in refusal(load_config, tmp_path / "none.yaml")
    assert str(tmp_path) in refusal(load_config, tmp_path)
    sentence = refusal(from_command, "--dataset_type", "mine")
    assert "mine" in sentence and "ped2" in sentence and "--config" in sentence        # what there is, what to type


@pytest.mark.parametrize("argv", [["--lambda"], ["--lambda", "2"], ["--gamma=x"], ["--msize", "1.5"], ["stray"],
                                  ["--dataset_type"]])
def test_bad_command_lines(argv):
    refusal(from_command, *argv)


def test_dataset_path_is_needed():
    assert "dataset_path" in refusal(parse_command, command_parser("", "x.py"), ["--dataset_type", "ped2"])
