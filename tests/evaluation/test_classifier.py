"""Evaluation classifiers: training, cache, augmentation, use as feature extractors."""

import dataclasses
import functools
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.evaluation import classifier as module
from gankd_jax.evaluation import classifier_training as training
from gankd_jax.evaluation.classifier import (
    CLASSIFIERS,
    EvalClassifier,
    load_or_train_classifier,
)
from gankd_jax.models.classifiers import compute_whitening
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import configs_dir


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[ImageSplit, ImageSplit]:
    """Training and test digits."""
    data_dir = tiny.prepare_data(tiny.session_dir(tmp_path_factory))
    sizes = {"data_dir": data_dir, "image_size": 16, "pad": 1}
    return load_split("digits", "train", **sizes), load_split("digits", "test", **sizes)


@pytest.fixture
def trained_keys(monkeypatch) -> list[str]:
    """Makes networks small and training short; returns the key of each data set trained on."""
    keys, train = [], training.train_classifier

    def train_and_record(network, images, **arguments):
        keys.append(images.key)
        return train(network, images, **arguments)

    monkeypatch.setattr(training, "MIN_STEPS", 60)
    monkeypatch.setattr(training, "EPOCHS", 1)
    monkeypatch.setattr(module, "choose_width", lambda *_: 4)
    monkeypatch.setattr(module, "train_classifier", train_and_record)
    return keys


@pytest.mark.parametrize(("kind", "products"), [("classifier", 8), ("resnet", 10)])
def test_products_are_in_float32_on_every_device(kind, products):
    network, image = CLASSIFIERS[kind](10, 1, 4), jnp.zeros((2, 16, 16, 1))
    variables = network.init(jax.random.key(0), image)
    text = module._apply.lower(network, variables, image).as_text()
    lines = re.findall(r".*(?:dot_general|convolution\().*", text)
    assert len(lines) == products
    assert all(line.count("HIGHEST") == 2 for line in lines), lines


@pytest.fixture(scope="module")
def classifier(digits) -> EvalClassifier:
    """The package's classifier of the digits."""
    return load_or_train_classifier(*digits, Path("/nowhere"), dataset="digits")


def test_the_packages_classifier_has_the_accuracy_that_its_file_says(classifier, digits):
    _, test = digits
    logits, features = classifier(np.asarray(test.pixels))
    is_correct = np.asarray(logits).argmax(axis=1) == test.labels
    assert classifier.accuracy == is_correct.mean()
    assert classifier.accuracy >= 0.995
    assert logits.shape == (359, 10)
    assert features.shape == (359, 64)


def test_files_of_the_package_are_small_and_their_classifiers_accurate():
    bounds = {"digits": 0.99, "mnist": 0.995, "cifar10": 0.92}
    files = sorted((configs_dir() / "classifiers").iterdir())
    assert files
    for path in files:
        dataset, size, kind = path.stem.split("-")
        channels = 3 if dataset == "cifar10" else 1
        network = module.build_classifier(kind, 10, int(size), channels)
        assert path.stat().st_size < 4e6
        assert module.read_classifier(path, kind, network).accuracy >= bounds[dataset]


def test_classifier_is_trained_once_and_then_read_from_the_cache(tmp_path, digits, trained_keys):
    first = load_or_train_classifier(*digits, tmp_path)
    again = load_or_train_classifier(*digits, tmp_path)
    assert len(trained_keys) == 1
    assert first.weights_sha256 == again.weights_sha256
    assert first.accuracy == again.accuracy > 0.3
    assert tiny.differences(first.variables, again.variables) == []
    images = digits[1].pixels[:50]
    for a, b in zip(first(images), again(images), strict=True):
        assert np.array_equal(a, b)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_other_labels_of_the_same_images_are_trained_on_anew(tmp_path, digits, trained_keys):
    train, test = (
        dataclasses.replace(split, pixels=split.pixels[:130], labels=split.labels[:130])
        for split in digits
    )
    load_or_train_classifier(train, test, tmp_path, classes=10)
    other_test = dataclasses.replace(test, labels=9 - test.labels)
    load_or_train_classifier(train, other_test, tmp_path, classes=10)
    other_train = dataclasses.replace(train, labels=9 - train.labels)
    load_or_train_classifier(other_train, test, tmp_path, classes=10)
    assert trained_keys == [train.key] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_training_that_was_killed_goes_on_to_the_same_weights(
    tmp_path, digits, trained_keys, monkeypatch
):
    monkeypatch.setattr(training, "STEPS_PER_SAVE", 20)
    whole = load_or_train_classifier(*digits, tmp_path / "whole")
    saves = iter([None, KeyboardInterrupt])

    def stop_at_the_second_save():
        if error := next(saves, None):
            raise error

    monkeypatch.setattr(training.preemption, "raise_if_requested", stop_at_the_second_save)
    with pytest.raises(KeyboardInterrupt):
        load_or_train_classifier(*digits, tmp_path / "killed")
    [saved] = (tmp_path / "killed").iterdir()
    assert np.load(saved)["step"] == 40
    resumed = load_or_train_classifier(*digits, tmp_path / "killed")
    assert resumed.weights_sha256 == whole.weights_sha256
    assert not saved.exists()


def test_a_class_without_training_images_has_a_logit(tmp_path, digits, trained_keys):
    train, test = digits
    seen = train.labels < 9
    part = dataclasses.replace(train, pixels=train.pixels[seen], labels=train.labels[seen])
    classifier = load_or_train_classifier(part, test, tmp_path, classes=10)
    assert classifier(test.pixels[:3])[0].shape == (3, 10)


def test_classifier_is_used_where_the_cache_cannot_be_written(
    tmp_path, digits, trained_keys, caplog
):
    (tmp_path / "read-only").touch()  # a file, in which no folder can be made
    result = load_or_train_classifier(*digits, tmp_path / "read-only")
    assert result.accuracy > 0.3
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("changed", ["train", "test"])
def test_other_data_train_another_classifier(tmp_path, digits, monkeypatch, changed):
    keys, network = [], CLASSIFIERS["classifier"](10, 1, 4)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    monkeypatch.setattr(module, "choose_width", lambda *_: 4)
    monkeypatch.setattr(
        module,
        "train_classifier",
        lambda network, images, **_: keys.append(images.key) or variables,
    )
    train, test = digits
    load_or_train_classifier(train, test, tmp_path)
    splits = {"train": train, "test": test}
    splits[changed] = dataclasses.replace(splits[changed], key="another")
    load_or_train_classifier(splits["train"], splits["test"], tmp_path)
    load_or_train_classifier(train, test, tmp_path)
    assert len(keys) == len(list(tmp_path.iterdir())) == 2


def test_other_images_under_the_name_of_a_data_set_train_their_own_classifier(
    tmp_path, digits, monkeypatch
):
    def train_nothing(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(module, "train_classifier", train_nothing)
    labels = {"other classes": lambda labels: labels % 7, "negative": lambda labels: labels}
    for key, change in labels.items():
        train, test = (
            dataclasses.replace(
                split, pixels=255 - split.pixels, labels=change(split.labels), key=key
            )
            for split in digits
        )
        with pytest.raises(InterruptedError):
            load_or_train_classifier(train, test, tmp_path, dataset="digits")


def test_second_classifier_is_another_network_with_its_own_cache_file(
    tmp_path, digits, trained_keys
):
    resnet = load_or_train_classifier(*digits, tmp_path, "resnet")
    assert resnet.accuracy > 0.3
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["resnet"]
    extractor = resnet.make_extractor(80)
    features = extractor.extract(digits[1].pixels[:30])
    assert features[extractor.pair_layer].shape == (30, 16)
    assert (extractor.pair_layer, extractor.fd_layers) == ("resnet", ("resnet",))


def test_mirroring_is_of_colour_alone_and_of_about_half_the_images():
    grey = jnp.tile(jnp.linspace(-1, 1, 32)[None, None, :, None], (64, 32, 1, 1))
    colour = jnp.tile(grey, (1, 1, 1, 3))
    rises = [np.asarray(training._augment(jax.random.key(0), x)) for x in (grey, colour)]
    mirrored = [(x[:, 16, 20, 0] < x[:, 16, 10, 0]).sum() for x in rises]
    assert mirrored[0] == 0
    assert 20 < mirrored[1] < 44


def test_whitened_windows_are_uncorrelated():
    images = jax.random.normal(jax.random.key(0), (50, 16, 16, 1))
    smooth = images + jnp.roll(images, 1, axis=1) + 2 * jnp.roll(images, 1, axis=2)
    kernel = compute_whitening(smooth)
    half = kernel.shape[3] // 2
    assert np.array_equal(kernel[..., :half], -kernel[..., half:])
    windows = np.stack(
        [smooth[:, r : r + 15, s : s + 15, 0] for r in (0, 1) for s in (0, 1)], axis=-1
    ).reshape(-1, 4)
    outputs = windows @ np.asarray(kernel[..., :half]).reshape(4, half)
    np.testing.assert_allclose(outputs.T @ outputs / len(outputs), np.eye(half), atol=1e-3)


def test_unlabelled_images_raise_value_error(tmp_path, digits):
    train, test = digits
    with pytest.raises(ValueError, match="labels"):
        load_or_train_classifier(dataclasses.replace(train, labels=None), test, tmp_path)


def test_hash_depends_on_every_array(classifier, digits):
    arrays = {"params/a": np.zeros(2, np.float16), "params/b": np.zeros(2, np.float16)}
    parse = functools.partial(module._parse, kind="classifier", network=classifier.network)
    metadata = {"accuracy": "0.5"}
    first = parse(safetensors.numpy.save(arrays, metadata)).weights_sha256
    for name in arrays:
        changed = {**arrays, name: np.ones(2, np.float16)}
        assert parse(safetensors.numpy.save(changed, metadata)).weights_sha256 != first


def test_a_damaged_file_says_what_to_do(tmp_path, classifier):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"12345678")
    with pytest.raises(UserError, match=r"a\.safetensors is damaged .*delete it to train"):
        module.read_classifier(path, "classifier", classifier.network)


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
    shifted = np.asarray(training.random_shift(jax.random.key(1), jnp.asarray(images)))
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


def test_calibrated_logits_are_at_the_temperature_that_made_the_labels(monkeypatch):
    rng = np.random.default_rng(0)
    network = CLASSIFIERS["resnet"](3, 1, 4)
    pixels = rng.integers(0, 256, (4000, 16, 16, 1)).astype(np.uint8)
    kernel = 1.5 * rng.normal(size=(16, 3)).astype(np.float32)
    features = rng.normal(size=(4000, 16))
    layer = {"kernel": kernel, "bias": np.zeros(3, np.float32)}
    logits = features @ kernel
    p = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < rng.uniform(size=(4000, 1))).sum(axis=1)
    monkeypatch.setattr(module, "_logits", lambda *_: logits)
    test = ImageSplit(pixels, labels=labels, key="drawn")
    calibrated = module.calibrate(network, {"params": {"logits": layer}}, test)
    scale = kernel / calibrated["params"]["logits"]["kernel"]
    np.testing.assert_allclose(scale, 2, atol=0.15)
