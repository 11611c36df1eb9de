"""Students that start from the channels of the next wider student."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from gankd_jax.models.dcgan import prune_generator
from gankd_jax.study import plan, runner
from gankd_jax.study.context import StudyContext
from gankd_jax.utils.errors import UserError

TEACHER, WIDER, NARROW = "teacher-d4-s0", "student-l1-d2-s0", "student-l1-d1-s0"


@pytest.fixture
def config(root) -> ConfigDict:
    """The learning rate is 1e-3 at d=2 and next to nothing at d=1."""
    return tiny.config(
        data__dir=str(tiny.prepare_data(root)),
        study__widths=(1, 2),
        study__seeds=(0,),
        study__students=("l1",),
        study__baselines=(),
        recipes__l1__warm_start=True,
        recipes__l1__warm_start_from="wider",
        recipes__l1__generator_lr=1e-9,
        recipes__l1__lr_width_exponent=-20.0,
        training__grid_every=0,
    )


def load_params(config: ConfigDict, folder: Path, name: str) -> Any:
    state = StudyContext(config, folder).restore_state(plan.find_run(config, name))
    return state.evaluated_params


def largest_difference(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def test_a_student_starts_from_the_next_wider_one(config, tmp_path):
    runner.train_run(config, tmp_path, TEACHER)
    with pytest.raises(UserError, match=f"{NARROW} starts from {WIDER}, which is not trained"):
        runner.train_run(config, tmp_path, NARROW)
    runner.train_run(config, tmp_path, WIDER)
    runner.train_run(config, tmp_path, NARROW)
    teacher, wider, narrow = (
        load_params(config, tmp_path, name) for name in (TEACHER, WIDER, NARROW)
    )
    assert largest_difference(narrow, prune_generator(narrow, wider)) < 1e-7
    assert largest_difference(narrow, prune_generator(narrow, teacher)) > 1e-3


def test_a_student_starts_from_the_teacher_if_the_wider_one_has_failed(config, tmp_path):
    runner.train_run(config, tmp_path, TEACHER)
    (tmp_path / WIDER).mkdir()
    (tmp_path / WIDER / "failed.json").write_text('{"step": 10}')
    runner.train_run(config, tmp_path, NARROW)
    teacher, narrow = (load_params(config, tmp_path, name) for name in (TEACHER, NARROW))
    assert largest_difference(narrow, prune_generator(narrow, teacher)) < 1e-7
