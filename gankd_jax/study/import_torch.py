"""Imports a PyTorch DCGAN as the trained teacher of a study."""

import hashlib
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from gankd_jax.interop import torch_weights
from gankd_jax.interop.torch_weights import ParamsAndStats
from gankd_jax.models.family import Critic, Generator
from gankd_jax.study import evaluate, networks, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import (
    NetworkState,
    StepSpec,
    TrainState,
    create_train_state,
    init_network,
    make_critic_optimizer,
    make_generator_optimizer,
)
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

# Property of a network -> config field that sets it.
GENERATOR_FIELDS = {
    "image_size": "data.image_size",
    "channels": "data.name",
    "latent_dim": "model.latent",
    "width": "study.teacher_widths",
    "norm": "model.generator_norm",
}
CRITIC_FIELDS = {
    "image_size": "data.image_size",
    "channels": "data.name",
    "width": "recipes.teacher.critic_width",
    "norm": "recipes.teacher.critic_norm",
}


def import_torch_teacher(
    config: ConfigDict, folder: Path, path: Path, *, run: str, critic_path: Path | None = None
) -> Path:
    """Imports a PyTorch DCGAN as a trained teacher.

    The run looks as if it had been trained: it has run.json and a checkpoint of its recipe's last
    step, with new optimizers and averaged weights equal to the weights.  In addition, imported.json
    names the files.  With `evaluation.statistics='running'` in the config, the teacher generates
    images with the file's own batch-norm statistics.

    Args:
        config: The study's config.
        folder: Its work directory, which is created if need be.
        path: The generator's file, as `torch_weights.read_generator` describes it.
        run: Name of a teacher that is not trained yet.
        critic_path: The critic's file, which may be `path`.  None leaves the critic untrained,
          which is refused if a student starts from it or compares its features.

    Returns:
        The run's folder.

    Raises:
        UserError: `run` is no teacher or has started already, or a file cannot be read or does not
          fit the config.  Nothing is written then.
    """
    selected = plan.find_run(config, run)
    if selected.kind != "teacher":
        names = ", ".join(teacher.name for teacher in plan.teacher_runs(config))
        raise UserError(f"--run={run} is no teacher; weights can be imported as {names}")
    runner.validate_study(config)
    target = folder / run
    if workdir.matches_config(folder, config) and target.exists():
        raise UserError(f"{target} exists, so the run has started; name another --workdir")
    if critic_path is None:
        _check_no_student_needs_critic(config)
    run_spec = networks.make_run_spec(config, selected, None)
    generator, critic = _read_weights(run_spec.spec, selected, path, critic_path=critic_path)
    workdir.create_workdir(folder, config)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as work:
        workdir.write_run_info(Path(work), config, selected)
        atomic_io.write_json(Path(work, run, "imported.json"), _describe_files(path, critic_path))
        state = _make_train_state(run_spec, generator, critic)
        _save_checkpoint(Path(work, run, "checkpoints"), state)
        Path(work, run).rename(target)  # so that the run is complete or absent
    evaluate.select_teacher(StudyContext(config, folder))
    return target


def _read_weights(
    spec: StepSpec, run: Run, path: Path, *, critic_path: Path | None
) -> tuple[ParamsAndStats, ParamsAndStats | None]:
    """Reads the files and checks that they fit the run's networks."""
    generator = torch_weights.read_generator(path)
    module = torch_weights.infer_generator(generator[0])
    _check_fit(path, module, spec.generator, run=run, fields=GENERATOR_FIELDS)
    if critic_path is None:
        return generator, None
    assert spec.critic is not None  # teachers are trained as GANs
    critic = torch_weights.read_critic(critic_path)
    critic_module = torch_weights.infer_critic(critic[0])
    _check_fit(critic_path, critic_module, spec.critic, run=run, fields=CRITIC_FIELDS)
    return generator, critic


def _make_train_state(
    run_spec: RunSpec, generator: ParamsAndStats, critic: ParamsAndStats | None
) -> TrainState:
    """Returns the state that training would end with."""
    recipe = run_spec.spec.recipe
    width = run_spec.spec.generator.width
    generator_state = _make_network_state(generator, make_generator_optimizer(recipe, width))
    if critic:
        critic_state = _make_network_state(critic, make_critic_optimizer(recipe))
    else:
        critic_state = jax.jit(lambda: create_train_state(run_spec.spec, run_spec.seed).critic)()
    return TrainState(
        step=jnp.asarray(recipe.steps, jnp.int32),
        generator=generator_state,
        critic=critic_state,
        ema_params=generator_state.params if recipe.ema else None,
    )


def _make_network_state(
    params_and_stats: ParamsAndStats, optimizer: optax.GradientTransformation
) -> NetworkState:
    params, batch_stats = jax.tree.map(jnp.asarray, params_and_stats)
    return init_network(params, batch_stats, optimizer)


def _check_fit(
    path: Path,
    actual: Generator | Critic,
    expected: Generator | Critic,
    *,
    run: Run,
    fields: dict[str, str],
) -> None:
    for name, field in fields.items():
        in_file, in_config = getattr(actual, name), getattr(expected, name)
        if in_file != in_config:
            raise UserError(
                f"{path} does not fit {run.name}: its {name} is {in_file}, not {in_config};"
                f" see config.{field}"
            )


def _check_no_student_needs_critic(config: ConfigDict) -> None:
    for name in config.study.students:
        recipe = config.recipes[name]
        if recipe.alpha > 0 and recipe.critic == "teacher":
            raise UserError(
                f"students of recipe {name} start from the teacher's critic: give its file by"
                f" --critic=FILE, or set config.recipes.{name}.critic to fresh"
            )
        if recipe.features != "none":
            raise UserError(
                f"students of recipe {name} compare features of the teacher's critic: give its"
                f" file by --critic=FILE, or set config.recipes.{name}.features to none"
            )


def _describe_files(path: Path, critic_path: Path | None) -> dict[str, dict[str, str] | None]:
    critic = _describe_file(critic_path) if critic_path else None
    return {"generator": _describe_file(path), "critic": critic}


def _describe_file(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _save_checkpoint(folder: Path, state: TrainState) -> None:
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(int(state.step), state)
    finally:
        checkpoints.close()
