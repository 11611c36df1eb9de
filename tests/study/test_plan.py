"""The runs of a config, and each run's networks and seeds."""

import pytest
import tiny

from gankd_jax.config.recipe import Recipe
from gankd_jax.models import conv
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.resnet import ResNetCritic, ResNetGenerator
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run
from gankd_jax.utils.errors import UserError


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def test_the_plan_is_teachers_then_students_then_baselines():
    config = tiny.config(
        study__teacher_widths=(4, 8),
        study__teacher_seeds=(3,),
        study__widths=(1, 2),
        study__seeds=(0,),
    )
    assert names(plan.plan_runs(config)) == [
        "teacher-d4-s3",
        "teacher-d8-s3",
        "student-mse-d1-s0",
        "student-mse-d2-s0",
        "student-l1-d1-s0",
        "student-l1-d2-s0",
        "baseline-d1-s0",
        "baseline-d2-s0",
    ]


def test_a_baseline_of_another_recipe_is_named_after_it():
    assert Run("baseline", "wide", 2, 1).name == "baseline-wide-d2-s1"


def test_every_run_has_a_name_of_its_own():
    config = tiny.config(
        study__widths=(1, 11),
        study__seeds=(0, 1, 11),
        study__students=("mse", "l1", "teacher", "baseline"),
    )
    runs = plan.plan_runs(config)
    assert len(set(names(runs))) == len(runs) == 1 + 4 * 2 * 3 + 2 * 3
    assert [plan.find_run(config, run.name) for run in runs] == runs


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x", "it has teacher-d4-s0, student-mse-d1-s0"),
        ("student-mse-d1", r"did you mean student-mse-d1-s[01]\?"),
    ],
)
def test_an_unknown_run_is_refused_with_the_nearest_name(name, advice):
    with pytest.raises(UserError, match=rf"--run={name} is not a run of this study; {advice}"):
        plan.find_run(tiny.config(), name)


def test_a_part_names_its_place_among_the_programs_of_the_study():
    config = tiny.config(study__seeds=(0, 1))
    runs = plan.plan_runs(config)
    assert plan.describe_part(config, runs[:1]) == "teacher-d4-s0 (part 1 of 3)"
    students = plan.student_runs(config)
    assert plan.describe_part(config, students) == "4 students (part 2 of 3)"
    assert plan.describe_part(config, students[2:3]) == "student-l1-d1-s0 (part 2 of 3)"
    config.study.update(teacher="netG.pth", teacher_widths=(4,), baselines=())
    assert plan.describe_part(config, students) == "4 students"


def test_a_group_has_equal_kind_steps_and_batch_size():
    config = tiny.config(study__students=("mse", "l1", "joint"), study__seeds=(0, 1))
    config.recipes.joint.steps = tiny.STEPS
    config.recipes.l1.batch_size = 32
    groups = [set(names(group)) for group in plan.group_runs(config, plan.plan_runs(config))]
    expected = [
        {"teacher-d4-s0"},
        {f"student-{name}-d1-s{seed}" for name in ("mse", "joint") for seed in (0, 1)},
        {"student-l1-d1-s0", "student-l1-d1-s1"},
        {"baseline-d1-s0", "baseline-d1-s1"},
    ]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))


@pytest.mark.parametrize(("field", "value"), [("steps", 80), ("critic_steps", 2)])
def test_runs_with_other_steps_are_another_group(field, value):
    config = tiny.config()
    config.recipes.l1[field] = value
    assert len(plan.group_runs(config, plan.student_runs(config))) == 2


def test_networks_have_the_sizes_of_the_config():
    config = tiny.config(model__latent=7, model__generator_norm="none", model__conv="phase")
    config.recipes.baseline.update({"critic_width": 0, "critic_norm": "layer"})
    run = Run("baseline", "baseline", 3, 0)
    assert networks.build_generator(config, run) == DCGANGenerator(3, 16, 1, 7, "none", "phase")
    assert networks.build_critic(config, run) == DCGANCritic(3, 16, 1, "layer", "phase")


def test_teacher_and_others_have_their_own_family():
    config = tiny.config(data__image_size=32, model__teacher__family="resnet", model__latent=7)
    config.recipes.joint.update({"alpha": 0.5, "critic": "teacher"})
    config.recipes.teacher.update({"critic_norm": "spectral", "critic_width": 0})
    teacher, student = Run("teacher", "teacher", 4, 0), Run("student", "joint", 2, 0)
    conv_impl = conv.resolve_conv_impl("auto")
    spec = networks.make_run_spec(config, student, teacher).spec
    assert spec.generator == DCGANGenerator(2, 32, 1, 7, conv_impl=conv_impl)
    assert spec.critic == ResNetCritic(4, 32, 1, conv_impl=conv_impl)
    teacher_generator = ResNetGenerator(4, 32, 1, 7, conv_impl=conv_impl)
    assert networks.build_generator(config, teacher) == teacher_generator


@pytest.mark.parametrize(("name", "count"), [("digits", 1), ("cifar10", 3), ("celeb_a", 3)])
def test_channels_are_those_of_the_data_set(name, count):
    assert networks.image_channels(tiny.config(data__name=name)) == count


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UserError, match="choose one of digits"):
        networks.build_generator(tiny.config(data__name="imagenet"), Run("student", "mse", 1, 0))


def test_pure_distillation_has_no_critic_and_keeps_its_recipe():
    config = tiny.config()
    run_spec = networks.make_run_spec(
        config, Run("student", "mse", 2, 5), Run("teacher", "teacher", 4, 0)
    )
    assert (run_spec.seed, run_spec.spec.generator.width, run_spec.spec.critic) == (5, 2, None)
    assert run_spec.spec.recipe == Recipe(**config.recipes.mse)


def test_a_fresh_critic_is_as_wide_as_its_run_or_as_the_recipe_says():
    config = tiny.config(recipes__baseline__critic_width=0)
    run = Run("baseline", "baseline", 2, 0)
    assert networks.make_run_spec(config, run, None).spec.critic.width == 2
    config.recipes.baseline.critic_width = 8
    assert networks.make_run_spec(config, run, None).spec.critic.width == 8


def test_a_critic_that_starts_from_the_teachers_has_its_width_and_norm():
    config = tiny.config(recipes__teacher__critic_norm="layer")
    config.recipes.joint.update({"alpha": 0.5, "critic": "teacher", "critic_norm": "batch"})
    run, teacher = Run("student", "joint", 1, 0), Run("teacher", "teacher", 4, 0)
    critic = networks.make_run_spec(config, run, teacher).spec.critic
    assert critic == networks.make_run_spec(config, teacher, None).spec.critic
    assert (critic.width, critic.norm) == (4, "layer")
    config.recipes.joint.critic = "fresh"
    assert networks.make_run_spec(config, run, teacher).spec.critic.width == 1


def width_squared(run: Run) -> int:
    return run.width**2


@pytest.mark.parametrize("n", range(1, 14))
def test_shards_are_together_the_plan_and_none_is_empty_while_runs_are_left(n):
    config = tiny.config(recipes__l1__steps=50, study__widths=(1, 2), study__seeds=(0, 1))
    runs = plan.plan_runs(config)
    assert len(runs) == 13
    shards = plan.shard_runs(config, n, width_squared)
    together = [run for shard in shards for run in shard]
    assert len(shards) == n
    assert len(together) == len(set(together))
    assert set(together) == set(runs)
    assert all(shards)


def test_groups_stay_whole_up_to_their_number():
    config = tiny.config(recipes__l1__steps=50)  # students of another length: a group of their own
    groups = plan.group_runs(config, plan.plan_runs(config))
    for n in range(1, len(groups) + 1):
        shards = plan.shard_runs(config, n, cost=pytest.fail)
        for group in groups:
            assert sum(set(group) <= set(shard) for shard in shards) == 1
    assert shards == groups


def test_more_shards_than_runs_leave_the_last_ones_empty():
    config = tiny.config(study__students=("mse",), study__seeds=(0,), study__baselines=())
    shards = plan.shard_runs(config, 4, width_squared)
    assert [names(shard) for shard in shards] == [["teacher-d4-s0"], ["student-mse-d1-s0"], [], []]


def test_split_groups_are_balanced_by_cost():
    """No shard of a group is dearer than the cheapest by more than its cheapest run."""
    config = tiny.config(study__widths=(1, 2, 3, 4, 8), study__seeds=(0, 1, 2))
    for n in range(4, 20):
        shards = plan.shard_runs(config, n, width_squared)
        for kind in ("student", "baseline"):
            parts = [shard for shard in shards if shard[0].kind == kind]
            costs = [sum(map(width_squared, part)) for part in parts]
            largest = parts[costs.index(max(costs))]
            assert max(costs) - min(costs) <= min(map(width_squared, largest))


def test_the_cost_of_a_run_is_that_of_its_steps():
    config = tiny.config(recipes__l1__steps=80)
    runs = {run.name: run for run in plan.plan_runs(config)}
    by_name = {name: networks.run_flops(config, run) for name, run in runs.items()}
    assert by_name["student-l1-d1-s0"] == 2 * by_name["student-mse-d1-s0"]
    assert by_name["student-mse-d1-s0"] == by_name["student-mse-d1-s1"]
    assert by_name["baseline-d1-s0"] > by_name["student-mse-d1-s0"]  # it has a critic


@pytest.mark.parametrize(("warm_start", "stream"), [(False, 9), (True, 5)])
def test_runs_with_a_warm_start_have_latents_of_their_own(warm_start, stream):
    config = tiny.config(recipes__mse__warm_start=warm_start)
    run, teacher = Run("student", "mse", 1, 5), Run("teacher", "teacher", 4, 9)
    assert networks.make_run_spec(config, run, teacher).data_seed == stream
    assert networks.make_run_spec(config, Run("baseline", "baseline", 1, 5), None).data_seed == 5
