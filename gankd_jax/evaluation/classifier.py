"""Classifiers for evaluation: of the package, or trained once on a data set's labels and cached.

Metrics by their features compare models of one study with each other, not with published numbers.
So their Fréchet distance is never called FID, the name of the ImageNet network's.
"""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jaxtyping import Array, Float, Int, Num, UInt8
from safetensors import SafetensorError
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from gankd_jax.data.loading import ImageSplit
from gankd_jax.evaluation.classifier_training import RECIPE, Network, train_classifier
from gankd_jax.export.safetensors import read_metadata
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.models import conv
from gankd_jax.models.classifiers import MAX_SIZE, ResNet, WhitenedConvNet
from gankd_jax.models.family import PyTree
from gankd_jax.training.train_step import normalize_images
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import configs_dir, write_cache

# Classifiers by name: Flax modules that give logits and features.  A name added here can stand in
# `config.evaluation.classifiers`.
CLASSIFIERS: dict[str, type[Network]] = {"classifier": WhitenedConvNet, "resnet": ResNet}
CLASSIFIER_SOURCES = ("pretrained", "train")  # of `config.evaluation.classifier`
MAX_ACCURACY_LOSS = 0.05  # of a classifier of the package on the images at hand
CHECK_IMAGES = 500  # on which that is measured
BATCH_SIZE = 500  # of the test images
TEMPERATURES = (0.25, 4.0)  # without an error among the test images, the first


@dataclasses.dataclass(frozen=True)
class EvalClassifier:
    """A trained classifier, called on images in 0..255.

    Attributes:
        kind: Its name in `CLASSIFIERS`.
        network: The Flax module.
        variables: Its trained variables, `params` and `batch_stats`.
        accuracy: Accuracy on the test labels, 0..1.
        weights_sha256: Hash of the variables.
    """

    kind: str
    network: Network
    variables: PyTree
    accuracy: float
    weights_sha256: str

    def __call__(
        self, images: Num[np.ndarray, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and features of images in 0..255."""
        return _apply(self.network, self.variables, jnp.asarray(images))

    def make_extractor(self, batch_size: int) -> FeatureExtractor:
        """Returns the classifier as a feature extractor whose one layer is called like its kind."""

        def extract(images: Num[np.ndarray, "b s s c"]) -> dict[str, Array]:
            logits, features = self(images)
            return {"logits": logits, self.kind: features}

        return FeatureExtractor(
            name=f"{self.kind}-{self.weights_sha256[:12]}",
            description=f"the study's {self.kind}, test accuracy {self.accuracy:.4f}",
            extract=extract,
            fd_layers=(self.kind,),
            pair_layer=self.kind,
            logit_layer="logits",
            batch_size=batch_size,
        )


def load_or_train_classifier(
    train: ImageSplit,
    test: ImageSplit,
    cache_dir: Path,
    kind: str = "classifier",
    *,
    classes: int | None = None,
    dataset: str = "",
) -> EvalClassifier:
    """Returns a classifier of a labelled data set: the package's, the cached one, or a new one.

    The cache's key is a hash of the images, their labels and the training recipe.  Training takes
    from seconds for a thousand small grey images to an hour for CIFAR-10, on two CPU cores.

    Args:
        train: Labelled training images.
        test: Labelled images for the accuracy.
        cache_dir: Folder of the cache.
        kind: Name in `CLASSIFIERS`.
        classes: Of the data set, whose last ones may have no training image; None for those that
          have one.
        dataset: Name of the data set.  The package's classifier of that name is used if there is
          one and it is as accurate on the test images as recorded; empty to train a new one.

    Raises:
        ValueError: A split has no labels.
        UserError: The cached file is damaged.
    """
    if train.labels is None or test.labels is None:
        raise ValueError("an evaluation classifier needs labels")
    image_size, channels = train.pixels.shape[2:]
    classes = classes or int(train.labels.max()) + 1
    network = build_classifier(kind, classes, image_size, channels)
    pretrained = pretrained_classifier_path(dataset, kind, image_size)
    if dataset and pretrained.exists():
        classifier = read_classifier(pretrained, kind, network)
        if _recognizes(classifier, test):
            return classifier
    key = _hash_training(kind, train, test)
    path = cache_dir / f"{kind}-{key}.safetensors"
    if path.exists():
        return read_classifier(path, kind, network)
    save_path = cache_dir / f"{kind}-{key}-training.npz"
    trained_network = network.clone(conv_impl=conv.resolve_conv_impl("auto"))
    variables = train_classifier(trained_network, train, title=kind, save_path=save_path)
    content = _serialize(network, calibrate(network, variables, test), test)
    write_cache(path, lambda: atomic_io.write_bytes_if_absent(path, content))
    if path.exists():
        save_path.unlink(missing_ok=True)
    # Read back even if just trained: of several processes that trained it, the first one's counts.
    return read_classifier(path, kind, network) if path.exists() else _parse(content, kind, network)


def _hash_training(kind: str, train: ImageSplit, test: ImageSplit) -> str:
    digest = hashlib.sha256(f"{kind}-3 {RECIPE} {train.key} {test.key}".encode())
    for images in (train, test):  # their keys do not tell labels apart
        digest.update(np.asarray(images.labels, np.int64).tobytes())
    return digest.hexdigest()[:16]


def pretrained_classifier_path(dataset: str, kind: str, image_size: int) -> Path:
    """Returns the file of a classifier of the package, which need not exist.

    Args:
        dataset: Name of the data set.
        kind: Name in `CLASSIFIERS`.
        image_size: Pixels a side.
    """
    size = min(image_size, MAX_SIZE)
    return configs_dir() / "classifiers" / f"{dataset}-{size}-{kind}.safetensors"


def build_classifier(
    kind: str, classes: int, image_size: int, channels: int, *, conv_impl: str = "dilated"
) -> Network:
    """Returns a classifier without variables.

    Args:
        kind: Name in `CLASSIFIERS`.
        classes: Number of classes.
        image_size: Pixels a side.
        channels: 1 for grey images, 3 for colour.
        conv_impl: One of `CONV_IMPLS`.  The backend's own convolution compiles ten times as fast as
          matrix products and is as fast where nothing is trained.
    """
    return CLASSIFIERS[kind](
        classes=classes,
        channels=channels,
        width=choose_width(image_size, channels),
        conv_impl=conv_impl,
    )


def choose_width(image_size: int, channels: int) -> int:
    """Returns the channels of a classifier's first block: 64 in colour, fewer for grey digits."""
    return 64 if channels == 3 else min(image_size, MAX_SIZE)


def _recognizes(classifier: EvalClassifier, test: ImageSplit) -> bool:
    """Returns whether a classifier has the classes of a data set and recognises its images.

    Another data set may have the same name.
    """
    image = jax.ShapeDtypeStruct((1, *test.pixels.shape[1:]), np.float32)
    variables = jax.eval_shape(classifier.network.init, jax.random.key(0), image)
    shapes = jax.tree.map(np.shape, classifier.variables)
    if jax.tree.map(lambda variable: variable.shape, variables) != shapes:
        return False
    labels = np.asarray(test.labels)[:CHECK_IMAGES]
    accuracy = _accuracy(
        classifier.network, classifier.variables, test.pixels[:CHECK_IMAGES], labels
    )
    return accuracy >= classifier.accuracy - MAX_ACCURACY_LOSS


@partial(jax.jit, static_argnums=0)
def _apply(
    network: Network, variables: PyTree, images: Num[Array, "b s s c"]
) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
    with jax.default_matmul_precision("highest"):  # scores do not depend on the device
        return network.apply(variables, normalize_images(images))


def _accuracy(
    network: Network,
    variables: PyTree,
    pixels: UInt8[np.ndarray, "n s s c"],
    labels: Int[np.ndarray, " n"],
) -> float:
    return float((_logits(network, variables, pixels).argmax(axis=1) == labels).mean())


def _logits(
    network: Network, variables: PyTree, pixels: UInt8[np.ndarray, "n s s c"]
) -> Float[np.ndarray, "n k"]:
    batches = np.split(pixels, range(BATCH_SIZE, len(pixels), BATCH_SIZE))
    logits = [_apply(network, variables, jnp.asarray(batch))[0] for batch in batches]
    return np.concatenate(logits)


def calibrate(network: Network, variables: PyTree, test: ImageSplit) -> PyTree:
    """Divides the logits by a temperature, so that the class probabilities are calibrated.

    A network that was trained with smoothed labels is underconfident, which would lower every
    Inception Score.

    Args:
        network: The classifier.
        variables: Its trained variables.
        test: Labelled images that it was not trained on.

    Returns:
        The variables, with the logits divided by the temperature in `TEMPERATURES` at which the
        test labels are likeliest.

    Reference: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    logits = _logits(network, variables, test.pixels).astype(np.float64)

    def loss(temperature: float) -> float:
        log_p = log_softmax(logits / temperature, axis=1)
        return -float(log_p[np.arange(len(log_p)), np.asarray(test.labels)].mean())

    temperature = minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x
    layer = {name: value / temperature for name, value in variables["params"]["logits"].items()}
    return {**variables, "params": {**variables["params"], "logits": layer}}


def _serialize(network: Network, variables: PyTree, test: ImageSplit) -> bytes:
    """Serialises a network in half precision, with the accuracy of the rounded weights."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(value, np.float16) for name, value in flat.items()}
    accuracy = _accuracy(network, _to_variables(arrays), test.pixels, np.asarray(test.labels))
    metadata = {"accuracy": json.dumps(accuracy), "recipe": RECIPE, "test": test.key}
    return safetensors.numpy.save(arrays, metadata)


def _to_variables(arrays: dict[str, np.ndarray]) -> PyTree:
    return traverse_util.unflatten_dict(
        {name: value.astype(np.float32) for name, value in arrays.items()}, sep="/"
    )


def read_classifier(path: Path, kind: str, network: Network) -> EvalClassifier:
    """Reads a trained classifier.

    Args:
        path: Of the package or of the cache.
        kind: Name in `CLASSIFIERS`.
        network: Its module.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return _parse(path.read_bytes(), kind, network)
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it to train the classifier again"
        ) from error


def _parse(content: bytes, kind: str, network: Network) -> EvalClassifier:
    arrays = safetensors.numpy.load(content)
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(name.encode() + value.tobytes())
    accuracy = json.loads(read_metadata(content)["accuracy"])
    return EvalClassifier(kind, network, _to_variables(arrays), accuracy, digest.hexdigest())
