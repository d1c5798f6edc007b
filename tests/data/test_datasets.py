"""Each dataset in its real format comes out as uint8 images, int64 labels and the training split's statistics."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from bitdial.data import DATASETS, FolderSplit, Split, dataset_from_tensors, load_dataset, make_loader
from bitdial.data.dataset import stratified_split
from bitdial.data.published import DEBIAN_FASHION_MNIST
from bitdial.errors import BitdialError
from tests.data.files import write_idx, write_images


def test_digits_are_the_same_stratified_division_every_time() -> None:
    first, again = load_dataset("digits"), load_dataset("digits", seed=7)
    assert isinstance(first.train, Split)
    assert isinstance(again.train, Split)
    assert (first.in_channels, first.image_size, first.num_classes) == (1, 8, 10)
    assert len(first.train) + len(first.test) == 1797
    assert torch.equal(first.train.images, again.train.images)
    shares = torch.bincount(first.test.labels) / torch.bincount(torch.cat([first.train.labels, first.test.labels]))
    assert shares.min() > 0.19
    assert shares.max() < 0.21
    assert first.train.images.dtype == torch.uint8
    assert first.train.images.max() == 255  # 16 of 16


def test_no_test_digit_is_a_training_digit_of_the_raw_set() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    both = torch.cat([data.train.images, data.test.images]).flatten(1)
    raw = torch.from_numpy(np.rint(load_digits().images * 255 / 16)).to(torch.uint8).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, raw.tolist()))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "inside"), [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion_mnist", "raw"), ("fashion-mnist", ".")]
)
def test_idx_files_are_found_in_the_usual_places(tmp_path: Path, name: str, inside: str, zipped: bool) -> None:
    written = write_idx(tmp_path / inside, zipped=zipped)
    data = load_dataset(name, tmp_path)
    assert isinstance(data.train, Split)
    assert np.array_equal(data.train.images[:, 0].numpy(), written["train"])
    assert data.test.labels.tolist() == list(range(10))
    assert data.train.flip == (name != "mnist")


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="package dataset-fashion-mnist is not installed")
def test_packaged_fashion_mnist_is_the_published_set() -> None:
    data = load_dataset("fashion-mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.mean == pytest.approx((0.2860,), abs=5e-5)  # the figures that everyone normalises by
    assert data.std == pytest.approx((0.3530,), abs=5e-5)
    assert data.class_names[9] == "Ankle boot"


def test_without_data_path_mnist_is_downloaded_once_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path))
    downloads = []

    class MNIST:
        def __init__(self, root: Path, download: bool) -> None:
            downloads.append(root)
            write_idx(root / "MNIST" / "raw", zipped=True)

    monkeypatch.setattr(datasets, "MNIST", MNIST)
    assert len(load_dataset("mnist").train) == 20
    assert len(load_dataset("mnist").train) == 20
    assert downloads == [tmp_path]


def test_cifar10_is_read_from_its_folder_or_the_one_above(cifar10_folder: tuple[Path, np.ndarray]) -> None:
    folder, pixels = cifar10_folder
    for place in (folder, folder.parent):
        data = load_dataset("cifar10", place)
        assert isinstance(data.train, Split)
        assert np.array_equal(data.train.images.numpy(), pixels[:5].reshape(40, 3, 32, 32))
        assert data.train.labels[:4].tolist() == [0, 3, 6, 9]
        assert data.class_names[2] == "class 2"
        assert data.train.flip


def test_cifar10_archive_is_unpacked(cifar10_folder: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = cifar10_folder
    other = folder.parent / "other"
    other.mkdir()
    archive = other / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load_dataset("cifar10", other).train) == 40


def test_altered_cifar10_is_refused_before_it_is_unpickled(cifar10_folder: tuple[Path, np.ndarray]) -> None:
    folder, _ = cifar10_folder
    (folder / "data_batch_3").write_bytes(b"cos\nsystem\n(S'echo owned'\ntR.")
    with pytest.raises(BitdialError, match=r"differs from the published files.*unpack cifar-10-python\.tar\.gz again"):
        load_dataset("cifar10", folder)


def test_statistics_are_those_of_the_training_images_in_unit_scale() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 9, 9), dtype=torch.uint8, generator=random)
    labels = torch.arange(50) % 5
    data = dataset_from_tensors("t", (images, labels), (images[:5] // 2, labels[:5]))
    unit = images.double() / 255
    assert data.mean == pytest.approx(unit.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(unit.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_normalised_training_data_has_mean_zero_and_deviation_one_even_where_a_channel_is_constant() -> None:
    images = torch.randint(0, 256, (64, 2, 4, 4), dtype=torch.uint8)
    images[:, 1] = 9
    data = dataset_from_tensors("t", (images, torch.arange(64) % 2), (images[:2], torch.tensor([0, 1])))
    x, _ = next(iter(make_loader(data.train, 64, train=False)))
    assert x[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert x[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert x[:, 1].abs().max().item() == pytest.approx(0, abs=1e-5)


def test_resizing_keeps_type_and_mean() -> None:
    data, large = load_dataset("digits"), load_dataset("digits", image_size=32)
    assert isinstance(large.train, Split)
    assert large.train.images.shape[1:] == (1, 32, 32)
    assert large.train.images.dtype == torch.uint8
    assert large.mean == pytest.approx(data.mean, abs=0.01)


def test_oblong_images_are_scaled_by_the_shorter_side_and_centred() -> None:
    images = torch.zeros(4, 1, 10, 30, dtype=torch.uint8)
    images[..., 10:20] = 200  # exactly the centre square
    data = dataset_from_tensors("t", (images, torch.arange(4)), (images, torch.arange(4)), image_size=10)
    assert isinstance(data.train, Split)
    assert torch.equal(data.train.images, torch.full((4, 1, 10, 10), 200, dtype=torch.uint8))


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize("floating", [True, False])
def test_array_files(tmp_path: Path, suffix: str, floating: bool) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 3, 6, 6)) if floating else random.integers(0, 256, (30, 3, 6, 6), dtype=np.uint8)
    arrays = {"x_train": x[:20], "y_train": np.arange(20) % 4, "x_test": x[20:], "y_test": np.arange(10) % 4}
    path = tmp_path / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, path)
    data = load_dataset("npz", path)
    assert (data.num_classes, data.in_channels, data.image_size) == (4, 3, 6)
    assert not data.train.flip
    assert isinstance(data.train, Split)
    assert data.train.images.dtype == (torch.float32 if floating else torch.uint8)
    x_batch, _ = next(iter(make_loader(data.test, 10, train=False)))
    unit = x[20:] if floating else x[20:] / 255
    mean, std = (np.array(each)[:, None, None] for each in (data.mean, data.std))
    assert np.allclose(x_batch.numpy(), (unit - mean) / std, atol=1e-5)


def test_array_file_with_one_set_holds_out_a_fifth_by_seed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8),
             y=np.arange(50) % 5)  # fmt: skip
    first, same, other = (load_dataset("npz", tmp_path / "d.npz", seed=seed) for seed in (1, 1, 2))
    held = [sorted(each.test.images[:, 0, 0, 0].tolist()) for each in (first, same, other)]  # type: ignore[attr-defined]
    assert held[0] == held[1] != held[2]
    assert torch.bincount(first.test.labels).tolist() == [2] * 5


def test_channels_last_arrays_are_turned(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    y = np.arange(10) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load_dataset("npz", tmp_path / "d.npz")
    assert isinstance(data.train, Split)
    assert np.array_equal(data.train.images.numpy(), x.transpose(0, 3, 1, 2))


def test_folder_with_its_own_validation_images(image_folder: Path) -> None:
    data = load_dataset("folder", image_folder)
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert data.train.images[7, :, 3, 3].tolist() == [51, 7, 9]  # the second dog
    assert data.test.images[3, 0, 0, 0] == 150


def test_folder_on_disk_yields_the_same_batches_as_in_memory(image_folder: Path) -> None:
    held = load_dataset("folder", image_folder, image_size=8)
    lazy = load_dataset("folder", image_folder, image_size=8, memory_limit=0)
    assert isinstance(held.train, Split)
    assert isinstance(lazy.train, FolderSplit)
    assert held.mean == lazy.mean
    before = torch.get_rng_state()
    for workers in (0, 2):
        ours = make_loader(lazy.train, 5, train=True, seed=3, workers=workers)
        theirs = make_loader(held.train, 5, train=True, seed=3)
        for (x, y), (x_held, y_held) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x_held)
            assert torch.equal(y, y_held)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(lazy.test.subset(torch.tensor([4, 1])).labels, torch.tensor([1, 0]))


def test_one_folder_of_classes_is_divided_the_same_way_each_time(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_images(tmp_path / name, 10, base=number * 20)
    first, again = load_dataset("folder", tmp_path), load_dataset("folder", tmp_path)
    assert torch.bincount(first.train.labels).tolist() == [8, 8, 8]
    assert torch.equal(first.test.images, again.test.images)  # type: ignore[attr-defined]
    reds = torch.cat([first.train.images, first.test.images])[:, 0, 0, 0]  # type: ignore[attr-defined]
    assert sorted(reds.tolist()) == sorted(n * 20 + i for n in range(3) for i in range(10))


def test_a_class_without_validation_images_keeps_the_numbers_of_the_others(image_folder: Path) -> None:
    write_images(image_folder / "train" / "bat", 2)
    data = load_dataset("folder", image_folder)
    assert data.class_names == ("bat", "cat", "dog")
    assert data.test.labels.tolist() == [1] * 3 + [2] * 3


def test_stratified_split_keeps_one_training_sample_of_every_class() -> None:
    labels = torch.tensor([0] * 10 + [1])
    train, test = stratified_split(labels, 0.9, seed=0)
    assert torch.bincount(labels[train]).tolist() == [1, 1]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(11))


def test_every_name_is_understood_with_hyphens_or_underscores() -> None:
    for name in DATASETS:
        with pytest.raises(BitdialError) as caught:
            load_dataset(name.replace("-", "_"), "/does/not/exist")
        assert "unknown dataset" not in str(caught.value)


def test_a_gzip_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BitdialError, match=r"cannot read .*train-images-idx3-ubyte\.gz: .*get the file again"):
        load_dataset("mnist", tmp_path)
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"))
    with pytest.raises(BitdialError, match="should hold 13 bytes by its header, got 11"):
        load_dataset("mnist", tmp_path)
    path.write_bytes(gzip.compress(b"<html>"))
    with pytest.raises(BitdialError, match="not an IDX file"):
        load_dataset("mnist", tmp_path)
