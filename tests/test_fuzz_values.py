"""Random values, most of them invalid: each is either refused with an error of ours, or accepted as it is."""

import contextlib
import dataclasses
import functools
import json

import networkx as nx
import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fade_study import ConfigError, Dag, DagSpace, InvalidInputError
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import (
    AnalyzeConfig,
    BenchmarkConfig,
    ComparisonConfig,
    EvaluateConfig,
    ScaleConfig,
    SearchConfig,
    TrainConfig,
    ValidationConfig,
)
from fade_study.urls import masked, masked_url


def examples(number):
    """Settings of Hypothesis: a number of examples, without a deadline."""
    return settings(max_examples=number, deadline=None)


# --- cells -----------------------------------------------------------------------------------------------------------

small = st.integers(-1, 8)


def is_dag(vertices, edges):
    graph = nx.DiGraph(edges)
    known = set(graph) <= set(range(vertices))
    return 1 <= vertices <= 7 and known and len(set(edges)) == len(edges) and nx.is_directed_acyclic_graph(graph)


@examples(300)
@given(small, st.lists(st.tuples(small, small), max_size=8).map(tuple))
def test_a_dag_is_made_of_what_is_one_and_of_nothing_else(vertices, edges):
    if is_dag(vertices, edges):
        dag = Dag(vertices, edges)
        assert (dag.vertices, len(dag.edges)) == (vertices, len(edges))
        assert Dag.from_key(dag.key) == dag
    else:
        with pytest.raises(InvalidInputError):
            Dag(vertices, edges)


almost_keys = st.from_regex(r"\A[0-9]:([0-9]{2}(\.[0-9]{2}){0,5})?\Z") | st.from_regex(r"\d?:?[\d.]*") | st.text()


@examples(300)
@given(almost_keys)
def test_a_text_is_a_key_or_refused(text):
    with contextlib.suppress(InvalidInputError):
        dag = Dag.from_key(text)
        assert Dag.from_key(dag.key) == dag
        assert (dag.vertices, len(dag.edges)) == (int(text[0]), len(text) // 3)


names = st.integers() | st.text(max_size=3) | st.none() | st.booleans() | st.tuples(st.integers())
kinds = st.sampled_from([nx.DiGraph, nx.Graph, nx.MultiDiGraph, nx.MultiGraph])


@examples(200)
@given(kinds, st.lists(names, max_size=9, unique=True), st.data())
def test_a_graph_is_a_dag_or_refused(kind, vertices, data):
    graph = kind()
    graph.add_nodes_from(vertex for vertex in vertices if vertex is not None)
    if graph:
        ends = st.sampled_from([*graph])
        graph.add_edges_from(data.draw(st.lists(st.tuples(ends, ends), max_size=6)))
    if kind is nx.DiGraph and 1 <= len(graph) <= 7 and nx.is_directed_acyclic_graph(graph):
        assert nx.is_isomorphic(Dag.from_networkx(graph).to_networkx(), graph)
    else:
        with pytest.raises(InvalidInputError):
            Dag.from_networkx(graph)


coordinates = st.floats(-10, 10) | st.floats(0, 1) | st.integers(-2, 2) | st.sampled_from([np.nan, np.inf, -np.inf])


@examples(300)
@given(st.integers(1, 4), st.lists(coordinates, max_size=4) | st.lists(st.lists(coordinates, max_size=3), max_size=1))
def test_a_point_has_a_nearest_cell_or_is_refused(size, point):
    space = DagSpace(size)
    if np.shape(point) == (3,) and np.isfinite(point).all():
        distance = {cell: np.linalg.norm(space.embed(cell) - point) for cell in space}
        assert distance[space.nearest(point)] == pytest.approx(min(distance.values()), abs=1e-6)
    else:
        with pytest.raises(InvalidInputError, match="expected a finite point"):
            space.nearest(point)


# --- configurations --------------------------------------------------------------------------------------------------

STUDIES = {"search": SearchConfig, "validate": ValidationConfig, "compare": ComparisonConfig}
CLASSES = [*STUDIES.values(), AnalyzeConfig, EvaluateConfig, TrainConfig, BenchmarkConfig, ScaleConfig]


def dotted(cls, prefix=""):
    """All names of a configuration, of sections and of the settings in them."""
    for field in dataclasses.fields(cls):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.default):
            yield from dotted(type(field.default), f"{prefix}{field.name}.")


NAMES = sorted({name for cls in STUDIES.values() for name in dotted(cls)})
setting_names = st.sampled_from(NAMES) | st.lists(st.sampled_from(NAMES), max_size=3).map(".".join) | st.text()
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["digits", "all", "both", "inline", "cosine", "reinmax", "density", "null", "~", "true", "1e-3"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
texts = values.map(json.dumps) | scalars.map(str) | st.text() | st.text("[]{}:,-*&!|>'\"%@`#? \n\t~a1.", max_size=12)
words = st.one_of(
    st.builds("--{}={}".format, setting_names, texts),
    st.builds("--{}".format, setting_names),
    texts,
).filter(lambda word: word not in ("-h", "--help"))

likely = (
    st.integers(1, 9) | st.floats(0.01, 1) | st.sampled_from(["true", "null", "both", "digits", "inline", "[1, 2]"])
)
likely_words = st.builds("--{}={}".format, st.sampled_from([*dotted(SearchConfig)]), likely)


def accepted(study, *argv):
    return parse_config(STUDIES[study], CONFIGS / study, argv)


def check_round_trip(config, study, folder):
    """The values of a configuration, in Python and in a file, give the same configuration."""
    settings = dataclasses.asdict(config)
    assert type(config)(**settings) == config
    (folder / "again.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings)), allow_unicode=True), "utf-8")
    assert accepted(study, "--preset", str(folder / "again.yaml")) == config


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@examples(700)
@given(st.sampled_from([*STUDIES]), st.lists(likely_words, max_size=3) | st.lists(words, max_size=3))
def test_a_command_line_is_a_configuration_or_refused(folder, study, argv):
    with contextlib.suppress(ConfigError):
        check_round_trip(accepted(study, *argv), study, folder)


@examples(300)
@given(st.sampled_from(NAMES), scalars)
def test_a_value_means_the_same_on_the_command_line_and_in_a_file(folder, name, value):
    assume(not isinstance(value, str))  # texts may need quotes in a file
    (folder / "empty.yaml").write_text("")
    (folder / "one.yaml").write_text(yaml.safe_dump(functools.reduce(nested, reversed(name.split(".")), value)))

    def outcome(*argv):
        try:
            config = accepted("validate", *argv)
        except ConfigError:
            return "refused"
        check_round_trip(config, "validate", folder)
        return config

    word = yaml.safe_dump(value).splitlines()[0]
    in_line = outcome("--preset", str(folder / "empty.yaml"), f"--{name}={word}")
    assert in_line == outcome("--preset", str(folder / "one.yaml"))


def nested(value, name):
    return {name: value}


@examples(200)
@given(st.binary(max_size=60) | texts.map(lambda text: text.encode(errors="replace")))
def test_a_file_is_a_preset_or_refused(folder, content):
    (folder / "random.yaml").write_bytes(content)
    with contextlib.suppress(ConfigError):
        check_round_trip(accepted("search", "--preset", str(folder / "random.yaml")), "search", folder)


@examples(300)
@given(st.sampled_from(CLASSES), st.data())
def test_python_values_are_a_configuration_or_refused(cls, data):
    fields = st.sampled_from([field.name for field in dataclasses.fields(cls)]) | st.text(max_size=3)
    arguments = data.draw(st.dictionaries(fields, values, max_size=3))
    assume("self" not in arguments)
    with contextlib.suppress(ConfigError):
        config = cls(**arguments)
        assert cls(**dataclasses.asdict(config)) == config


@examples(50)
@given(st.text(st.characters(codec="utf-8", exclude_characters="[{~"), min_size=1))
def test_a_text_needs_no_quotes_on_the_command_line(text):
    """Text settings may be a password, or a run's id of digits."""
    assume(text != "null")
    assert accepted("search", f"--storage={text}").storage == text
    assert parse_config(AnalyzeConfig, None, [f"--run_id={text}"]).run_id == text


@pytest.mark.parametrize(
    "text", ["00000000000000000000000000000012", "1e10", "0x1f", "true", "on", "12:30", "2020-01-01"]
)
def test_a_text_that_looks_like_something_else_is_one(folder, text):
    assert parse_config(AnalyzeConfig, None, ["--run_id", text]).run_id == text
    (folder / "text.yaml").write_text(f"study: {text}")
    assert accepted("search", "--preset", str(folder / "text.yaml")).study == text


# --- secrets in URLs -------------------------------------------------------------------------------------------------

plain = st.text("abcXYZ019.-_%", min_size=1, max_size=8)
hosts = st.sampled_from(["h", "db.example.org:5432", "[::1]:80", "h1:1,h2:2", "", "10.0.0.1"])
paths = st.sampled_from(["", "/", "/db", "/a/b.git", "/db?sslmode=require&x=1", "//abs/fade.db", "/tickets#part"])
schemes = st.sampled_from(["http", "https", "postgresql+psycopg2", "mysql", "sqlite", "mongodb", "s3"])
secrets = st.text("pQ7@/:%?#&=;,!$'\"é€*[]\\", min_size=1, max_size=12)


@examples(300)
@given(schemes, plain | st.just(""), secrets, hosts, paths)
def test_a_password_is_masked_and_nothing_else(scheme, user, password, host, path):
    url = f"{scheme}://{user}:{password}@{host}{path}"
    assert masked_url(url) == f"{scheme}://{user}:***@{host}{path}"
    assert masked(f"cannot reach ({url}), or so") == f"cannot reach ({masked_url(url)}), or so"


parts = st.sampled_from([*"Q@/:?&#=%", "?password=", "&token=", "#key=", "://", "%40"])


@examples(300)
@given(st.lists(parts, min_size=1).map("".join), st.sampled_from(["x://u:{}@h/db", "x://h/?user=u&password={}"]))
def test_no_part_of_a_secret_is_left_whatever_it_looks_like(secret, url):
    assume("&" not in secret or "@h" in url)  # which ends a parameter
    assert "Q" not in masked_url(url.format(secret))
    assert "Q" not in masked(f"no answer from {url.format(secret)}")


@examples(200)
@given(schemes, plain, hosts, paths, st.booleans())
def test_a_url_without_secrets_comes_back_as_it_is(scheme, user, host, path, named):
    url = f"{scheme}://{f'{user}@' if named else ''}{host}{path}"
    assert masked_url(url) == masked(url) == url
    text = f"expected a store, got {url}: [Errno 2] user@example.org said: no (a@b:c)\n\ttry again "
    assert masked(text) == text


@examples(100)
@given(st.text())
def test_a_text_that_is_no_url_comes_back_as_it_is(text):
    assume("://" not in text)
    assert masked_url(text) == masked(text) == text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:p%40%2F@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u%40x:p@h/db", "postgresql://u%40x:***@h/db"),
        ("postgresql://u@x:p@h/db", "postgresql://u@x:***@h/db"),
        ("postgresql://u:p@h1:1,h2:2/db", "postgresql://u:***@h1:1,h2:2/db"),
        ("mongodb://u:p@h1,v:q@h2/db", "mongodb://u:***@h2/db"),
        ("redis://:p@h", "redis://:***@h"),
        ("x://u:a b@h", "x://u:***@h"),
        ("x://u:@h", "x://u:@h"),
        ("x://u:***@h", "x://u:***@h"),
        ("https://h/?password=abc", "https://h/?password=***"),
        ("https://h/?user=u&password=a/b:c&x=1", "https://h/?user=u&password=***&x=1"),
        ("https://h/?access_token=abc#part", "https://h/?access_token=***"),
        ("https://h/#access_token=abc", "https://h/#access_token=***"),
        ("https://h/?p%61ssword=abc", "https://h/?p%61ssword=***"),
        ("https://h/?sv=1&sig=abc%3D", "https://h/?sv=1&sig=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dp", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://h/?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h:80/?token=a@b&x=1", "https://h:***@***&x=1"),
        ("x://u:a?token=b@h/db", "x://u:***@***"),
        ("https://u:p@h/?token=t", "https://u:***@h/?token=***"),
        ("https://h/?monkey=1&author=x&passing=", "https://h/?monkey=1&author=x&passing="),
    ],
)
def test_examples_of_masked_urls(url, expected):
    assert masked_url(url) == expected


def test_all_urls_of_a_message_are_masked():
    text = "(OperationalError) 'postgresql://u:p/@h/db' failed;\nsee https://h/?token=t and mysql://v:q@h."
    expected = "(OperationalError) 'postgresql://u:***@h/db' failed;\nsee https://h/?token=*** and mysql://v:***@h."
    assert masked(text) == expected
