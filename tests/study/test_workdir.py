"""Whose a work directory is, and what lies in it."""

import json

import pytest
import tiny

from gankd_jax.study import workdir
from gankd_jax.study.plan import Run
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

RUN = Run("student", "mse", 1, 0)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("existing", [True, False])
def test_an_empty_or_absent_folder_becomes_the_config_s(tmp_path, existing):
    folder = tmp_path / "new" / "study"
    if existing:
        folder.mkdir(parents=True)
    assert not workdir.matches_config(folder, tiny.config())
    assert folder.exists() == existing  # to ask makes nothing
    workdir.create_workdir(folder, tiny.config())
    assert workdir.matches_config(folder, tiny.config())
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert json.loads((folder / "config.json").read_text())["study"]["widths"] == [1]


def test_a_second_claim_writes_nothing(tmp_path):
    workdir.create_workdir(tmp_path / "a", tiny.config())
    before = tiny.snapshot(tmp_path)
    workdir.create_workdir(tmp_path / "a", tiny.config())
    assert tiny.snapshot(tmp_path) == before


def test_where_the_data_lie_how_they_are_placed_and_what_is_tried_again_is_free(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    free = {"data__dir": "/elsewhere", "data__placement": "host", "training__retries": 2}
    assert workdir.matches_config(tmp_path, tiny.config(**free))


def test_another_config_is_refused_with_its_first_field(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    before = tiny.snapshot(tmp_path)
    other = tiny.config(study__widths=(1, 2), study__seeds=(0,))
    with pytest.raises(UserError, match=r"config.study.seeds is \[0, 1\] there and \[0\] here"):
        workdir.create_workdir(tmp_path, other)
    with pytest.raises(UserError, match=r"\(2 fields differ\)"):
        workdir.matches_config(tmp_path, other)
    assert tiny.snapshot(tmp_path) == before


def test_a_field_that_an_old_config_lacks_is_a_difference(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["recipes"]["mse"]["ema"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"config.recipes.mse.ema is None there and 0.0 here"):
        workdir.matches_config(tmp_path, tiny.config())


def test_other_files_a_file_and_a_damaged_config_are_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    touch(tmp_path / "thesis" / "chapter1.tex")
    touch(tmp_path / "file")
    touch(tmp_path / "damaged" / "config.json")
    for name, told in [
        ("thesis", "has files but no study; name an empty folder"),
        ("file", "has files but no study"),
        ("damaged", "config.json is damaged"),
    ]:
        with pytest.raises(UserError, match=told):
            workdir.create_workdir(tmp_path / name, tiny.config())
    assert (tmp_path / "damaged" / "config.json").read_bytes() == b""


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    touch(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        workdir.create_workdir(tmp_path / "file" / "below", tiny.config())


def test_what_is_done_is_read_from_the_files(tmp_path):
    made = tiny.config()
    assert workdir.checkpoint_steps(tmp_path, RUN) == []
    assert workdir.resumable_steps(tmp_path, RUN) == [0]
    for step in ("9", "10", "20.orbax-checkpoint-tmp"):
        (tmp_path / RUN.name / "checkpoints" / step).mkdir(parents=True)
    assert workdir.checkpoint_steps(tmp_path, RUN) == [9, 10]
    assert workdir.resumable_steps(tmp_path, RUN) == [9, 10]
    assert not workdir.is_trained(tmp_path, made, RUN)
    (tmp_path / RUN.name / "checkpoints" / "9").rmdir()
    (tmp_path / RUN.name / "checkpoints" / "40").mkdir()
    assert workdir.is_trained(tmp_path, made, RUN)
    assert not workdir.has_failed(tmp_path, RUN)
    assert not workdir.is_scored(tmp_path, RUN)
    touch(tmp_path / RUN.name / "failed.json")
    assert workdir.has_failed(tmp_path, RUN)
    touch(tmp_path / RUN.name / "scores.json")
    assert workdir.is_scored(tmp_path, RUN)


def test_the_first_checkpoint_leaves_step_0_kept(tmp_path):
    (tmp_path / RUN.name / "checkpoints" / "10").mkdir(parents=True)
    assert workdir.resumable_steps(tmp_path, RUN) == [0, 10]


@pytest.mark.parametrize("name", ["scores.json", "imported.json"])
def test_scored_and_imported_runs_are_settled(tmp_path, name):
    assert not workdir.is_final(tmp_path, RUN)
    touch(tmp_path / RUN.name / name)
    assert workdir.is_final(tmp_path, RUN)


def test_the_saved_steps_are_those_that_orbax_knows(tmp_path):
    checkpoints = Checkpoints(tmp_path / RUN.name / "checkpoints")
    for step in (5, 10, 15):
        checkpoints.save(step, {"weight": 1.0})
    assert workdir.checkpoint_steps(tmp_path, RUN) == checkpoints.steps() == [10, 15]
    checkpoints.close()


def test_a_run_is_described_with_its_size(tmp_path):
    workdir.write_run_info(tmp_path, tiny.config(), RUN)
    about = json.loads((tmp_path / RUN.name / "run.json").read_text())
    # 16 pixels, d = 1: 100 latents to 2 channels, to 1, to 1; kernels 4x4, biases, batch norm.
    kernels, biases, norms = 16 * (100 * 2 + 2 * 1 + 1 * 1), 2 + 1 + 1, 2 * (2 + 1)
    assert about == {
        "name": "student-mse-d1-s0",
        "kind": "student",
        "recipe": "mse",
        "width": 1,
        "seed": 0,
        "parameters": kernels + biases + norms,
        "paper_parameters": kernels + biases,
        "multiply_adds": 16 * (100 * 2 + 2 * 1 * 4**2 + 1 * 1 * 8**2),
        "bytes_float32": 4 * (kernels + biases + norms),
    }


def test_a_folder_whose_claim_was_killed_can_be_claimed(tmp_path):
    touch(tmp_path / ".config.json.x1y2")  # as `write_bytes` names what it has not finished
    workdir.create_workdir(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config())


def test_a_checkpoint_damaged_twice_is_set_aside_twice(tmp_path):
    folder = tmp_path / RUN.name / "checkpoints"
    for step in ("20", "20.damaged", "20.damaged-2", "10"):
        touch(folder / step / "file")
    (folder / "20" / "sha256").write_text("of other files")
    assert workdir.quarantine_damaged_checkpoints(tmp_path, RUN) == [folder / "20.damaged-3"]
    assert workdir.checkpoint_steps(tmp_path, RUN) == [10]


def test_a_study_that_another_process_is_about_to_begin_is_none_of_other_files(tmp_path):
    (tmp_path / ".config.json.x1y2").touch()  # becomes config.json in one move
    assert not workdir.matches_config(tmp_path, tiny.config())
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="has files but no study"):
        workdir.matches_config(tmp_path, tiny.config())


def test_devices_are_no_part_of_what_a_study_is(tmp_path):
    workdir.create_workdir(tmp_path, tiny.config())
    assert workdir.matches_config(tmp_path, tiny.config(training__devices=8))
