import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fade_study import DataError
from fade_study.datasets import FASHION14, shrink, shrink_fashion
from fade_study.training import Data, DataConfig, load_data
from fade_study.training.data import Batches, moved
from fade_study.training.files import read_fashion_mnist


def images(n=60, shape=(8, 8), classes=3):
    rng = np.random.default_rng(0)
    return {"images": rng.random((n, *shape)), "labels": np.arange(n) % classes}


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        return DataConfig(name=f"npz:{path}")

    return write


def rows(split):
    return {tuple(image) for image in split.images.flatten(1).numpy().round(5).tolist()}


def test_digits_are_split_4_1_1_disjoint_and_stratified():
    data = load_data(DataConfig())
    sizes = [len(split) for split in (data.weight, data.alpha, data.test)]
    assert sum(sizes) == 1797
    assert np.array(sizes) / 1797 == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.001)
    parts = [rows(split) for split in (data.weight, data.alpha, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797
    for split in (data.weight, data.alpha, data.test):
        shares = torch.bincount(split.labels) / len(split)
        torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert data.image_shape == (1, 8, 8)
    assert data.classes == 10
    assert data.chance == pytest.approx(0.1, abs=0.005)


def test_images_are_standardized_by_the_weight_split():
    data = load_data(DataConfig())
    assert data.weight.images.mean().item() == pytest.approx(0, abs=1e-4)
    assert data.weight.images.std().item() == pytest.approx(1, abs=1e-3)
    assert abs(data.test.images.mean().item()) > 1e-5


def test_the_same_seed_gives_the_same_split_and_another_another():
    assert load_data(DataConfig()).digest == load_data(DataConfig()).digest
    assert load_data(DataConfig(split_seed=1)).digest != load_data(DataConfig()).digest


def test_limit_keeps_the_shares_of_classes():
    data = load_data(DataConfig(limit=300))
    assert sum(len(split) for split in (data.weight, data.alpha, data.test)) == 300
    assert torch.bincount(torch.cat([s.labels for s in (data.weight, data.alpha, data.test)])).min() >= 28


def a_pass(split, batch_size, generator, **options):
    """Micro-batches of all steps."""
    batches = Batches(split, batch_size, generator, **options)
    return [batch for _ in range(batches.steps) for batch in batches.next()]


def test_a_pass_takes_every_image_at_most_once(digits):
    generator = torch.Generator().manual_seed(0)
    batches = a_pass(digits.weight, 32, generator)
    assert [len(batch.labels) for batch in batches] == [32] * (len(digits.weight) // 32)
    seen = torch.cat([batch.images for batch in batches]).flatten(1)
    assert len(torch.unique(seen, dim=0)) == len(seen)
    assert len(a_pass(digits.weight, 10_000, generator)) == 1


def seeded_pass(digits, **options):
    return a_pass(digits.weight, 32, torch.Generator().manual_seed(0), **options)


def test_processes_share_a_batch_without_loss_or_repetition(digits):
    whole = seeded_pass(digits)
    shares = [seeded_pass(digits, rank=r, ranks=3) for r in range(3)]
    for step, batch in enumerate(whole):
        assert sum(len(share[step].labels) for share in shares) == len(batch.labels) == batch.size
        assert rows_of(batch.images) == set.union(*(rows_of(share[step].images) for share in shares))
        scores = torch.randn(len(batch.labels), digits.classes)
        parts = [share[step].loss(scores[rank::3]) for rank, share in enumerate(shares)]
        torch.testing.assert_close(sum(parts), batch.loss(scores))
        torch.testing.assert_close(batch.loss(scores), F.cross_entropy(scores, batch.labels), rtol=0, atol=0)


def test_images_are_moved_and_then_mirrored():
    images = torch.rand(5, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    index, moves = torch.tensor([4, 0, 1, 0]), torch.tensor([[0, 1, -1, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    found = moved(images, index, moves)
    assert found.is_contiguous(memory_format=torch.channels_last)
    same, lower, up_right, mirrored = found
    assert torch.equal(same, images[4])
    assert torch.equal(lower, images[0][:, [0, 0, 1, 2, 3, 4, 5, 6]])
    assert torch.equal(up_right, images[1][:, [1, 2, 3, 4, 5, 6, 7, 7]][:, :, [0, 0, 1, 2, 3, 4, 5, 6, 7]])
    assert torch.equal(mirrored.flip(2), images[0][:, :, [0, 0, 1, 2, 3, 4, 5, 6, 7]])


def test_augmented_batches():
    data = load_data(DataConfig(limit=300, augment="crop-flip"))
    plain = load_data(DataConfig(limit=300))
    assert data.digest != plain.digest
    assert torch.equal(data.weight.images, plain.weight.images)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(data.weight, 16, generator)
    first, second = ([batches.next()[0] for _ in range(batches.steps)] for _ in range(2))
    of_first, of_second = (set.union(*(rows(batch) for batch in one)) for one in (first, second))
    assert len(of_first & of_second) < len(of_first) / 2  # most images are changed, in every pass in another way
    alpha = Batches(data.alpha, 16, generator)
    assert rows(alpha.next()[0]) < rows(data.alpha)

    # A checkpoint within a pass goes on with the same images, and processes share a batch of the same images.
    batches.next()
    other = Batches(data.weight, 16, torch.Generator())
    other.load_state_dict(batches.state_dict())
    (expected,), (found,) = batches.next(), other.next()
    assert torch.equal(found.images, expected.images)
    whole, *shares = (
        Batches(data.weight, 16, torch.Generator().manual_seed(1), rank=r, ranks=n).next()[0]
        for r, n in [(0, 1), (0, 2), (1, 2)]
    )
    assert torch.equal(whole.images[0::2], shares[0].images)
    assert torch.equal(whole.images[1::2], shares[1].images)


@pytest.mark.parametrize("ranks", [2, 4])
def test_micro_batches_are_the_same_for_any_number_of_processes(digits, ranks):
    alone = seeded_pass(digits, micro_batches=4)
    assert {len(batch.labels) for batch in alone} == {8}
    together = [seeded_pass(digits, micro_batches=4, rank=r, ranks=ranks) for r in range(ranks)]
    own = 4 // ranks
    for number, expected in enumerate(alone):
        step, part = divmod(number, 4)
        assert torch.equal(together[part // own][step * own + part % own].images, expected.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 5}, "for each process, got 5 of them for batches of 4; use fewer, or larger batches"),
        ({"micro_batches": 8}, "for each micro-batch, got 8 of them for batches of 4; use fewer, or larger batches"),
        ({"micro_batches": 4, "ranks": 3}, "expected micro-batches that 3 processes can share, got 4"),
        ({"micro_batches": 2, "ranks": 4}, "expected micro-batches that 4 processes can share, got 2"),
    ],
)
def test_micro_batches_without_images_or_processes_without_micro_batches_are_refused(digits, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(digits.weight, 4, torch.Generator(), **options)


def rows_of(images):
    return {tuple(image) for image in images.flatten(1).tolist()}


@pytest.mark.parametrize(
    ("shape", "expected"), [((8, 8), (1, 8, 8)), ((3, 8, 8), (3, 8, 8)), ((6, 6, 3), (3, 6, 6)), ((9, 5), (1, 9, 5))]
)
def test_npz_of_ones_own(npz, shape, expected):
    data = load_data(npz(**images(shape=shape)))
    assert data.image_shape == expected
    assert data.classes == 3


@pytest.mark.parametrize(
    ("shape", "layout", "understood"),
    [
        ((8, 8), None, (1, 8, 8)),
        ((3, 8, 8), None, (3, 8, 8)),
        ((8, 8, 4), None, (4, 8, 8)),
        ((9, 9, 13), "channels-last", (13, 9, 9)),
        ((8, 16, 3), "channels-first", (8, 16, 3)),
        ((8, 16, 3), "channels-last", (3, 8, 16)),
        ((3, 3, 3), "channels-last", (3, 3, 3)),
    ],
)
def test_layouts(npz, shape, layout, understood):
    data = load_data(dataclasses.replace(npz(**images(shape=shape)), layout=layout))
    assert data.image_shape == understood


@pytest.mark.parametrize("shape", [(9, 9, 13), (8, 16, 3), (3, 8, 16), (3, 3, 3), (5, 5, 5)])
def test_a_layout_that_can_be_read_in_two_ways_is_refused(npz, shape):
    with pytest.raises(DataError, match=r"which may be \d+ channels of .*; set data\.layout"):
        load_data(npz(**images(shape=shape)))


def test_channels_last_arrays_are_transposed(npz):
    arrays = images(shape=(8, 8, 3))
    first = load_data(npz(images=arrays["images"].transpose(0, 3, 1, 2), labels=arrays["labels"]))
    last = load_data(npz(**arrays))
    torch.testing.assert_close(first.weight.images, last.weight.images)


def test_a_file_sorted_by_class_gives_mixed_splits(npz):
    arrays = images(n=600)
    order = np.argsort(arrays["labels"], kind="stable")
    data = load_data(npz(images=arrays["images"][order], labels=arrays["labels"][order]))
    for split in (data.weight, data.alpha, data.test):
        assert all(len(chunk.unique()) == 3 for chunk in split.labels.tensor_split(5))


def test_chance_is_the_share_of_the_most_frequent_class(npz):
    data = load_data(npz(images=images(n=600)["images"], labels=(np.arange(600) % 10 == 0).astype(int)))
    assert data.chance == pytest.approx(0.9, abs=0.01)


def test_labels_need_not_be_consecutive(npz):
    arrays = images()
    data = load_data(npz(images=arrays["images"], labels=arrays["labels"] * 7 - 3))
    assert data.weight.labels.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, r"arrays 'images' and 'labels', got \['pictures'\]"),
        (images() | {"images": np.zeros((60, 8))}, "shape"),
        (images() | {"images": np.zeros((60, 0, 8))}, "shape"),
        (images() | {"labels": np.arange(59) % 3}, r"shape \(60,\)"),
        (images() | {"labels": np.arange(60) / 3}, "whole-numbered labels"),
        (images() | {"labels": np.zeros(60, dtype=int)}, "two or more classes"),
        (images() | {"images": np.full((60, 8, 8), np.nan)}, "finite in single precision"),
        (images() | {"images": np.full((60, 8, 8), 1e300)}, "finite in single precision"),
        (images() | {"images": np.full((60, 8, 8), np.inf, dtype=np.float16)}, "finite in single precision"),
        (images() | {"images": np.full((60, 8, 8), "a")}, "integers or floats"),
        (images(n=2, classes=5), "6 or more images of every class"),
        (images(n=60, classes=60), "6 or more images of every class"),
        (images() | {"images": np.array([None] * 60)}, "plain number arrays"),
    ],
)
def test_npz_that_cannot_be_trained_on_is_refused(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        load_data(npz(**arrays))


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(DataError, match="can be read"):
        load_data(DataConfig(name=f"npz:{tmp_path / 'missing.npz'}"))
    for content in (b"text", b"", b"PK\x03\x04 cut"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"expected an \.npz"):
            load_data(DataConfig(name=f"npz:{tmp_path / 'broken.npz'}"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"expected an \.npz"):
        load_data(DataConfig(name=f"npz:{tmp_path / 'array.npy'}"))


def test_fashion14_is_made_from_the_original_files():
    """This needs the files of Debian's package ``dataset-fashion-mnist``."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("the original files of Fashion-MNIST are not here")
    images, labels, _ = read_fashion_mnist(folder)
    made = shrink_fashion(images, labels)
    with np.load(FASHION14) as shipped:
        np.testing.assert_array_equal(made[0], shipped["images"])
        np.testing.assert_array_equal(made[1], shipped["labels"])


def test_fashion14_is_split_as_documented():
    data = load_data(DataConfig(name="fashion14"))
    assert [len(data.weight), len(data.alpha), len(data.test)] == [24_000, 6_000, 10_000]
    assert data.image_shape == (1, 14, 14)
    for split, count in ((data.weight, 2400), (data.alpha, 600), (data.test, 1000)):
        assert split.labels.bincount().tolist() == [count] * 10
    assert FASHION14.stat().st_size < 6 * 2**20


def test_shrinking_takes_means_of_2_by_2_pixels_rounded_half_up():
    image = np.array([[[1, 2, 255, 255], [2, 1, 255, 255], [0, 0, 0, 1], [0, 1, 1, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(shrink(image), [[[2, 255], [0, 1]]])


def test_small_differences_between_large_values_are_kept(tmp_path):
    """In single precision, 2**30 and 2**30 + 49 are equal."""
    rng = np.random.default_rng(0)
    images = rng.integers(50, size=(60, 4, 4))
    labels = np.arange(60) % 2
    for name, shift in (("small", 0), ("large", 2**30)):
        np.savez(tmp_path / f"{name}.npz", images=(images + shift).astype(np.int32), labels=labels)
    small, large = (load_data(DataConfig(name=f"npz:{tmp_path / name}.npz")) for name in ("small", "large"))
    torch.testing.assert_close(large.weight.images, small.weight.images, rtol=0, atol=1e-6)
    assert large.weight.images.std() == pytest.approx(1, abs=0.01)


def test_images_without_any_spread_are_refused(tmp_path):
    np.savez(tmp_path / "flat.npz", images=np.full((60, 4, 4), 7), labels=np.arange(60) % 2)
    with pytest.raises(DataError, match="expected images that differ, got the same value in all pixels"):
        load_data(DataConfig(name=f"npz:{tmp_path / 'flat.npz'}"))


def test_unknown_names_and_limits():
    with pytest.raises(DataError, match="a data set among fashion14, digits, fashion-mnist"):
        load_data(DataConfig(name="imagenet"))
    with pytest.raises(DataError, match="up to 1787 of the 1797 images"):
        load_data(DataConfig(limit=1795))
    with pytest.raises(DataError, match="every class"):
        load_data(DataConfig(limit=30))


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_missing_files_without_a_network(tmp_path, monkeypatch, name):
    """No proxy answers at this address, whether or not the machine has a network."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DataError, match=rf"expected {name} in .*{tmp_path.name}.*--data\.name fashion14"):
        load_data(DataConfig(name=name, data_dir=str(tmp_path / "data")))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw"])
def test_fashion_mnist_from_its_raw_files(tmp_path, packed, folder):
    rng = np.random.default_rng(0)
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", 120), ("t10k", 20)):
        arrays = {
            "images-idx3-ubyte": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            "labels-idx1-ubyte": (np.arange(n) % 10).astype(np.uint8),
        }
        for kind, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = header + array.tobytes()
            path = where / f"{name}-{kind}"
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(content)) if packed else path.write_bytes(
                content
            )
    data = load_data(DataConfig(name="fashion-mnist", data_dir=str(tmp_path)))
    assert [len(s) for s in (data.weight, data.alpha, data.test)] == [96, 24, 20]  # the official test set stays whole
    assert data.image_shape == (1, 28, 28)

    cut = next(where.glob("t10k-labels*"))
    whole = cut.read_bytes()
    for broken in (gzip.compress(b"\0\0\x08\x01\0\0\0\x14"), whole[:-1], whole[:7], b""):
        cut.write_bytes(broken)
        with pytest.raises(DataError, match="a truncated one"):
            load_data(DataConfig(name="fashion-mnist", data_dir=str(tmp_path)))


def test_what_a_notebook_shows_is_one_line():
    assert (
        repr(load_data(DataConfig(name="digits")))
        == "Data('digits', 1198 + 299 + 300 images of shape (1, 8, 8), 10 classes)"
    )


def test_arrays_and_data_sets_of_ones_own_are_split_like_a_file(npz):
    own = images(shape=(3, 8, 8))
    data = Data.from_arrays(own["images"], own["labels"] + 7)
    assert data.digest == load_data(npz(**own)).digest
    assert (data.name, data.labels) == ("own", (7, 8, 9))
    tensors = torch.utils.data.TensorDataset(torch.tensor(own["images"]), torch.tensor(own["labels"]))
    assert Data.from_dataset(tensors).digest == data.digest
    with pytest.raises(DataError, match="expected images of shape"):
        Data.from_arrays(own["labels"], own["labels"])


def test_new_images_are_prepared_like_the_stored_ones():
    own = images(shape=(3, 8, 8))
    data = Data.from_arrays(own["images"], own["labels"])
    stored = torch.cat([split.images for split in (data.weight, data.alpha, data.test)])
    prepared = (torch.tensor(own["images"]) - data.mean) / data.deviation
    torch.testing.assert_close(stored.sum(), prepared.sum().float())
    torch.testing.assert_close(stored.square().sum(), prepared.square().sum().float())
