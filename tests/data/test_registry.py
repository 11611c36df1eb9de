"""The registry of data sets agrees with what TFDS and the data sets' authors publish."""

import dataclasses
from pathlib import Path

import pytest
import tensorflow_datasets

from gankd_jax.data import registry
from gankd_jax.utils.errors import UserError


def published_hashes() -> dict[str, str]:
    """File name -> sha256, from the lists that TFDS ships."""
    root = Path(tensorflow_datasets.__file__).parent
    hashes = {}
    for name in ("url_checksums/mnist.txt", "url_checksums/cifar10.txt"):
        for line in (root / name).read_text().splitlines():
            _, _, sha256, file = line.split("\t")
            hashes[file] = sha256
    for line in (root / "datasets/celeb_a/checksums.tsv").read_text().splitlines():
        _, _, sha256, file = line.split("\t")
        hashes[file] = sha256
    return hashes


def test_hashes_are_those_that_tfds_publishes():
    published = published_hashes()
    files = [file for dataset in registry.DATASETS.values() for file in dataset.files]
    assert len(files) == 7
    assert {file.name: file.sha256 for file in files} == {
        file.name: published[file.name] for file in files
    }


def test_download_addresses_are_those_of_tfds():
    root = Path(tensorflow_datasets.__file__).parent / "url_checksums"
    text = (root / "mnist.txt").read_text() + (root / "cifar10.txt").read_text()
    urls = {file.url for name in ("mnist", "cifar10") for file in registry.get_dataset(name).files}
    assert len(urls) == 5
    assert all(f"{url}\t" in text for url in urls)


def test_each_data_set_is_registered_under_its_name():
    assert list(registry.DATASETS) == ["digits", "mnist", "cifar10", "celeb_a"]
    assert all(registry.get_dataset(name).name == name for name in registry.DATASETS)


def test_counts_are_those_of_the_data_sets_descriptions():
    assert sum(registry.get_dataset("digits").counts.values()) == 1797
    assert sum(registry.get_dataset("mnist").counts.values()) == 70_000
    assert sum(registry.get_dataset("cifar10").counts.values()) == 60_000
    assert sum(registry.get_dataset("celeb_a").counts.values()) == 202_599


def test_unknown_name_lists_the_names():
    with pytest.raises(UserError, match=r"'minst'.*digits, mnist, cifar10, celeb_a"):
        registry.get_dataset("minst")


def test_a_name_belongs_to_one_data_set():
    mnist = registry.get_dataset("mnist")
    registry.register_dataset(mnist)  # as when a notebook's cell is executed again
    with pytest.raises(UserError, match="'mnist' is registered already"):
        registry.register_dataset(dataclasses.replace(mnist, classes=5))
    assert registry.get_dataset("mnist") is mnist
