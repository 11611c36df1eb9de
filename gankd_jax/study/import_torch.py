"""Imports a PyTorch DCGAN as the trained teacher of a study."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from gankd_jax.config import schema
from gankd_jax.interop import torch_weights
from gankd_jax.interop.torch_weights import ParamsAndStats
from gankd_jax.models.family import Critic, Generator, family_of
from gankd_jax.study import evaluate, networks, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.study.validation import validate_config
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import (
    NetworkState,
    TrainState,
    create_train_state,
    init_network,
    make_critic_optimizer,
    make_generator_optimizer,
)
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

Fields = dict[str, Any]  # values of config fields by their dotted names


def import_torch_teacher(
    config: ConfigDict,
    folder: Path,
    path: Path,
    *,
    run: str | None = None,
    critic_path: Path | None = None,
    key: str | None = None,
) -> tuple[Path, Fields]:
    """Imports a PyTorch DCGAN as a trained teacher.

    The file decides the size of images, latents, width and norm; config fields that say otherwise
    are changed.  The run looks as if it had been trained: it has run.json and a checkpoint of its
    recipe's last step, with new optimizers and averaged weights equal to the weights.  In addition,
    imported.json names the files.  With `evaluation.statistics='running'` in the config, the
    teacher generates images with the file's own batch-norm statistics.

    Args:
        config: The study's config.
        folder: Its work directory, which is created if need be.
        path: The generator's file, as `torch_weights.read_generator` describes it.
        run: Name of a teacher that is not trained yet; None for the first of the file's width.
        critic_path: The critic's file, which may be `path`.  None leaves the critic untrained,
          which is refused if a student starts from it or compares its features.
        key: Name of the generator in a file that holds several.

    Returns:
        The run's folder, and the config fields that the file has changed.

    Raises:
        UserError: `run` is no teacher of the file's width or has started already; or a file cannot
          be read, or draws images of other channels than the data set.  Nothing is written then.
    """
    generator = torch_weights.read_generator(path, key)
    critic = torch_weights.read_critic(critic_path) if critic_path else None
    fields = _read_fields(config, path, generator, critic_path=critic_path, critic=critic)
    config = _change_fields(config, fields)
    width = torch_weights.infer_generator(generator[0]).width
    selected = _select_run(config, path, width, run)
    if critic_path is None:
        _check_no_student_needs_critic(config)
    target = folder / selected.name
    if workdir.matches_config(folder, config) and target.exists():
        raise UserError(f"{target} exists, so the run has started; name another --workdir")
    workdir.create_workdir(folder, config)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as work:
        written = Path(work, selected.name)
        run_spec = networks.make_run_spec(config, selected, None)
        workdir.write_run_info(Path(work), selected, run_spec.spec.generator)
        atomic_io.write_json(written / "imported.json", _describe_files(path, key, critic_path))
        state = _make_train_state(run_spec, generator, critic)
        _save_checkpoint(written / "checkpoints", state)
        written.rename(target)  # so that the run is complete or absent
    evaluate.select_teacher(StudyContext(config, folder))
    return target, fields


def _read_fields(
    config: ConfigDict,
    path: Path,
    generator: ParamsAndStats,
    *,
    critic_path: Path | None,
    critic: ParamsAndStats | None,
) -> Fields:
    """Returns the config fields that must change for the networks to fit."""
    module = torch_weights.infer_generator(generator[0])
    if module.channels != networks.image_channels(config):
        raise UserError(
            f"{path} draws images of {module.channels} channels, and those of {config.data.name}"
            f" have {networks.image_channels(config)}; set config.data.name to another data set"
        )
    fields: Fields = {
        "model.teacher.family": family_of(module).name,
        "data.image_size": module.image_size,
        "model.latent": module.latent_dim,
        "model.generator_norm": module.norm,
    }
    if module.width not in config.study.teacher_widths:
        fields["study.teacher_widths"] = (module.width,)
    if critic:
        critic_module = torch_weights.infer_critic(critic[0])
        _check_same_images(critic_path, critic_module, path, module)
        fields["recipes.teacher.critic_norm"] = critic_module.norm
        if critic_module.width != (config.recipes.teacher.critic_width or module.width):
            fields["recipes.teacher.critic_width"] = critic_module.width
    present = schema.flatten_config(config.to_dict())
    return {name: value for name, value in fields.items() if present[name] != value}


def _check_same_images(
    critic_path: Path | None, critic: Critic, path: Path, generator: Generator
) -> None:
    for name in ("image_size", "channels"):
        critic_value, value = getattr(critic, name), getattr(generator, name)
        if critic_value != value:
            raise UserError(
                f"{critic_path} does not fit {path}: its {name} is {critic_value}, not {value}"
            )


def _change_fields(config: ConfigDict, fields: Fields) -> ConfigDict:
    """Returns a copy of the config with the fields changed, after all checks of a config."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    validate_config(changed)
    runner.validate_study(changed)
    return changed


def _select_run(config: ConfigDict, path: Path, width: int, name: str | None) -> Run:
    """Returns the teacher of that name, or the first of that width."""
    runs = {run.name: run for run in plan.teacher_runs(config) if run.width == width}
    name = name or next(iter(runs))
    if name not in runs:
        raise UserError(
            f"--run={name} is no teacher of width {width}, which {path} has; it can be"
            f" {', '.join(runs)}"
        )
    return runs[name]


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


def _check_no_student_needs_critic(config: ConfigDict) -> None:
    for name in config.study.students:
        recipe = config.recipes[name]
        if recipe.alpha > 0 and recipe.critic == "teacher":
            raise UserError(
                f"students of recipe {name} start from the teacher's critic: give its file by"
                f" --critic=FILE, or set config.recipes.{name}.critic to fresh"
            )
        if recipe.features != "none" and recipe.feature_network == "critic":
            raise UserError(
                f"students of recipe {name} compare features of the teacher's critic: give its"
                f" file by --critic=FILE, or set config.recipes.{name}.feature_network to"
                " classifier or inception"
            )


def _describe_files(path: Path, key: str | None, critic_path: Path | None) -> dict[str, Any]:
    generator = _describe_file(path) | ({"key": key} if key else {})
    return {"generator": generator, "critic": _describe_file(critic_path) if critic_path else None}


def _describe_file(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _save_checkpoint(folder: Path, state: TrainState) -> None:
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(int(state.step), state)
    finally:
        checkpoints.close()
