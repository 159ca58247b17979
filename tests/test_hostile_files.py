"""Malicious files: each is refused with an error that names it, and nothing else happens."""

import contextlib
import gzip
import io
import itertools
import json
import os
import signal
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fade_study import ConfigError, Dag, DataError, HyperArchitecture
from fade_study.benchmarks import Table, Trainings, load_table
from fade_study.config import DataConfig
from fade_study.studies.command import CONFIGS
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import SearchConfig
from fade_study.training import files, load_data

IMAGES = np.zeros((60, 8, 8))
IMAGES[::2, 0] = 1  # in every split: images that are all the same are refused
LABELS = np.arange(60) % 3


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture
def pipe(tmp_path):
    """Make a named pipe that nobody writes to; a test that opens it would block, and is killed."""

    def make(name):
        os.mkfifo(tmp_path / name)
        return str(tmp_path / name)

    signal.alarm(60)
    yield make
    signal.alarm(0)


@pytest.fixture
def memory():
    """Peak number of bytes that this test has allocated."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# --- .npz ------------------------------------------------------------------------------------------------------------


def npz(path, content=None, **sizes):
    """An archive of images and labels, or of other bytes in their place, whose directory may state other sizes."""
    members = {"images": npy(IMAGES), "labels": npy(LABELS)} | (content or {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in members.items():
            archive.writestr(f"{name}.npy", array)
        for name, size in sizes.items():
            archive.getinfo(f"{name}.npy").file_size = size
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def numbers(shape):
    return header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")


def refused_data(path, match="expected an .npz"):
    with pytest.raises(DataError, match=match) as error:
        load_data(DataConfig(name=f"npz:{path}"))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [files.UNSUSPECTED + 1, files.LARGEST + 1])
def test_a_zip_bomb_is_refused_by_the_size_that_it_declares(tmp_path, memory, size):
    start = numbers((size - 128, 1, 1)).ljust(128)
    refused_data(
        npz(tmp_path / "bomb.npz", {"images": start}, images=size), f"got {size + len(npy(LABELS)):,}; save it"
    )
    assert memory() < 10_000_000


def test_what_is_packed_well_or_large_is_no_bomb_yet(tmp_path, monkeypatch):
    path = npz(tmp_path / "zeros.npz")
    size = len(npy(IMAGES)) + len(npy(LABELS))
    assert size > 20 * path.stat().st_size, "these zeros are packed well"
    monkeypatch.setattr(files, "UNSUSPECTED", size)
    monkeypatch.setattr(files, "MOST_PACKED", 1)
    load_data(DataConfig(name=f"npz:{path}"))
    monkeypatch.setattr(files, "UNSUSPECTED", size - 1)
    refused_data(path, "up to 1 for each")
    monkeypatch.setattr(files, "MOST_PACKED", 200)
    load_data(DataConfig(name=f"npz:{path}"))


@pytest.mark.parametrize("shape", ["(10**12,)", (10**12, 8, 8), (-60, -8, 8), (2**62, 4, 1), (60, 8), (60, 8, 9)])
def test_a_header_that_lies_allocates_nothing(tmp_path, memory, shape):
    refused_data(npz(tmp_path / "lie.npz", {"images": numbers(shape) + bytes(60 * 8 * 8)}))
    assert memory() < 10_000_000


def test_a_member_larger_than_the_directory_tells_is_not_unpacked(tmp_path, memory):
    start = numbers((60, 8, 8))
    path = npz(tmp_path / "long.npz", {"images": start + bytes(50_000_000)}, images=len(start) + 60 * 8 * 8)
    tracemalloc.reset_peak()
    refused_data(path, "CRC")
    assert memory() < 10_000_000


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_are_not_unpickled(tmp_path):
    trap = np.empty(60, dtype=object)
    trap[:] = [Trap(tmp_path / "sprung")] * 60
    np.savez(tmp_path / "objects.npz", images=trap, labels=LABELS)
    refused_data(tmp_path / "objects.npz", "got Python objects, which could run code")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", ["-" * 9_000 + "1", "(" * 200, "{'descr': ',f8'}", "__import__('os')", "'", "[]"])
def test_headers_that_are_no_headers(tmp_path, text):
    refused_data(npz(tmp_path / "header.npz", {"images": header(text)}))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3), st.integers(0, 99))
def test_an_archive_with_changed_or_missing_bytes_is_read_or_refused(folder, packed, changes, cut):
    path = folder / "changed.npz"
    (np.savez_compressed if packed else np.savez)(path, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    for position, byte in changes:
        content[position % len(content)] = byte
    path.write_bytes(content[: len(content) - max(0, cut - 50)])
    with contextlib.suppress(DataError):
        load_data(DataConfig(name=f"npz:{path}"))


def test_places_that_are_no_files(tmp_path, pipe):
    refused_data(tmp_path)
    refused_data(pipe("pipe.npz"))
    refused_data("")
    refused_data("/" + "a" * 5_000)


# --- Fashion-MNIST and CIFAR -----------------------------------------------------------------------------------------


def idx(array, *sizes):
    """Content of an IDX file whose header may state another size."""
    return bytes([0, 0, 8, array.ndim]) + np.array(sizes or array.shape, ">u4").tobytes() + array.tobytes()


def fashion(folder, **changed):
    """Small files in place of Fashion-MNIST's, some of them replaced."""
    folder.mkdir(exist_ok=True)
    for name, n in (("train", 120), ("t10k", 20)):
        contents = {
            f"{name}_images": idx(np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)),
            f"{name}_labels": idx((np.arange(n) % 2).astype(np.uint8)),
        } | changed
        for kind in ("images-idx3", "labels-idx1"):
            content = gzip.compress(contents[f"{name}_{kind[:6]}"], compresslevel=1)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(content)
    return folder


def refused_fashion(folder, match):
    with pytest.raises(DataError, match=match):
        load_data(DataConfig(name="fashion-mnist", data_dir=str(folder)))


def test_a_gzip_bomb_is_unpacked_as_far_as_its_header_tells(tmp_path, memory):
    bomb = idx(np.zeros(120, dtype=np.uint8)) + bytes(100_000_000)
    fashion(tmp_path, train_labels=bomb)
    tracemalloc.reset_peak()
    refused_fashion(tmp_path, "train-labels-idx1-ubyte.gz: expected an IDX file")
    assert memory() < len(bomb) + 10_000_000  # this test's own, and no second one


@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 3, (60_000, 2_000, 2_000), (2**15, 2**8, 2**8)])
def test_sizes_that_no_such_file_has_are_refused_before_they_are_read(tmp_path, memory, sizes):
    refused_fashion(fashion(tmp_path, train_images=idx(np.zeros((1, 1, 1), np.uint8), *sizes)), "bytes of arrays")
    assert memory() < 10_000_000


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"t10k_images": idx(np.zeros((20, 9, 9), np.uint8))}, "images of one size"),
        ({"t10k_images": idx(np.zeros((19, 8, 8), np.uint8))}, "a label for each"),
        ({"t10k_images": idx(np.zeros((0, 8, 8), np.uint8))}, "a label for each"),
        ({"t10k_labels": idx(np.zeros((20, 1, 1), np.uint8))}, "t10k-labels-idx1-ubyte.gz: expected an IDX file"),
        ({"train_labels": idx(np.zeros(119, np.uint8))}, "one per image"),
        ({"t10k_images": bytes([0, 0, 8, 255]) + bytes(4 * 255)}, "expected an IDX file"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, changed, match):
    refused_fashion(fashion(tmp_path, **changed), match)


def test_links_may_lead_to_the_folder_and_within_it_but_not_out_of_it(tmp_path):
    place = fashion(tmp_path / "place")
    (tmp_path / "folder").symlink_to(place)
    name = "train-images-idx3-ubyte.gz"
    (place / name).rename(place / "moved")
    (place / name).symlink_to("moved")
    assert len(load_data(DataConfig(name="fashion-mnist", data_dir=str(tmp_path / "folder"))).test) == 20

    (place / "moved").rename(tmp_path / "elsewhere")
    (place / name).unlink()
    (place / name).symlink_to("../elsewhere")
    refused_fashion(place, rf"{name} to lie in .*, got a link to .*elsewhere; copy it")


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("fashion-mnist", "FashionMNIST"),
        ("fashion-mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
    ],
)
def test_torchvision_neither_reads_nor_writes_through_links(tmp_path, name, link):
    target = tmp_path / "target"
    target.mkdir()
    path = tmp_path / "data" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(target)
    with pytest.raises(DataError, match=r"to lie in .*, got a link to .*target"):
        load_data(DataConfig(name=name, data_dir=str(tmp_path / "data")))
    assert not [*target.iterdir()]


# --- presets ---------------------------------------------------------------------------------------------------------


def refused_preset(path, content=None):
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as error:
        parse_config(SearchConfig, CONFIGS / "search", ["--preset", str(path)])
    return "\n".join(error.value.problems)


LAUGHS = "l0: &l0 [lol, lol]\n" + "".join(
    f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 30)
)  # 10 ** 29 of them


@pytest.mark.parametrize(
    "content",
    [
        "study: !!python/object/apply:os.mkdir [sprung]",
        "study: !!python/object/new:os.mkdir [sprung]",
        "? !!python/object/apply:os.mkdir [sprung]\n: 3",
        "study: !!python/name:os.system ''",
        "seed: !!int abc",
        "seed: !!timestamp abc",
        LAUGHS,
        "&a a: *a",
        "&a [*a]",
        "a: &a {a: *a}",
        "[" * 10_000,
        "{a: " * 2_000 + "3" + "}" * 2_000,
        "study: " + "a" * 20_000,
        "study: \x01",
        "seed: 3\n\tdepth: 4",
    ],
    ids=lambda content: content[:25],
)
def test_yaml_runs_nothing_and_unfolds_to_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    assert "expected YAML" in refused_preset(tmp_path / "hostile.yaml", content)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("where", ["preset", "argument"])
@pytest.mark.parametrize("value", ["trap.Class", "{class_path: trap.Class}", "other.yaml"])
def test_a_value_imports_no_module_and_opens_no_file(tmp_path, monkeypatch, where, value):
    """A class path in a section is not imported, as jsonargparse would do."""
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\nclass Class: pass")
    (tmp_path / "other.yaml").write_text("max_vertices: 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if where == "preset":
        problem = refused_preset(tmp_path / "own.yaml", f"space: {value}")
    else:
        with pytest.raises(ConfigError) as error:
            parse_config(SearchConfig, CONFIGS / "search", ["--space", value])
        (problem,) = error.value.problems
    assert problem.startswith("space")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name",
    ["../search/digits", "../validate/digits", str(CONFIGS / "search" / "digits"), "", ".", "..", "digits.yaml",
     "nowhere.yaml", "a\0.yaml", "\0", "a" * 5_000, "a" * 5_000 + ".yaml", "*"],
)  # fmt: skip
def test_preset_names_are_names_and_preset_paths_are_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "preset: expected one of digits" in refused_preset(name)


def test_presets_that_are_no_files(tmp_path, pipe):
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "folder.yaml", pipe("pipe.yaml")):
        assert "preset: expected one of digits" in refused_preset(path)


# --- tables of trainings ---------------------------------------------------------------------------------------------


def table():
    trainings = Trainings({"scratch": {"epochs": 1}}, (0, 1), np.full((4, 2), 0.5), np.full((4, 2), 0.5), 1.5)
    rows = ((Dag(1), Dag(2)), (Dag(2, ((0, 1),)), Dag(3)))
    paths = np.array(list(itertools.product(range(2), repeat=2)))
    return Table(HyperArchitecture(rows), paths, "long", {"long": trainings}, (10, 10), "abc", "cpu")


def refused_table(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="expected a table of trainings in"):
        load_table(str(path))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("images", "test"), value) for value in (0, -1, 10.5, True, None, "10", [10], float("nan"), float("inf"), {})
    ] + [
        (("paths", 0), value) for value in ("0", "0 0 0", "0 2", "0 -1", "", "a", "0.5 0", None, 3, [0, 0],
                                            "9" * 30 + " 0", "9" * 5_000 + " 0")
    ] + [
        (("paths",), value) for value in ([], "", None, 3, {}, "0000", ["0 0"], [["0 0"]])
    ] + [
        (("trainings", "long", "test", 0), value) for value in ("11 0", "-1 0", "1", "1 2 3", "nan 0", None, "9" * 400)
    ] + [
        (("trainings", "long", "seeds"), value) for value in ([0], [0, 0], [0, "1"], [0, 1.5], [[0], [1]], [], None, 3)
    ] + [
        (("trainings", "long", "seconds"), value) for value in (-1, "1", None, float("nan"), float("inf"), [1], {})
    ] + [
        (("trainings", "long", "settings"), value) for value in (None, 3, "ab", [["a", 3]])
    ] + [
        (("rows", 0), value) for value in ("1:", "", "8: 8:", "1: x", None, 3, ["1:", "2:"], "1: 2:00", "1: 0:")
    ] + [
        (("rows",), value) for value in ([], None, "1: 2:", {}, ["1: 2:"])
    ] + [
        (("ground_truth",), value) for value in ("short", None, [], {})
    ] + [
        (("trainings",), value) for value in ({}, [], None, {"long": None}, {"long": {}})
    ],
)  # fmt: skip
def test_tables_with_values_that_do_not_fit(folder, place, value):
    content = json.loads(table().to_json())
    target = content
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    refused_table(folder / "table.json", json.dumps(content))


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        b"[" * 1_000_000,
        b'{"a": ' * 100_000,
        b"9" * 5_000,
        b"1e999",
        b"NaN",
        b'"\\ud800"',
        table().to_json().replace('"commit"', '"rows": [], "commit"'),
        table().to_json().replace('"long": {', '"long": {"seeds": [0, 1], "seeds": [2, 3],'),
        table().to_json().replace("1.5", "1e999"),
        table().to_json().replace("1.5", "Infinity"),
    ],
    ids=range(11),
)
def test_texts_that_are_no_tables(tmp_path, text):
    refused_table(tmp_path / "table.json", text)


def test_the_table_that_the_others_are_made_from_is_one(tmp_path):
    (tmp_path / "table.json").write_text(table().to_json())
    assert load_table(str(tmp_path / "table.json")).to_json() == table().to_json()


def test_a_table_too_large_is_not_read(tmp_path, memory):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**40)  # takes no place
    with pytest.raises(DataError, match="more than"):
        load_table(str(tmp_path / "large.json"))
    assert memory() < 10_000_000


@pytest.mark.parametrize(
    "name", ["../benchmarks/digits625", "", ".", "/", "a\0", "a\0.json", "a" * 5_000 + ".json", "*"]
)
def test_table_names_are_names(name):
    with pytest.raises(DataError, match="expected a table that is shipped"):
        load_table(name)


def test_tables_that_are_no_files(tmp_path, pipe):
    (tmp_path / "folder.json").mkdir()
    for path in (str(tmp_path / "folder.json"), pipe("pipe.json")):
        with pytest.raises(DataError, match="expected a table that is shipped"):
            load_table(path)
