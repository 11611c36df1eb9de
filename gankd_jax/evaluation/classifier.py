"""The classifiers that judge a data set's images: trained once on its training labels, then cached.

Its scores are the project's own measure: they compare models with each other, not with numbers from
other networks, and never bear the names FID or IS of the ImageNet network.
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
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.data.loading import ImageSplit
from gankd_jax.data.sampler import batch_indices
from gankd_jax.metrics.feature_stats import FeatureExtractor
from gankd_jax.models import conv
from gankd_jax.models.classifiers import LeNet, MlpMixer
from gankd_jax.models.family import PyTree
from gankd_jax.training.train_step import normalize_images
from gankd_jax.utils import atomic_io, preemption
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.progress import ProgressBar

STEPS, BATCH, RATE, SEED = 3_000, 128, 1e-3, 0
STEPS_PER_CALL = 100
SHIFT = 16  # training images are shifted by up to 1/16 of their side
RECIPE = f"steps={STEPS} batch={BATCH} rate={RATE} shift=1/{SHIFT} seed={SEED}"
Network = LeNet | MlpMixer
# Classifiers by name: functions of classes, image_size and channels.
CLASSIFIERS: dict[str, Callable[..., Network]] = {
    "classifier": lambda **sizes: LeNet(**sizes, conv_impl=conv.resolve_conv_impl("auto")),
    "mixer": MlpMixer,
}


@dataclasses.dataclass(frozen=True)
class EvalClassifier:
    """A trained classifier."""

    kind: str  # of CLASSIFIERS
    network: Network
    params: PyTree
    accuracy: float  # on the test labels, 0..1
    weights: str  # sha256 of the weights

    def __call__(
        self, images: UInt8[np.ndarray, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Logits and features of uint8 images."""
        return _judge(self.network, self.params, jnp.asarray(images))

    def extractor(self, batch_size: int) -> FeatureExtractor:
        """The judge as the scores use it: `fd_KIND` and so on, and the Inception Score."""

        def features(images: UInt8[np.ndarray, "b s s c"]) -> dict[str, Array]:
            logits, found = self(images)
            return {"logits": logits, self.kind: found}

        return FeatureExtractor(
            name=f"{self.kind}-{self.weights[:12]}",
            about=f"the study's {self.kind}, test accuracy {self.accuracy:.4f}",
            features=features,
            distances=(self.kind,),
            kept=self.kind,
            logits="logits",
            batch_size=batch_size,
        )


def load_or_train_classifier(
    train: ImageSplit, test: ImageSplit, cache: Path, kind: str = "classifier"
) -> EvalClassifier:
    """The judge of that kind of a labelled data set, from `cache` where it was trained before.

    The cache is found by the data's own hash and by how the classifier is trained.
    """
    if train.labels is None or test.labels is None:
        raise ValueError("a judge needs labels")
    network = _network(kind, train.pixels, classes=int(train.labels.max()) + 1)
    key = hashlib.sha256(f"{kind}-1 {RECIPE} {train.key} {test.key}".encode()).hexdigest()[:16]
    path = cache / f"{kind}-{key}.npz"
    if not path.exists():
        params = _train(network, train, title=kind)
        _save(path, params, _accuracy(network, params, test))
    params, accuracy = _restore(path)  # of several processes that trained it, the first one's
    return EvalClassifier(kind, network, params, accuracy, _hash(params))


def _network(kind: str, pixels: UInt8[np.ndarray, "n s s c"], classes: int) -> Network:
    return CLASSIFIERS[kind](classes=classes, image_size=pixels.shape[1], channels=pixels.shape[3])


def _train(network: Network, train: ImageSplit, title: str) -> PyTree:
    """Adam with a cosine schedule over `STEPS` batches of shifted images."""
    blank = jnp.zeros((1, *train.pixels.shape[1:]))
    params = network.init(jax.random.key(SEED), blank)["params"]
    state = _optimizer().init(params)
    progress = ProgressBar(title, first=0, total=STEPS)
    for step in range(0, STEPS, STEPS_PER_CALL):
        preemption.raise_if_requested()  # it takes a minute, and begins anew
        places = np.stack(
            [
                batch_indices(step + k, count=len(train.pixels), batch_size=BATCH, seed=SEED)
                for k in range(STEPS_PER_CALL)
            ]
        )
        key = jax.random.fold_in(jax.random.key(SEED), step)
        batch = (train.pixels[places], np.asarray(train.labels)[places])
        params, state, loss = _train_steps(network, params, state, key, batch=batch)
        progress.update(step + STEPS_PER_CALL, {"loss": float(loss)})
    progress.close()
    return params


def _optimizer() -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, STEPS))


@partial(jax.jit, static_argnums=0)
def _train_steps(
    network: Network,
    params: PyTree,
    state: optax.OptState,
    key: Array,
    *,
    batch: tuple[UInt8[Array, "k b s s c"], Int[Array, "k b"]],
) -> tuple[PyTree, optax.OptState, Float[Array, ""]]:
    def loss_of(params: PyTree, images: Array, labels: Array) -> Array:
        logits, _ = network.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def one(carry: tuple, inputs: tuple) -> tuple[tuple, Array]:
        params, state = carry
        key, images, labels = inputs
        shifted = _shift(key, normalize_images(images))
        loss, gradients = jax.value_and_grad(loss_of)(params, shifted, labels)
        updates, state = _optimizer().update(gradients, state)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(key, len(batch[0]))
    (params, state), losses = jax.lax.scan(one, (params, state), (keys, *batch))
    return params, state, losses.mean()


def _shift(key: Array, images: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
    """Move each image by its own whole number of pixels; what comes in is the border's colour."""
    b, size, _, c = images.shape
    reach = size // SHIFT
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (b, 2), 0, 2 * reach + 1)

    def cut(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, c))

    return jax.vmap(cut)(padded, corners)


@partial(jax.jit, static_argnums=0)
def _judge(
    network: Network, params: PyTree, images: UInt8[Array, "b s s c"]
) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
    return network.apply({"params": params}, normalize_images(images))


def _accuracy(network: Network, params: PyTree, test: ImageSplit) -> float:
    right, labels = 0, np.asarray(test.labels)
    for first in range(0, len(test.pixels), 1000):
        logits, _ = _judge(network, params, jnp.asarray(test.pixels[first : first + 1000]))
        right += int((np.asarray(logits).argmax(axis=1) == labels[first : first + 1000]).sum())
    return right / len(test.pixels)


def _save(path: Path, params: PyTree, accuracy: float) -> None:
    flat = traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    atomic_io.write_npz_if_absent(path, accuracy=np.asarray(accuracy), **arrays)


def _restore(path: Path) -> tuple[PyTree, float]:
    """Weights and accuracy."""
    try:
        arrays = atomic_io.read_npz(path)
        accuracy = float(arrays.pop("accuracy"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to train it anew") from error
    return traverse_util.unflatten_dict(arrays, sep="/"), accuracy


def _hash(params: PyTree) -> str:
    """SHA-256 over the weights' names and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(name.encode() + np.asarray(value).tobytes())
    return digest.hexdigest()
