"""Which config a work directory holds, and how far its runs have come."""

import json
from unittest import mock

import pytest
import tiny

from gankd_jax.config import schema
from gankd_jax.study import networks, workdir
from gankd_jax.study.plan import Run
from gankd_jax.utils import file_lock
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

RUN = Run("student", "mse", 1, 0)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def create_begun_study(folder, run=RUN, **changes) -> None:
    """Makes a work directory in which one run has a checkpoint."""
    workdir.create_workdir(folder, tiny.config(**changes))
    touch(folder / run.name / "checkpoints" / "10" / "weights")


@pytest.mark.parametrize("existing", [True, False])
def test_an_empty_or_absent_folder_takes_the_config(tmp_path, existing):
    folder = tmp_path / "new" / "study"
    if existing:
        folder.mkdir(parents=True)
    assert not workdir.matches_config(folder, tiny.config())
    assert folder.exists() == existing  # looking creates nothing
    workdir.create_workdir(folder, tiny.config())
    assert workdir.matches_config(folder, tiny.config())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["study"]["widths"] == [1]


def test_creating_a_workdir_twice_writes_nothing(tmp_path):
    workdir.create_workdir(tmp_path / "a", tiny.config())
    before = tiny.snapshot(tmp_path)
    workdir.create_workdir(tmp_path / "a", tiny.config())
    assert tiny.snapshot(tmp_path) == before


def test_mutable_fields_may_change(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    changes = {"data__dir": "/elsewhere", "data__placement": "host", "training__retries": 2}
    changes["training__writers"] = ("jsonl",)
    assert workdir.matches_config(tmp_path, tiny.config(**changes))


def test_another_config_is_refused_naming_the_first_changed_field(tmp_path):
    create_begun_study(tmp_path)
    before = tiny.snapshot(tmp_path)
    other = tiny.config(study__widths=(1, 2), study__seeds=(1,))
    with pytest.raises(UserError, match=r"config.study.seeds is \[0, 1\] there and \[1\] here"):
        workdir.create_workdir(tmp_path, other)
    with pytest.raises(UserError, match=r"\(2 fields differ\), and student-mse-d1-s0 has begun"):
        workdir.matches_config(tmp_path, other)
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"study__widths": (1, 2, 8)},
        {"study__seeds": (5, 0)},
        {"study__students": ("mse",)},
        {"study__students": ("joint", "mse", "l1")},
        {"study__baselines": ()},
        {"study__teacher_seeds": (3, 0)},
        {"recipes__l1__generator_lr": 0.5},
        {"recipes__joint__alpha": 0.1},
        {"recipes__teacher__steps": 80},
        {"data__validation": 7},
        {"data__pad": 0},
        {"data__mirror": True},
        {"evaluation__samples": 300},
        {"evaluation__classifiers": ("classifier", "resnet")},
        {"name": "other"},
    ],
)
def test_what_no_run_and_no_score_depends_on_may_change_and_is_stored(tmp_path, changes):
    create_begun_study(tmp_path)
    config = tiny.config(**changes)
    assert workdir.matches_config(tmp_path, config)
    workdir.create_workdir(tmp_path, config)
    config.model.precision = "float32"  # which auto is on the CPU
    assert workdir.read_config(tmp_path).to_dict() == config.to_dict()
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", RUN.name}


@pytest.mark.parametrize(
    "changes",
    [
        {"study__widths": (2,)},
        {"study__seeds": (1,)},
        {"study__students": ("l1",)},
        {"study__teacher": "mnist-d2"},
        {"recipes__mse__b1": 0.3},
        {"model__latent": 7},
        {"model__precision": "bfloat16"},
        {"model__student__family": "resnet"},
        {"data__image_size": 32},
        {"training__steps_per_call": 10},
        {"evaluation__statistics": "running"},
    ],
)
def test_what_a_student_that_has_begun_depends_on_may_not_change(tmp_path, changes):
    create_begun_study(tmp_path)
    with pytest.raises(UserError, match=r"there and .* student-mse-d1-s0 has begun with it"):
        workdir.matches_config(tmp_path, tiny.config(**changes))


def test_the_precision_auto_is_the_one_that_the_study_began_with(tmp_path):
    create_begun_study(tmp_path, model__precision="bfloat16")
    workdir.create_workdir(tmp_path, tiny.config(model__precision="auto", name="other"))
    config = workdir.read_config(tmp_path)
    assert (config.name, config.model.precision) == ("other", "bfloat16")
    with pytest.raises(UserError, match="precision is bfloat16 there and float32 here"):
        workdir.matches_config(tmp_path, tiny.config(model__precision="float32"))


def test_a_study_from_before_the_precision_was_a_choice_is_one_in_float32(tmp_path):
    create_begun_study(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    del fields["model"]["precision"]
    path.write_text(json.dumps(fields))
    assert workdir.matches_config(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config(model__precision="float32"))
    with pytest.raises(UserError, match="precision is float32 there and bfloat16 here"):
        workdir.matches_config(tmp_path, tiny.config(model__precision="bfloat16"))


@pytest.mark.parametrize("kind", ["teacher", "baseline"])
def test_a_run_on_real_images_depends_on_them_unless_it_was_imported(tmp_path, kind):
    run = Run(kind, kind, 4 if kind == "teacher" else 1, 0)
    create_begun_study(tmp_path, run)
    for changes in ({"data__validation": 7}, {"data__pad": 0}, {"data__mirror": True}):
        with pytest.raises(UserError, match=f"{run.name} has begun with it"):
            workdir.matches_config(tmp_path, tiny.config(**changes))
    assert workdir.matches_config(tmp_path, tiny.config(evaluation__statistics="running"))
    touch(tmp_path / run.name / "imported.json")
    assert workdir.matches_config(tmp_path, tiny.config(data__validation=7, data__pad=0))


@pytest.mark.parametrize("field", ["evaluation__samples", "evaluation__seed", "data__validation"])
def test_a_written_score_depends_on_how_it_was_computed(tmp_path, field):
    create_begun_study(tmp_path)
    assert workdir.matches_config(tmp_path, tiny.config(**{field: 300}))
    touch(tmp_path / "reference" / "scores.json")
    with pytest.raises(UserError, match="and scores were computed with it"):
        workdir.matches_config(tmp_path, tiny.config(**{field: 300}))
    assert workdir.matches_config(tmp_path, tiny.config(study__widths=(1, 2)))


def test_candidates_may_not_join_once_the_teacher_is_selected(tmp_path):
    create_begun_study(tmp_path)
    config = tiny.config(study__teacher_widths=(4, 8))
    assert workdir.matches_config(tmp_path, config)
    touch(tmp_path / "teacher.json")
    with pytest.raises(UserError, match="and the teacher is selected already"):
        workdir.matches_config(tmp_path, config)


def test_a_selection_among_candidates_depends_on_its_scores(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config(study__teacher_widths=(4, 8)))
    config = tiny.config(study__teacher_widths=(4, 8), evaluation__samples=300)
    assert workdir.matches_config(tmp_path, config)
    touch(tmp_path / "teacher.json")
    with pytest.raises(UserError, match="and scores were computed with it"):
        workdir.matches_config(tmp_path, config)


def test_a_run_in_training_has_begun(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    config = tiny.config(recipes__mse__ema=0.5)
    with (
        file_lock.hold_lock(tmp_path / file_lock.LOCKS_DIR / RUN.name, RUN.name),
        pytest.raises(UserError, match="student-mse-d1-s0 has begun with it"),
    ):
        workdir.matches_config(tmp_path, config)
    assert workdir.matches_config(tmp_path, config)


def edit_config(folder, edit) -> None:
    """Changes the stored config, as another version of the program may have written it."""
    stored = json.loads((folder / "config.json").read_text())
    edit(stored)
    (folder / "config.json").write_text(json.dumps(stored))


def test_a_field_that_the_stored_config_lacks_has_its_default(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    touch(tmp_path / RUN.name / "checkpoints" / "10" / "weights")
    edit_config(tmp_path, lambda stored: stored["recipes"]["mse"].pop("ema"))
    assert workdir.matches_config(tmp_path, tiny.config())
    assert workdir.read_config(tmp_path).recipes.mse.ema == 0.0
    with pytest.raises(UserError, match=r"config.recipes.mse.ema is 0.0 there and 0.5 here"):
        workdir.matches_config(tmp_path, tiny.config(recipes__mse__ema=0.5))


def test_an_unknown_stored_field_is_named_in_one_warning(tmp_path, caplog):
    workdir.create_workdir(tmp_path, tiny.config())
    edit_config(tmp_path, lambda stored: stored["training"].update(future=1))
    edit_config(tmp_path, lambda stored: stored["recipes"]["mse"].update(future=[2]))
    for _ in range(2):
        assert workdir.matches_config(tmp_path, tiny.config())
    [warning] = caplog.messages
    assert "config.recipes.mse.future, config.training.future" in warning
    assert "\n" not in warning


def test_a_renamed_field_is_read_under_its_old_name(tmp_path):
    create_begun_study(tmp_path, recipes__mse__lr_width_exponent=0.5)

    def use_old_names(stored) -> None:
        recipe = stored["recipes"]["mse"]
        recipe["lr_power"] = recipe.pop("lr_width_exponent")
        stored["evaluation"]["judges"] = stored["evaluation"].pop("classifiers")

    edit_config(tmp_path, use_old_names)
    assert workdir.matches_config(tmp_path, tiny.config(recipes__mse__lr_width_exponent=0.5))
    assert workdir.read_config(tmp_path).recipes.mse.lr_width_exponent == 0.5
    with pytest.raises(UserError, match=r"recipes.mse.lr_width_exponent is 0.5 there and 0.0 here"):
        workdir.matches_config(tmp_path, tiny.config())


def test_a_stored_recipe_that_the_config_lacks_is_named_in_a_warning(tmp_path, caplog):
    workdir.create_workdir(tmp_path, tiny.config())
    edit_config(tmp_path, lambda stored: stored["recipes"].update(old=stored["recipes"]["mse"]))
    assert workdir.matches_config(tmp_path, tiny.config())
    assert "config.recipes.old" in caplog.text


def test_a_new_recipe_that_no_run_uses_does_not_lock_out_a_workdir(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    edit_config(tmp_path, lambda stored: stored["recipes"].pop("joint"))
    assert workdir.matches_config(tmp_path, tiny.config())


def test_a_removed_option_opens_only_where_it_was_off(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    edit_config(tmp_path, lambda stored: stored["recipes"]["mse"].update(removed_option=0))
    with mock.patch.dict(schema.REMOVED_FIELDS, {r"recipes\.[^.]+\.removed_option": 0}):
        assert workdir.matches_config(tmp_path, tiny.config())
        edit_config(tmp_path, lambda stored: stored["recipes"]["mse"].update(removed_option=7))
        with pytest.raises(UserError, match=r"recipes.mse.removed_option is 7, and this option"):
            workdir.matches_config(tmp_path, tiny.config())


def test_foreign_files_and_a_damaged_config_are_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    touch(tmp_path / "thesis" / "chapter1.tex")
    touch(tmp_path / "file")
    touch(tmp_path / "damaged" / "config.json")
    for name, message in [
        ("thesis", r"has files but no study \(chapter1.tex\); name an empty folder"),
        ("file", "has files but no study"),
        ("damaged", "config.json is damaged"),
    ]:
        with pytest.raises(UserError, match=message):
            workdir.create_workdir(tmp_path / name, tiny.config())
    assert (tmp_path / "damaged" / "config.json").read_bytes() == b""


def test_an_unwritable_workdir_is_refused(tmp_path):
    touch(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        workdir.create_workdir(tmp_path / "file" / "below", tiny.config())


def test_the_state_of_a_run_is_read_from_its_files(tmp_path):
    config = tiny.config()
    assert workdir.checkpoint_steps(tmp_path, RUN) == []
    assert workdir.resumable_steps(tmp_path, RUN) == [0]
    for step in ("9", "10", "20.orbax-checkpoint-tmp"):
        (tmp_path / RUN.name / "checkpoints" / step).mkdir(parents=True)
    assert workdir.checkpoint_steps(tmp_path, RUN) == [9, 10]
    assert workdir.resumable_steps(tmp_path, RUN) == [9, 10]
    assert not workdir.is_trained(tmp_path, config, RUN)
    (tmp_path / RUN.name / "checkpoints" / "9").rmdir()
    (tmp_path / RUN.name / "checkpoints" / "40").mkdir()
    assert workdir.is_trained(tmp_path, config, RUN)
    assert not workdir.has_failed(tmp_path, RUN)
    assert not workdir.is_scored(tmp_path, RUN)
    touch(tmp_path / RUN.name / "failed.json")
    assert workdir.has_failed(tmp_path, RUN)
    touch(tmp_path / RUN.name / "scores.json")
    assert workdir.is_scored(tmp_path, RUN)


def test_step_0_is_resumable_beside_the_first_checkpoint(tmp_path):
    (tmp_path / RUN.name / "checkpoints" / "10").mkdir(parents=True)
    assert workdir.resumable_steps(tmp_path, RUN) == [0, 10]


@pytest.mark.parametrize("name", ["scores.json", "imported.json"])
def test_scored_and_imported_runs_are_final(tmp_path, name):
    assert not workdir.is_final(tmp_path, RUN)
    touch(tmp_path / RUN.name / name)
    assert workdir.is_final(tmp_path, RUN)


def test_checkpoint_steps_are_those_of_orbax(tmp_path):
    checkpoints = Checkpoints(tmp_path / RUN.name / "checkpoints")
    for step in (5, 10, 15):
        checkpoints.save(step, {"weight": 1.0})
    assert workdir.checkpoint_steps(tmp_path, RUN) == checkpoints.steps() == [10, 15]
    checkpoints.close()


def test_run_info_has_the_size_of_the_generator(tmp_path):
    generator = networks.build_generator(tiny.config(), RUN)
    workdir.write_run_info(tmp_path, RUN, generator, precision="bfloat16")
    info = json.loads((tmp_path / RUN.name / "run.json").read_text())
    # 16 pixels, d = 1: 100 latents to 2 channels, to 1, to 1; kernels 4x4, biases, batch norm.
    kernels, biases, norms = 16 * (100 * 2 + 2 * 1 + 1 * 1), 2 + 1 + 1, 2 * (2 + 1)
    assert info == {
        "name": "student-mse-d1-s0",
        "kind": "student",
        "recipe": "mse",
        "width": 1,
        "seed": 0,
        "parameters": kernels + biases + norms,
        "paper_parameters": kernels + biases,
        "multiply_adds": 16 * (100 * 2 + 2 * 1 * 4**2 + 1 * 1 * 8**2),
        "bytes_float32": 4 * (kernels + biases + norms),
        "precision": "bfloat16",
    }


def test_a_half_written_config_does_not_block_the_folder(tmp_path):
    touch(tmp_path / ".config.json.x1y2")  # the name of an unfinished write
    workdir.create_workdir(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config())


def test_a_second_damaged_checkpoint_of_a_step_gets_a_new_name(tmp_path):
    folder = tmp_path / RUN.name / "checkpoints"
    for step in ("20", "20.damaged", "20.damaged-2", "10"):
        touch(folder / step / "file")
    (folder / "20" / "sha256").write_text("of other files")
    assert workdir.quarantine_damaged_checkpoints(tmp_path, RUN) == [folder / "20.damaged-3"]
    assert workdir.checkpoint_steps(tmp_path, RUN) == [10]


def test_a_config_that_another_process_is_writing_is_no_foreign_file(tmp_path):
    (tmp_path / ".config.json.x1y2").touch()  # becomes config.json in one move
    assert not workdir.matches_config(tmp_path, tiny.config())
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="has files but no study"):
        workdir.matches_config(tmp_path, tiny.config())


def test_the_number_of_devices_may_change(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config(training__devices=8))


@pytest.mark.parametrize(
    "name", [".DS_Store", ".gitkeep", ".nfs0001", "slurm-12.out", "slurm-7_1.err", "lost+found/"]
)
def test_stray_files_do_not_block_a_new_study(tmp_path, name):
    (tmp_path / name).mkdir() if name.endswith("/") else touch(tmp_path / name)
    workdir.create_workdir(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config())


def test_a_foreign_file_beside_stray_ones_is_named(tmp_path):
    touch(tmp_path / ".DS_Store")
    touch(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match=r"has files but no study \(thesis.tex\)"):
        workdir.matches_config(tmp_path, tiny.config())
