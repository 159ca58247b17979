import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from fade_study import ConfigError
from fade_study.__main__ import COMMANDS, main
from fade_study.cells import FEATURES
from fade_study.config import BilevelConfig, DataConfig, NetworkConfig
from fade_study.samplers import REGISTRY
from fade_study.studies.options import parse_config, settings_of, shown
from fade_study.studies.schemas import (
    ComparisonConfig,
    EvaluateConfig,
    SamplerConfig,
    SearchConfig,
    SpaceConfig,
    ValidationConfig,
)
from fade_study.urls import place

CONFIGS = Path(__file__).parents[1] / "fade_study" / "studies" / "configs"
STUDIES = {"search": SearchConfig, "validate": ValidationConfig, "compare": ComparisonConfig}


def parse(*argv, study="search"):
    return parse_config(STUDIES[study], CONFIGS / study, argv)


def refused(*argv):
    with pytest.raises(ConfigError) as error:
        parse(*argv)
    return error.value.problems


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_every_preset_is_valid_and_says_how_to_run_it(path):
    study = path.parent.stem
    assert isinstance(parse("--preset", path.stem, study=study), STUDIES[study])
    assert isinstance(parse("--preset", str(path), study=study), STUDIES[study])
    header = path.read_text().split("\n\n")[0]
    assert header.splitlines()[0].endswith(".")  # --help shows this line
    command = f"mlflow run . -e {study}" + ("" if path.stem == "fashion14" else f" -P preset={path.stem}")
    assert f"#   {command}" in header


def test_there_are_the_presets_that_the_readme_names():
    assert {path.stem for path in CONFIGS.glob("search/*.yaml")} == {"smoke", "digits", "fashion", "fashion14", "paper"}
    assert {path.stem for path in CONFIGS.glob("compare/*.yaml")} == {"smoke", "digits", "fashion14"}
    assert {path.stem for path in CONFIGS.glob("validate/*.yaml")} == {
        "smoke",
        "digits",
        "fashion14",
        "paper",
        "report",
    }


def test_what_does_not_go_together():
    assert refused("--preset", "smoke", "--processes", "60") == (
        "processes: expected up to 20, an image of each batch for each, got 60",
    )  # fmt: skip
    assert refused("--preset", "smoke", "--processes", "8", "--bilevel.micro_batches", "4") == (
        "processes: expected a number that divides bilevel.micro_batches = 4, got 8",
    )  # fmt: skip


def test_what_a_validation_can_not_do():
    def problems(**settings):
        with pytest.raises(ConfigError) as error:
            ValidationConfig(**settings)
        return error.value.problems

    for epochs in ((1, 1), (3, 20)):
        assert "not the 20 epochs of the ground truth" in problems(early_epochs=epochs)[0]
    assert "up to 1000000" in problems(cells=50, depth=4)[0]
    assert problems(tables=("a", "b", "a")) == ("tables: expected each once, got a, b, a",)
    assert "straight_through.estimator: expected straight-through" in problems(straight_through=BilevelConfig())[0]
    assert "one number or one per row (4)" in problems(bilevel=BilevelConfig(regularization=(1.0, 2.0)))[0]


def test_the_papers_numbers():
    config = parse("--preset", "paper")
    assert (config.data.name, config.space.max_vertices, config.depth, config.generations) == ("cifar10", 6, 4, 100)
    assert (config.bilevel.epochs, config.bilevel.batch_size, config.bilevel.temperature) == (5, 128, 10.0)
    assert config.bilevel.alpha_init_std == 1.0
    for training in (config.bilevel, config.scratch):
        optimizer = training.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.gradient_clip) == (1e-3, 1e-4, 10.0)
    assert config.network == NetworkConfig(final_channels=32, min_map=2, kernel_size=5, normalization="none")
    assert config.space.features == ("eccentricity_variance", "degree_variance", "vertices")


def test_fashion14_is_the_default():
    assert parse() == parse("--preset=fashion14")


def test_the_command_line_overrides_the_preset():
    config = parse("--preset", "smoke", "--bilevel.epochs", "7", "--sampler.step_size=-0.5",
                   "--network.normalization=none", "--bilevel.regularization", "[1, 2]", "--study", "mine")  # fmt: skip
    base = parse("--preset", "smoke")
    assert (config.bilevel.epochs, config.sampler.step_size, config.network.normalization) == (7, -0.5, "none")
    assert config.bilevel.regularization == (1.0, 2.0)
    assert config.study == "mine"
    assert config.scratch == base.scratch


def test_all_problems_are_reported_at_once(tmp_path):
    preset = tmp_path / "bad.yaml"
    preset.write_text(yaml.safe_dump({"generations": 0, "colour": "red", "bilevel": {"epochs": "many", "speed": 3}}))
    problems = refused(
        "--preset", str(preset), "--sampler.offset=far", "--depth", "0", "--space.max_vertices", "8", "--foo", "3"
    )
    said = "\n".join(problems)
    for name in ("generations", "colour", "bilevel.epochs", "bilevel.speed", "sampler.offset", "depth", "foo"):
        assert any(problem.startswith(f"{name}: ") for problem in problems), (name, said)
    assert "20,286,025" in said
    assert len(problems) == 8


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--preset=missing", "preset: expected one of digits, fashion, fashion14, paper, smoke"),
        ("--generations=0", "generations: Input should be greater than 0, got 0"),
        ("--generations=2.5", "generations: "),
        ("--bilevel.batch_size=-1", "bilevel.batch_size: "),
        ("--sampler.offset=0", "sampler.pseudo-gradient: expected an offset above 0, got 0.0"),
        ("--sampler.offset=.nan", "sampler.offset: Input should be a valid number"),
        ("--sampler.step_size=0", "sampler.pseudo-gradient: expected a step_size other than 0, got 0.0"),
        ("--sampler.width=5", "sampler.width: pseudo-gradient has no such setting, only offset, step_size"),
        ("--network.kernel_size=4", "network.kernel_size: expected an odd number"),
        ("--network.normalization=layer", "network.normalization: "),
        (
            "--network.operation=pooling",
            "network.operation: expected convolution, separable or package.module:function",
        ),
        ("--network.operation=__main__:pooling", "network.operation: expected convolution, separable or package"),
        ("--network.operation=my operations:pooling", "network.operation: expected convolution, separable or package"),
        ("--space.features=[colour]", "space.features: expected different features among"),
        ("--space.min_vertices=6", "space.min_vertices: expected at most max_vertices = 5"),
        ("--bilevel.regularization=[1, 2, 3]", "bilevel.regularization: expected one number or one per row (4)"),
        ("--bilevel.regularization=-1", "bilevel.regularization: expected finite numbers of 0 or more"),
        ("--network.min_channels=32", "network.min_channels: expected at most final_channels = 16"),
        ("--bilevel.micro_batches=6", "bilevel.micro_batches: expected a power of 2 up to batch_size = 64, got 6"),
        ("--bilevel.micro_batches=128", "bilevel.micro_batches: expected a power of 2 up to batch_size = 64, got 128"),
        ("--seed=4294967296", "seed: "),
        ("--study=", "study"),
        ("--data.name.x=3", "data.name.x: unknown name"),
        ("--space.features=[1,", "space.features: expected a YAML value"),
        ("--unknown=1", "unknown: unknown name"),
        ("--gen=3", "gen: unknown name"),
        (
            "--generation=3",
            "generation: unknown name; did you mean generations?",
        ),  # no abbreviations: they change meaning as names are added
        ("--generations", "generations: expected a value, got none"),
        ("--preset", "preset: expected a value, got none"),
        ("--space=3", "space: "),
        ("junk", "unrecognized arguments: junk"),
        ("-x", "unrecognized arguments: -x"),
    ],
)
def test_each_problem_says_where_and_what_is_expected(argument, message):
    (problem,) = refused(argument)
    assert problem.startswith(message)


def test_a_misspelt_preset_is_answered_with_the_one_that_was_meant():
    (problem,) = refused("--preset", "smok")
    assert problem.endswith("or the path of a YAML file, got 'smok'; did you mean smoke?")


def test_values_that_look_like_options_or_hold_an_equals_sign():
    assert parse("--sampler.step_size", "-1e-3").sampler.step_size == -0.001
    assert parse("--storage", "postgresql://h/db?a=b").storage == "postgresql://h/db?a=b"
    (problem,) = refused("--storage", "postgresql://h/db?a=b", "--generations", "0")
    assert problem.startswith("generations: ")


@pytest.mark.parametrize("content", [b"- a\n- b", b"a: [", b"3", b"\xff\xfe\x00bad"])
def test_presets_that_are_no_settings(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    (problem,) = refused("--preset", str(path))
    assert str(path) in problem


def test_python_is_checked_like_the_command_line():
    with pytest.raises(ConfigError) as error:
        BilevelConfig(epochs=0, temperature="hot", colour=3)  # type: ignore[call-arg]
    assert len(error.value.problems) == 3
    assert isinstance(error.value, ValueError)
    with pytest.raises(ConfigError, match="at most max_vertices"):
        SpaceConfig(max_vertices=2, min_vertices=3)
    with pytest.raises(ConfigError, match="limit"):
        DataConfig(limit=0)
    with pytest.raises(AttributeError):
        DataConfig().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("operation", ["convolution", "separable", "mine:pooling", "my.operations:pooling"])
def test_operations_are_named_without_importing_them(operation):
    assert parse("--network.operation", operation).network.operation == operation


def test_a_section_in_one_piece():
    config = parse("--preset", "paper", "--space", "{max_vertices: 4, features: [density]}")
    assert config.space == SpaceConfig(max_vertices=4, features=("density",))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_help_shows_the_presets_values(capsys, path):
    with pytest.raises(SystemExit) as end:
        parse("--preset", path.stem, "--help", "--generations", "0", study=path.parent.stem)
    assert not end.value.code
    epochs = parse("--preset", path.stem, study=path.parent.stem).bilevel.epochs
    said = " ".join(capsys.readouterr().out.split())
    assert f"--bilevel.epochs int > 0 Number of passes over the weight split. (default: {epochs})" in said


def test_help_needs_nothing_that_is_required(capsys):
    with pytest.raises(SystemExit):
        parse_config(EvaluateConfig, None, ["-h"])
    assert "--run_id" in capsys.readouterr().out


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for name in ("--generations", "--bilevel.optimizer.learning_rate", "--space.features", "--preset"):
        assert name in text
    assert "Gumbel-softmax" in text
    assert "`" not in text
    assert "smoke      For tests and a first look; it takes seconds.\n" in text
    (features,) = [setting.meaning for setting in settings_of(SpaceConfig) if setting.name == "features"]
    assert set(FEATURES) <= set(re.findall(r"\w+", features))


def test_help_writes_a_section_as_it_is_given():
    config = parse("--preset", "fashion14", study="compare")
    text = shown(config.straight_through)
    assert "optimizer: {learning_rate: 0.003}, paths: alphas" in text
    assert (
        parse("--preset", "smoke", "--straight_through", text, study="compare").straight_through
        == config.straight_through
    )


def test_commands_are_explained_in_a_line_each(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fade", "--help"])
    main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(line.endswith(".") and len(line) <= 103 for line in lines)
    monkeypatch.setattr("sys.argv", ["fade", "serch"])
    with pytest.raises(SystemExit, match="got 'serch'; did you mean search"):
        main()


def test_entry_points_are_commands():
    project = yaml.safe_load((CONFIGS.parents[2] / "MLproject").read_text())
    start = 'FADE_PROJECT=1 "${{FADE_PYTHON:-python}}" -m fade_study '
    for name, entry in project["entry_points"].items():
        command, *arguments = entry["command"].removeprefix(start).split()
        assert (command, command in COMMANDS) == ("search" if name == "main" else name, True)
        declared = [
            word for parameter in entry.get("parameters", {}) for word in (f"--{parameter}", f"{{{parameter}}}")
        ]
        assert arguments == declared
    assert {*project["entry_points"]} == {*COMMANDS, "main"} - {"deliver"}


@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_has_a_meaning_that_stands_alone(study):
    for setting in settings_of(STUDIES[study]):
        assert setting.meaning.endswith(".")
        assert setting.meaning[0].isupper()


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("seed", "int >= 0, < 4294967296", "0"),
        ("study", "text|null", "null"),
        ("bilevel.share_weights", "bool", "false"),
        ("bilevel.schedule", "constant|cosine", "constant"),
        ("bilevel.regularization", "float|[float, ...]", "0.1"),
        ("space.features", "[text, ...]", "[eccentricity_variance, degree_variance, vertices]"),
    ],
)
def test_types_and_defaults_as_users_write_them(name, kind, default):
    (setting,) = [setting for setting in settings_of(SearchConfig) if setting.name == name]
    assert (setting.kind, shown(setting.default)) == (kind, default)


def test_a_name_that_stands_twice_in_a_preset_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_text("generations: 3\ndepth: 2\ngenerations: 4\n")
    (problem,) = refused(f"--preset={tmp_path / 'own.yaml'}")
    assert "expected each name once, got ['generations'] twice" in problem


def test_a_tilde_is_the_users_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("--checkpoint_dir=~/states", "--data.data_dir=~/images")
    assert (config.checkpoint_dir, config.data.data_dir) == ("/home/me/states", "/home/me/images")


@pytest.mark.parametrize("kind", ["sqlite", "sqlite+pysqlite"])
def test_a_file_is_named_by_its_whole_path(kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert place(f"{kind}:///fade.db") == f"{kind}:///{tmp_path}/fade.db"
    assert place(f"{kind}:////there/fade.db") == f"{kind}:////there/fade.db"
    assert place(f"{kind}:///:memory:") == f"{kind}:///:memory:"
    assert place("postgresql://me:secret@host/fade") == "postgresql://me:***@host/fade"


def test_the_samplers_settings_are_the_arguments_of_their_constructors():
    arguments = {name for sampler in REGISTRY.values() for name in inspect.signature(sampler).parameters} - {"seed"}
    assert {field.name for field in dataclasses.fields(SamplerConfig)} == arguments | {"name"}
