"""Trains evaluation classifiers: stochastic gradient descent on shifted, mirrored images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization, traverse_util
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.data.loading import ImageSplit
from gankd_jax.data.sampler import batch_indices
from gankd_jax.models.classifiers import ResNet, WhitenedConvNet, compute_whitening
from gankd_jax.models.family import PyTree
from gankd_jax.training.train_step import normalize_images
from gankd_jax.utils import atomic_io, preemption
from gankd_jax.utils.paths import write_cache
from gankd_jax.utils.progress import ProgressBar

EPOCHS, MIN_STEPS, BATCH_SIZE, SEED = 12, 600, 128, 0  # small data sets get more epochs
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.2, 0.9, 1e-3
WARM_UP = 0.2  # share of the steps; the rate then falls to 0 along a line
LABEL_SMOOTHING = 0.1
MAX_SHIFT = 16  # images are shifted by up to 1/16 of their side, in whole pixels
WHITENING_IMAGES = 5_000
STEPS_PER_SAVE = 200  # a killed training goes on from there
STEPS_PER_UPDATE = 20  # of the progress bar
# The recipe is part of the cache's key, so that any change trains new classifiers.
RECIPE = (
    f"epochs={EPOCHS} steps>={MIN_STEPS} batch={BATCH_SIZE} rate={LEARNING_RATE} "
    f"momentum={MOMENTUM} decay={WEIGHT_DECAY} warm_up={WARM_UP} smoothing={LABEL_SMOOTHING} "
    f"shift=1/{MAX_SHIFT} whitening={WHITENING_IMAGES} seed={SEED}"
)
Network = WhitenedConvNet | ResNet
State = dict[str, PyTree]  # variables of the network by collection, and opt_state


def train_classifier(network: Network, train: ImageSplit, *, title: str, save_path: Path) -> PyTree:
    """Trains a classifier, from where a killed training stopped if there was one.

    Images in colour are also mirrored; digits would change their class.

    Args:
        network: The classifier.
        train: Labelled images.
        title: Of the progress bar.
        save_path: Where the state is saved every `STEPS_PER_SAVE` steps.

    Returns:
        The variables of the network: `params` and `batch_stats`.
    """
    steps = max(MIN_STEPS, EPOCHS * len(train.pixels) // BATCH_SIZE)
    state, first = _load_or_create_state(network, train, steps, save_path)
    sizes = {"count": len(train.pixels), "batch_size": min(BATCH_SIZE, len(train.pixels))}
    progress = ProgressBar(title, first=first, total=steps)
    for step in range(first, steps):
        indices = batch_indices(step, **sizes, seed=SEED)
        batch = (train.pixels[indices], np.asarray(train.labels)[indices])
        state, loss = _train_step(network, state, step, *batch, steps=steps)
        if (step + 1) % STEPS_PER_UPDATE == 0 or step + 1 == steps:
            progress.update(step + 1, {"loss": float(loss)})
        if (step + 1) % STEPS_PER_SAVE == 0:
            write_cache(save_path, partial(_save, save_path, state, step + 1))
            preemption.raise_if_requested()
    progress.close()
    return {"params": state["params"], "batch_stats": state["batch_stats"]}


def _load_or_create_state(
    network: Network, train: ImageSplit, steps: int, path: Path
) -> tuple[State, int]:
    """Returns the state to train on from and the number of its steps."""
    images = normalize_images(jnp.asarray(train.pixels[:WHITENING_IMAGES]))
    variables = network.init(jax.random.key(SEED), images[:1])
    state = {
        "params": variables["params"],
        "batch_stats": variables["batch_stats"],
        "opt_state": _make_optimizer(steps).init(variables["params"]),
    }
    if isinstance(network, WhitenedConvNet):
        state["batch_stats"] = {**state["batch_stats"], "whitening": compute_whitening(images)}
    if not path.exists():
        return state, 0
    saved = atomic_io.read_own_npz(path)
    step = int(saved.pop("step"))
    # A file holds no empty parts of the state, which are the same in every state.
    template = serialization.to_state_dict(state)
    flat = traverse_util.flatten_dict(template, keep_empty_nodes=True, sep="/") | saved
    return serialization.from_state_dict(state, traverse_util.unflatten_dict(flat, sep="/")), step


def _save(path: Path, state: State, step: int) -> None:
    flat = traverse_util.flatten_dict(serialization.to_state_dict(state), sep="/")
    atomic_io.write_npz(path, step=np.asarray(step), **jax.tree.map(np.asarray, flat))


def _make_optimizer(steps: int) -> optax.GradientTransformation:
    warm_up = int(WARM_UP * steps)
    schedule = optax.schedules.warmup_constant_schedule(LEARNING_RATE / 5, LEARNING_RATE, warm_up)
    decay = optax.linear_schedule(LEARNING_RATE, 0.0, steps - warm_up)
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY, mask=_mark_kernels),
        optax.sgd(optax.join_schedules([schedule, decay], [warm_up]), MOMENTUM, nesterov=True),
    )


def _mark_kernels(params: PyTree) -> PyTree:
    """Returns the mask of weight decay: kernels, but no biases or scales."""
    return jax.tree.map(lambda param: param.ndim > 1, params)


@partial(jax.jit, static_argnums=0, static_argnames="steps", donate_argnums=1)
@jax.default_matmul_precision("float32")
def _train_step(
    network: Network,
    state: State,
    step: Int[Array, ""] | int,
    pixels: UInt8[Array, "b s s c"],
    labels: Int[Array, " b"],
    *,
    steps: int,
) -> tuple[State, Float[Array, ""]]:
    images = _augment(jax.random.fold_in(jax.random.key(SEED), step), normalize_images(pixels))

    def compute_loss(params: PyTree) -> tuple[Array, PyTree]:
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        (logits, _), changed = network.apply(variables, images, train=True, mutable="batch_stats")
        targets = optax.smooth_labels(jax.nn.one_hot(labels, network.classes), LABEL_SMOOTHING)
        return optax.softmax_cross_entropy(logits, targets).mean(), changed["batch_stats"]

    grad: Callable = jax.value_and_grad(compute_loss, has_aux=True)
    (loss, batch_stats), gradients = grad(state["params"])
    updates, opt_state = _make_optimizer(steps).update(
        gradients, state["opt_state"], state["params"]
    )
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "batch_stats": batch_stats, "opt_state": opt_state}, loss


def _augment(key: Array, images: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
    """Shifts each image at random, and mirrors every second one if it is in colour."""
    shift_key, mirror_key = jax.random.split(key)
    shifted = random_shift(shift_key, images)
    if images.shape[3] == 1:
        return shifted
    mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, shifted[:, :, ::-1], shifted)


def random_shift(key: Array, images: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
    """Shifts each image by its own whole number of pixels; new pixels repeat the border's."""
    b, size, _, c = images.shape
    reach = size // MAX_SHIFT
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (b, 2), 0, 2 * reach + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, c))

    return jax.vmap(crop)(padded, corners)
