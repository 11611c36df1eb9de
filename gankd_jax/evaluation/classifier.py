"""Classifiers for evaluation: trained once on a data set's labels, then cached beside it.

Metrics by their features compare models of one study with each other, not with published numbers.
So their Fréchet distance is never called FID, the name of the ImageNet network's.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, Num, UInt8

from gankd_jax.data.loading import ImageSplit
from gankd_jax.data.sampler import batch_indices
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.models import conv
from gankd_jax.models.classifiers import LeNet, MlpMixer
from gankd_jax.models.family import PyTree
from gankd_jax.training.train_step import normalize_images
from gankd_jax.utils import atomic_io, preemption
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import write_cache
from gankd_jax.utils.progress import ProgressBar

# The training recipe is part of the cache's key, so that any change trains new classifiers.  Scores
# by classifiers of different recipes cannot be compared.
STEPS, BATCH_SIZE, LEARNING_RATE, SEED = 3_000, 128, 1e-3, 0
STEPS_PER_CALL = 100  # steps in one compiled call; a preemption is noticed between calls
MAX_SHIFT = 16  # training images are shifted by up to 1/16 of their side, in whole pixels
RECIPE = f"steps={STEPS} batch={BATCH_SIZE} rate={LEARNING_RATE} shift=1/{MAX_SHIFT} seed={SEED}"
Network = LeNet | MlpMixer
# Classifiers by name: functions of classes, image_size and channels.  The Flax modules that they
# return give logits and features.  A name added here can stand in `config.evaluation.classifiers`.
CLASSIFIERS: dict[str, Callable[..., Network]] = {
    "classifier": lambda **sizes: LeNet(**sizes, conv_impl=conv.resolve_conv_impl("auto")),
    "mixer": MlpMixer,
}


@dataclasses.dataclass(frozen=True)
class EvalClassifier:
    """A trained classifier, called on images in 0..255.

    Attributes:
        kind: Its name in `CLASSIFIERS`.
        network: The Flax module.
        params: Its trained parameters.
        accuracy: Accuracy on the test labels, 0..1.
        weights_sha256: Hash of the parameters.
    """

    kind: str
    network: Network
    params: PyTree
    accuracy: float
    weights_sha256: str

    def __call__(
        self, images: Num[np.ndarray, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and features of images in 0..255."""
        return _apply(self.network, self.params, jnp.asarray(images))

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
    train: ImageSplit, test: ImageSplit, cache_dir: Path, kind: str = "classifier"
) -> EvalClassifier:
    """Returns a classifier of a labelled data set, from the cache if it was trained before.

    The cache's key is a hash of the images and of the training recipe.  Training takes about a
    minute.

    Args:
        train: Labelled training images.
        test: Labelled images for the accuracy.
        cache_dir: Folder of the cache.
        kind: Name in `CLASSIFIERS`.

    Raises:
        ValueError: A split has no labels.
        UserError: The cached file is damaged.
    """
    if train.labels is None or test.labels is None:
        raise ValueError("an evaluation classifier needs labels")
    network = _build_network(kind, train.pixels, classes=int(train.labels.max()) + 1)
    key = hashlib.sha256(f"{kind}-1 {RECIPE} {train.key} {test.key}".encode()).hexdigest()[:16]
    path = cache_dir / f"{kind}-{key}.npz"
    if not path.exists():
        params = _train(network, train, title=kind)
        accuracy = _accuracy(network, params, test)
        write_cache(path, lambda: _save(path, params, accuracy))
    if path.exists():
        # Read back even if just trained: of several processes that trained it, the first one's
        # counts.
        params, accuracy = _restore(path)
    return EvalClassifier(kind, network, params, accuracy, _hash_params(params))


def _build_network(kind: str, pixels: UInt8[np.ndarray, "n s s c"], classes: int) -> Network:
    return CLASSIFIERS[kind](classes=classes, image_size=pixels.shape[1], channels=pixels.shape[3])


def _train(network: Network, train: ImageSplit, title: str) -> PyTree:
    """Trains by Adam with a cosine schedule over `STEPS` batches of shifted images."""
    dummy_image = jnp.zeros((1, *train.pixels.shape[1:]))
    params = network.init(jax.random.key(SEED), dummy_image)["params"]
    state = _optimizer().init(params)
    progress, loss = ProgressBar(title, first=0, total=STEPS), jnp.nan
    sizes = {"count": len(train.pixels), "batch_size": min(BATCH_SIZE, len(train.pixels))}
    for step in range(0, STEPS, STEPS_PER_CALL):
        preemption.raise_if_requested()  # a minute's work, which begins anew after a restart
        indices = np.stack(
            [batch_indices(step + k, **sizes, seed=SEED) for k in range(STEPS_PER_CALL)]
        )
        key = jax.random.fold_in(jax.random.key(SEED), step)
        batch = (train.pixels[indices], np.asarray(train.labels)[indices])
        previous_loss = loss
        params, state, loss = _train_steps(network, params, state, key, batch=batch)
        if step:  # fetched while the device makes the steps after it
            progress.update(step, {"loss": float(previous_loss)})
    progress.update(STEPS, {"loss": float(loss)})
    progress.close()
    return params


def _optimizer() -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))


@partial(jax.jit, static_argnums=0)
@jax.default_matmul_precision("float32")
def _train_steps(
    network: Network,
    params: PyTree,
    state: optax.OptState,
    key: Array,
    *,
    batch: tuple[UInt8[Array, "k b s s c"], Int[Array, "k b"]],
) -> tuple[PyTree, optax.OptState, Float[Array, ""]]:
    def compute_loss(params: PyTree, images: Array, labels: Array) -> Array:
        logits, _ = network.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def train_step(carry: tuple, inputs: tuple) -> tuple[tuple, Array]:
        params, state = carry
        key, images, labels = inputs
        shifted = _random_shift(key, normalize_images(images))
        loss, gradients = jax.value_and_grad(compute_loss)(params, shifted, labels)
        updates, state = _optimizer().update(gradients, state)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(key, len(batch[0]))
    (params, state), losses = jax.lax.scan(train_step, (params, state), (keys, *batch))
    return params, state, losses.mean()


def _random_shift(key: Array, images: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
    """Shifts each image by its own whole number of pixels; new pixels repeat the border's."""
    b, size, _, c = images.shape
    reach = size // MAX_SHIFT
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (b, 2), 0, 2 * reach + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, c))

    return jax.vmap(crop)(padded, corners)


@partial(jax.jit, static_argnums=0)
def _apply(
    network: Network, params: PyTree, images: Num[Array, "b s s c"]
) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
    with jax.default_matmul_precision("highest"):  # scores do not depend on the device
        return network.apply({"params": params}, normalize_images(images))


def _accuracy(network: Network, params: PyTree, test: ImageSplit) -> float:
    correct, labels = 0, np.asarray(test.labels)
    for first in range(0, len(test.pixels), 1000):
        logits, _ = _apply(network, params, jnp.asarray(test.pixels[first : first + 1000]))
        correct += int((np.asarray(logits).argmax(axis=1) == labels[first : first + 1000]).sum())
    return correct / len(test.pixels)


def _save(path: Path, params: PyTree, accuracy: float) -> None:
    flat = traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    atomic_io.write_npz_if_absent(path, accuracy=np.asarray(accuracy), **arrays)


def _restore(path: Path) -> tuple[PyTree, float]:
    """Reads parameters and accuracy."""
    try:
        arrays = atomic_io.read_npz(path)
        accuracy = float(arrays.pop("accuracy"))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it to train the classifier again"
        ) from error
    return traverse_util.unflatten_dict(arrays, sep="/"), accuracy


def _hash_params(params: PyTree) -> str:
    """Returns the SHA-256 over the parameters' names and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    return digest.hexdigest()
