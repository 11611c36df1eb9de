"""Images of a teacher that JAX cannot compile, made one call ahead in a background thread."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gankd_jax.config.recipe import Recipe
from gankd_jax.training.train_step import sample_noise

Generate = Callable[[np.ndarray], np.ndarray]  # latents [b, z] -> images [b, s, s, c] in -1..1


class TeacherPrefetcher:
    """Makes a teacher's images of the latents of each call while the call before it runs."""

    def __init__(
        self,
        generate: Generate,
        recipe: Recipe,
        *,
        latent_dim: int,
        seeds: Sequence[int],
        steps_per_call: int,
    ):
        """Starts the thread.

        Args:
            generate: The teacher, called from the thread alone.
            recipe: Of the students: their batch size, critic steps and last step.
            latent_dim: Numbers in a latent.
            seeds: The data seeds of the group, in the order of its batches.
            steps_per_call: Steps of one call.
        """
        self._generate, self._recipe, self._latent_dim = generate, recipe, latent_dim
        self._seeds, self._steps = list(seeds), steps_per_call
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher")
        self._futures: dict[int, Future[np.ndarray]] = {}

    def images(self, first_step: int) -> Float[np.ndarray, "k seeds b s s c"]:
        """Returns the images of a call, and has those of the next one made.

        Args:
            first_step: The call's first step.
        """
        future = self._futures.pop(first_step, None) or self._submit(first_step)
        next_step = first_step + self._steps
        if next_step < self._recipe.steps:
            self._futures = {next_step: self._submit(next_step)}
        return future.result()

    def _submit(self, first_step: int) -> Future[np.ndarray]:
        return self._executor.submit(self._make_images, first_step)

    def _make_images(self, first_step: int) -> Float[np.ndarray, "k seeds b s s c"]:
        latents = np.asarray(
            _call_latents(
                jnp.asarray(self._seeds),
                first_step + jnp.arange(self._steps),
                critic_steps=self._recipe.critic_steps,
                batch_size=self._recipe.batch_size,
                latent_dim=self._latent_dim,
            )
        )
        steps, seeds, _, size = latents.shape
        batches = [self._generate(batch) for batch in latents.reshape(steps * seeds, -1, size)]
        return np.stack(batches).reshape(steps, seeds, *batches[0].shape)

    def close(self) -> None:
        """Stops the thread; images that are not made yet are not made."""
        self._executor.shutdown(cancel_futures=True)


@functools.partial(jax.jit, static_argnames=("critic_steps", "batch_size", "latent_dim"))
def _call_latents(
    seeds: Int[Array, " seeds"], steps: Int[Array, " k"], **sizes: int
) -> Float[Array, "k seeds b z"]:
    """Returns the latents of the generator's updates, those that the train step samples."""

    def sample(seed: Int[Array, ""], step: Int[Array, ""]) -> Float[Array, "b z"]:
        return sample_noise(seed, step, **sizes).latents[-1]

    return jax.vmap(lambda step: jax.vmap(lambda seed: sample(seed, step))(seeds))(steps)
