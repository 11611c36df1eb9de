"""Takes a teacher from a PyTorch file into a study, and a run's generator out of it as one."""

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
    make_critic_optimizer,
    make_generator_optimizer,
)
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

# What decides each property of a network, for who has to change it.
GENERATOR_FIELDS = {
    "image_size": "data.image_size",
    "channels": "data.name",
    "latent": "model.latent",
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
    """Make a PyTorch DCGAN the trained teacher `run` of the study in `folder`; the run's folder.

    The run is left as training leaves it: a checkpoint of its recipe's last step (the optimizers
    fresh, the average equal to the weights) and run.json; imported.json says where the weights are
    from. `critic_path` is the file of its critic, which may be `path` again; without one the critic
    is untrained, which is refused where a student would go on from it or look through it. What the
    file must look like is told by `torch_weights.read_generator`. With the config's
    `evaluation.statistics` 'running' the teacher draws with the file's own batch-norm statistics.

    Raises:
        UserError: `run` is no teacher or was begun already, or a file cannot be read or does not
            fit the config; nothing is written then.
    """
    chosen = plan.find_run(config, run)
    if chosen.kind != "teacher":
        names = ", ".join(teacher.name for teacher in plan.teacher_runs(config))
        raise UserError(f"--run={run} is no teacher; weights can be imported as {names}")
    runner.validate_study(config)
    target = folder / run
    if workdir.matches_config(folder, config) and target.exists():
        raise UserError(f"{target} exists, so that run was begun; name another --workdir")
    if critic_path is None:
        _check_no_student_needs_critic(config)
    member = networks.make_run_spec(config, chosen, None)
    generator, critic = _read(member.spec, chosen, path, critic_path=critic_path)
    workdir.create_workdir(folder, config)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as work:
        workdir.write_run_info(Path(work), config, chosen)
        atomic_io.write_json(Path(work, run, "imported.json"), _origin(path, critic_path))
        _save(Path(work, run, "checkpoints"), _state(member, generator, critic))
        Path(work, run).rename(target)  # the run is there whole or not at all
    evaluate.select_teacher(StudyContext(config, folder))
    return target


def export_torch(config: ConfigDict, folder: Path, *, run: str, out: Path) -> None:
    """Write a trained run's generator as a PyTorch `state_dict`, as evaluation draws with it.

    That is with averaged weights where the recipe keeps them, and with the batch-norm statistics
    that `evaluation.statistics` names. The layers' names: `torch_weights.write_generator`.

    Raises:
        UserError: no such run, it is not trained yet, or `out` exists.
    """
    chosen = plan.find_run(config, run)
    workdir.require_trained(folder, config, chosen)
    _, variables = StudyContext(config, folder).drawer(chosen)
    torch_weights.write_generator(out, variables["params"], variables.get("batch_stats", {}))


def _read(
    spec: StepSpec, run: Run, path: Path, *, critic_path: Path | None
) -> tuple[ParamsAndStats, ParamsAndStats | None]:
    """The weights in the files, which fit the run's networks; None for a critic not given."""
    generator = torch_weights.read_generator(path)
    found = torch_weights.infer_generator(generator[0])
    _check_fit(path, found, spec.generator, run=run, fields=GENERATOR_FIELDS)
    if critic_path is None:
        return generator, None
    assert spec.critic is not None  # for a teacher is trained as a GAN
    critic = torch_weights.read_critic(critic_path)
    judged = torch_weights.infer_critic(critic[0])
    _check_fit(critic_path, judged, spec.critic, run=run, fields=CRITIC_FIELDS)
    return generator, critic


def _state(member: RunSpec, generator: ParamsAndStats, critic: ParamsAndStats | None) -> TrainState:
    """The weights as the run's last state."""
    recipe = member.spec.recipe
    drawer = _network(generator, make_generator_optimizer(recipe, member.spec.generator.width))
    if critic:
        judge = _network(critic, make_critic_optimizer(recipe))
    else:
        judge = jax.jit(lambda: create_train_state(member.spec, member.seed).critic)()
    return TrainState(
        step=jnp.asarray(recipe.steps, jnp.int32),
        generator=drawer,
        critic=judge,
        average=drawer.params if recipe.ema else None,
    )


def _network(trees: ParamsAndStats, optimizer: optax.GradientTransformation) -> NetworkState:
    params, stats = jax.tree.map(jnp.asarray, trees)
    return NetworkState(params=params, stats=stats, optimizer=optimizer.init(params))


def _check_fit(
    path: Path,
    found: Generator | Critic,
    wanted: Generator | Critic,
    *,
    run: Run,
    fields: dict[str, str],
) -> None:
    for name, field in fields.items():
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs != ours:
            what = f"its {name.replace('_', ' ')} is {theirs}, not {ours}"
            raise UserError(f"{path} does not fit {run.name}: {what}; see config.{field}")


def _check_no_student_needs_critic(config: ConfigDict) -> None:
    for name in config.study.students:
        recipe = config.recipes[name]
        if recipe.alpha > 0 and recipe.critic == "teacher":
            raise UserError(
                f"students of recipe {name} go on from the teacher's critic: give its file by"
                f" --critic=FILE, or set config.recipes.{name}.critic to fresh"
            )
        if recipe.features != "none":
            raise UserError(
                f"students of recipe {name} look through the teacher's critic: give its file by"
                f" --critic=FILE, or set config.recipes.{name}.features to none"
            )


def _origin(path: Path, critic_path: Path | None) -> dict[str, dict[str, str] | None]:
    return {"generator": _file(path), "critic": _file(critic_path) if critic_path else None}


def _file(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _save(folder: Path, state: TrainState) -> None:
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(int(state.step), state)
    finally:
        checkpoints.close()
