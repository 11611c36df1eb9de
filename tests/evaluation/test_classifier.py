"""Evaluation classifiers: training, cache, augmentation, use as feature extractors."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.evaluation import classifier as module
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier
from gankd_jax.models.classifiers import LeNet


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[ImageSplit, ImageSplit]:
    """Training and test digits."""
    data_dir = tiny.prepare_data(tiny.session_dir(tmp_path_factory))
    sizes = {"data_dir": data_dir, "image_size": 16, "pad": 1}
    return load_split("digits", "train", **sizes), load_split("digits", "test", **sizes)


@pytest.fixture
def trained_keys(monkeypatch) -> list[str]:
    """Shortens training to 100 steps; returns the key of each data set that is trained on."""
    keys, train = [], module._train

    def train_and_record(network, images, title):
        keys.append(images.key)
        return train(network, images, title)

    monkeypatch.setattr(module, "STEPS", 100)
    monkeypatch.setattr(module, "_train", train_and_record)
    return keys


def test_products_are_in_float32_on_every_device():
    network, image = LeNet(10, 16, 1), jnp.zeros((2, 16, 16, 1))
    params = network.init(jax.random.key(0), image)["params"]
    text = module._apply.lower(network, params, image).as_text()
    products = re.findall(r".*(?:dot_general|convolution\().*", text)
    assert len(products) == 5  # three convolutions, two dense layers
    assert all(line.count("HIGHEST") == 2 for line in products), products


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, digits) -> EvalClassifier:
    return load_or_train_classifier(
        *digits, tiny.prepare_data(tiny.session_dir(tmp_path_factory)) / "gankd_cache"
    )


def test_classifier_learns_the_digits_and_reports_its_accuracy(classifier, digits):
    _, test = digits
    logits, features = classifier(np.asarray(test.pixels))
    is_correct = np.asarray(logits).argmax(axis=1) == test.labels
    assert classifier.accuracy == is_correct.mean()
    assert classifier.accuracy > 0.9
    assert logits.shape == (359, 10)
    assert features.shape == (359, 128)
    assert np.asarray(features).min() >= 0


@pytest.mark.slow
def test_classifier_is_trained_once_and_then_read_from_the_cache(
    tmp_path, digits, trained_keys, classifier
):
    first = load_or_train_classifier(*digits, tmp_path)
    again = load_or_train_classifier(*digits, tmp_path)
    assert len(trained_keys) == 1
    # Training is deterministic.
    assert first.weights_sha256 == again.weights_sha256 == classifier.weights_sha256
    assert first.accuracy == again.accuracy
    assert tiny.differences(first.params, again.params) == []
    images = digits[1].pixels[:50]
    for a, b in zip(first(images), again(images), strict=True):
        assert np.array_equal(a, b)


def test_classifier_is_used_where_the_cache_cannot_be_written(
    tmp_path, digits, classifier, monkeypatch, caplog
):
    monkeypatch.setattr(module, "_train", lambda *_, **__: classifier.params)
    (tmp_path / "read-only").touch()  # a file, in which no folder can be made
    result = load_or_train_classifier(*digits, tmp_path / "read-only")
    assert result.weights_sha256 == classifier.weights_sha256
    assert result.accuracy == classifier.accuracy
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("changed", ["train", "test"])
def test_other_data_train_another_classifier(tmp_path, digits, trained_keys, monkeypatch, changed):
    monkeypatch.setattr(
        module, "_train", lambda network, images, title: trained_keys.append(images.key) or {}
    )
    monkeypatch.setattr(module, "_accuracy", lambda *_: 0.5)
    train, test = digits
    load_or_train_classifier(train, test, tmp_path)
    splits = {"train": train, "test": test}
    splits[changed] = dataclasses.replace(splits[changed], key="another")
    load_or_train_classifier(splits["train"], splits["test"], tmp_path)
    load_or_train_classifier(train, test, tmp_path)
    assert len(trained_keys) == len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_second_classifier_is_another_network_with_its_own_cache_file(
    tmp_path, digits, monkeypatch
):
    monkeypatch.setattr(module, "STEPS", 200)
    mixer = load_or_train_classifier(*digits, tmp_path, "mixer")
    assert mixer.accuracy > 0.85
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["mixer"]
    extractor = mixer.make_extractor(80)
    features = extractor.extract(digits[1].pixels[:30])
    assert features[extractor.pair_layer].shape == (30, 64)
    assert (extractor.pair_layer, extractor.fd_layers) == ("mixer", ("mixer",))
    again = load_or_train_classifier(*digits, tmp_path, "mixer")
    assert (again.kind, again.weights_sha256) == ("mixer", mixer.weights_sha256)


def test_unlabelled_images_raise_value_error(tmp_path, digits):
    train, test = digits
    with pytest.raises(ValueError, match="labels"):
        load_or_train_classifier(dataclasses.replace(train, labels=None), test, tmp_path)


def test_hash_depends_on_every_parameter(classifier):
    sha256 = module._hash_params(jax.tree.map(np.asarray, classifier.params))
    assert sha256 == classifier.weights_sha256
    assert len(sha256) == 64
    changed = {**classifier.params, "bias1": np.asarray(classifier.params["bias1"]) + 1e-3}
    assert module._hash_params(changed) != classifier.weights_sha256


def test_extractor_returns_the_classifiers_logits_and_features(classifier, digits):
    images = digits[1].pixels[:30]
    extractor = classifier.make_extractor(80)
    outputs = extractor.extract(images)
    logits, features = classifier(images)
    assert np.array_equal(outputs[extractor.logit_layer], logits)
    assert np.array_equal(outputs[extractor.pair_layer], features)
    assert (extractor.fd_layers, extractor.batch_size) == (("classifier",), 80)
    assert classifier.weights_sha256[:12] in extractor.name
    assert f"{classifier.accuracy:.4f}" in extractor.description


@pytest.mark.parametrize("size", [16, 32])
def test_training_images_are_shifted_by_every_whole_number_of_pixels(size):
    max_shift = size // 16
    images = np.random.default_rng(0).normal(size=(200, size, size, 1)).astype(np.float32)
    shifted = np.asarray(module._random_shift(jax.random.key(1), jnp.asarray(images)))
    padded = np.pad(
        images, ((0, 0), (max_shift, max_shift), (max_shift, max_shift), (0, 0)), mode="edge"
    )
    occurring_shifts = set()
    for image, padded_image in zip(shifted, padded, strict=True):
        shifts = [
            (down, right)
            for down, right in itertools.product(range(2 * max_shift + 1), repeat=2)
            if np.array_equal(image, padded_image[down : down + size, right : right + size])
        ]
        assert len(shifts) == 1
        occurring_shifts.add(shifts[0])
    assert len(occurring_shifts) == (2 * max_shift + 1) ** 2
