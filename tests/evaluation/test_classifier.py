"""The classifier that judges images: its training, its cache, its augmentation."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.data.loading import ImageSplit, load_split
from gankd_jax.evaluation import classifier as module
from gankd_jax.evaluation.classifier import EvalClassifier, load_or_train_classifier


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[ImageSplit, ImageSplit]:
    """Training and test digits."""
    data_dir = tiny.data(tiny.shared(tmp_path_factory))
    sizes = {"data_dir": data_dir, "image_size": 16, "pad": 1}
    return load_split("digits", "train", **sizes), load_split("digits", "test", **sizes)


@pytest.fixture
def quick(monkeypatch) -> list[str]:
    """Training of 100 steps, and the key of each data set that was trained on."""
    trained, train = [], module._train

    def noted(network, images, title):
        trained.append(images.key)
        return train(network, images, title)

    monkeypatch.setattr(module, "STEPS", 100)
    monkeypatch.setattr(module, "_train", noted)
    return trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits) -> EvalClassifier:
    return load_or_train_classifier(
        *digits, tiny.data(tiny.shared(tmp_path_factory)) / "gankd_cache"
    )


def test_it_learns_the_digits_and_says_how_well(trained, digits):
    _, test = digits
    logits, features = trained(np.asarray(test.pixels))
    right = np.asarray(logits).argmax(axis=1) == test.labels
    assert trained.accuracy == right.mean()
    assert trained.accuracy > 0.9
    assert logits.shape == (359, 10)
    assert features.shape == (359, 128)
    assert np.asarray(features).min() >= 0


def test_it_is_trained_once_and_found_again(tmp_path, digits, quick, trained):
    first = load_or_train_classifier(*digits, tmp_path)
    again = load_or_train_classifier(*digits, tmp_path)
    assert len(quick) == 1
    assert (
        first.weights_sha256 == again.weights_sha256 == trained.weights_sha256
    )  # training is deterministic
    assert first.accuracy == again.accuracy
    assert tiny.differences(first.params, again.params) == []
    images = digits[1].pixels[:50]
    for a, b in zip(first(images), again(images), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("changed", ["train", "test"])
def test_other_data_make_another_judge(tmp_path, digits, quick, monkeypatch, changed):
    monkeypatch.setattr(
        module, "_train", lambda network, images, title: quick.append(images.key) or {}
    )
    monkeypatch.setattr(module, "_accuracy", lambda *_: 0.5)
    train, test = digits
    load_or_train_classifier(train, test, tmp_path)
    found = {"train": train, "test": test}
    found[changed] = dataclasses.replace(found[changed], key="another")
    load_or_train_classifier(found["train"], found["test"], tmp_path)
    load_or_train_classifier(train, test, tmp_path)
    assert len(quick) == len(list(tmp_path.iterdir())) == 2


def test_the_second_judge_is_another_network_with_a_file_of_its_own(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 200)
    mixer = load_or_train_classifier(*digits, tmp_path, "mixer")
    assert mixer.accuracy > 0.85
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["mixer"]
    extractor = mixer.make_extractor(80)
    found = extractor.extract(digits[1].pixels[:30])
    assert found[extractor.pair_layer].shape == (30, 64)
    assert (extractor.pair_layer, extractor.fd_layers) == ("mixer", ("mixer",))
    again = load_or_train_classifier(*digits, tmp_path, "mixer")
    assert (again.kind, again.weights_sha256) == ("mixer", mixer.weights_sha256)


def test_unlabelled_images_are_refused(tmp_path, digits):
    train, test = digits
    with pytest.raises(ValueError, match="labels"):
        load_or_train_classifier(dataclasses.replace(train, labels=None), test, tmp_path)


def test_the_hash_is_of_every_weight(trained):
    again = module._hash_params(jax.tree.map(np.asarray, trained.params))
    assert again == trained.weights_sha256
    assert len(again) == 64
    changed = {**trained.params, "bias1": np.asarray(trained.params["bias1"]) + 1e-3}
    assert module._hash_params(changed) != trained.weights_sha256


def test_its_features_feed_the_scores(trained, digits):
    images = digits[1].pixels[:30]
    extractor = trained.make_extractor(80)
    found = extractor.extract(images)
    logits, features = trained(images)
    assert np.array_equal(found[extractor.logit_layer], logits)
    assert np.array_equal(found[extractor.pair_layer], features)
    assert (extractor.fd_layers, extractor.batch_size) == (("classifier",), 80)
    assert trained.weights_sha256[:12] in extractor.name
    assert f"{trained.accuracy:.4f}" in extractor.description


@pytest.mark.parametrize("size", [16, 32])
def test_training_images_are_shifted_by_whole_pixels(size):
    reach = size // 16
    images = np.random.default_rng(0).normal(size=(200, size, size, 1)).astype(np.float32)
    shifted = np.asarray(module._random_shift(jax.random.key(1), jnp.asarray(images)))
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    seen = set()
    for image, wide in zip(shifted, padded, strict=True):
        moves = [
            (down, right)
            for down, right in itertools.product(range(2 * reach + 1), repeat=2)
            if np.array_equal(image, wide[down : down + size, right : right + size])
        ]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) == (2 * reach + 1) ** 2  # each of the moves occurs
