"""Import of a PyTorch DCGAN as a study's teacher."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from gankd_jax.config.schema import base_config, recipe_config
from gankd_jax.models import sampling
from gankd_jax.report.study_results import load_study
from gankd_jax.report.tables import format_all_tables
from gankd_jax.study import import_torch, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import find_run, teacher_runs
from gankd_jax.study.train import resume_groups
from gankd_jax.study.validation import validate_config
from gankd_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="torch is not installed")
twin = pytest.importorskip("torch_twin")

LATENT = 8
TEACHER, STUDENT = "teacher-d3-s0", "student-joint-d1-s0"
NETWORK_SETTINGS = {"width": 3, "image_size": 16, "channels": 1}


def tiny_config(data_dir: Path | str = "", **changes: object) -> ConfigDict:
    """Digits at 16 pixels; the student learns from pixels and from the teacher's critic."""
    config = base_config()
    config.data.update(name="digits", dir=str(data_dir), image_size=16, validation=0)
    config.model.update(latent=LATENT, conv="dilated")  # compiles fastest
    config.study.update(teacher_widths=(3,), widths=(1,), students=("joint",), baselines=())
    short_recipe = {"steps": 4, "batch_size": 4}
    config.recipes = {
        "teacher": recipe_config(**short_recipe),
        "mse": recipe_config(alpha=0.0, **short_recipe),
        "joint": recipe_config(alpha=0.5, critic="teacher", **short_recipe),
    }
    config.training.update(steps_per_call=2, log_every=2, grid_every=0, checkpoint_every=2)
    config.evaluation.update(samples=10, batch_size=10, statistics="running")
    config.update_from_flattened_dict(changes)
    validate_config(config)
    return config


def make_generator(**settings: object) -> torch.nn.Sequential:
    network = twin.generator(**(NETWORK_SETTINGS | settings), latent_dim=LATENT)
    return twin.randomise(network, seed=0).eval()


def make_critic(**settings: object) -> torch.nn.Sequential:
    return twin.randomise(twin.critic(**(NETWORK_SETTINGS | settings)), seed=1).eval()


def save_network(path: Path, network: torch.nn.Sequential) -> Path:
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    generator_path = save_network(tmp_path / "netG.pth", make_generator())
    return generator_path, save_network(tmp_path / "netD.pth", make_critic())


def import_files(config: ConfigDict, folder: Path, files: tuple[Path, Path | None]) -> Path:
    run_folder, fields = import_torch.import_torch_teacher(
        config, folder, files[0], run=TEACHER, critic_path=files[1]
    )
    assert fields == {}
    return run_folder


@pytest.mark.slow
def test_study_trains_students_of_an_imported_teacher(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Training the classifiers would take longest.
    monkeypatch.setattr(StudyContext, "load_or_train_classifiers", lambda _: ())
    config, folder = tiny_config(tmp_path / "data"), tmp_path / "work"
    assert import_files(config, folder, files) == folder / TEACHER
    before = {p: p.read_bytes() for p in (folder / TEACHER).rglob("*") if p.is_file()}

    runner.run_study(config, folder)

    results = load_study(folder)
    assert results.teacher is not None
    assert results.teacher.name == TEACHER
    assert all(run.scores for run in results.runs)
    assert len(results.runs) == len(results.planned_runs) == 2
    assert "joint student" in format_all_tables(results)
    assert all(path.read_bytes() == content for path, content in before.items())
    grid = np.load(folder / TEACHER / "samples.npz")["grid"]
    latents = np.asarray(sampling.grid_latents(LATENT))
    with torch.no_grad():
        expected = twin.channels_last(twin.generate(make_generator(), latents))
    assert np.abs(grid - (expected * 127.5 + 127.5)).max() < 0.51  # rounded to 256 levels


def test_joint_student_starts_from_the_imported_critic(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    config, folder = tiny_config(), tmp_path / "work"
    import_files(config, folder, files)
    teacher_critic = StudyContext(config, folder).load_teacher().critic
    assert teacher_critic is not None
    params, stats = twin.to_flax(make_critic())
    np.testing.assert_array_equal(
        teacher_critic.params["layer2"]["kernel"], params["layer2"]["kernel"]
    )
    np.testing.assert_array_equal(
        teacher_critic.batch_stats["norm1"]["batch"]["var"], stats["norm1"]["batch"]["var"]
    )


def test_names_and_hashes_of_imported_files_are_recorded(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    config = tiny_config(**{"study.students": ("mse",)})
    import_files(config, tmp_path / "with", files)
    import_files(config, tmp_path / "without", (files[0], None))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    record = json.loads((tmp_path / "with" / TEACHER / "imported.json").read_text())
    assert record == {
        "generator": {"file": "netG.pth", "sha256": hashes[0]},
        "critic": {"file": "netD.pth", "sha256": hashes[1]},
    }
    record = json.loads((tmp_path / "without" / TEACHER / "imported.json").read_text())
    assert record["critic"] is None


def test_imported_checkpoint_has_the_form_of_a_trained_one(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    config, folder = tiny_config(**{"recipes.teacher.ema": 0.9}), tmp_path / "work"
    import_files(config, folder, files)
    run = find_run(config, TEACHER)
    assert workdir.is_trained(folder, config, run)
    state = StudyContext(config, folder).restore_state(run)
    params, _ = twin.to_flax(make_generator())
    assert int(state.step) == 4
    np.testing.assert_array_equal(state.ema_params["layer2"]["kernel"], params["layer2"]["kernel"])
    moments = state.generator.opt_state[0].mu["layer2"]["kernel"]
    assert moments.shape == (4, 4, 3, 1)
    assert not moments.any()


def test_recomputed_statistics_replace_those_of_the_file(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    config, folder = tiny_config(**{"evaluation.statistics": "recomputed"}), tmp_path / "work"
    import_files(config, folder, files)
    _, variables = StudyContext(config, folder).load_generator(find_run(config, TEACHER))
    file_mean = twin.to_flax(make_generator())[1]["norm0"]["batch"]["mean"]
    # The first norm normalizes `z @ kernel + bias`, whose mean over normal latents is the bias.
    recomputed = variables["batch_stats"]["norm0"]["batch"]["mean"]
    bias = variables["params"]["layer0"]["bias"]
    assert np.abs(recomputed - bias).max() < 0.1 < np.abs(file_mean - bias).max()


# Fields of a config that the files contradict, and what becomes of them.
CHANGED = {
    "width": ({"study.teacher_widths": (2,)}, {"study.teacher_widths": (3,)}),
    "one of the widths": ({"study.teacher_widths": (2, 3), "data.validation": 10}, {}),
    "size": ({"data.image_size": 32}, {"data.image_size": 16}),
    "latent": ({"model.latent": 9}, {"model.latent": LATENT}),
    "norm": ({"model.generator_norm": "none"}, {"model.generator_norm": "batch"}),
    "critic's width": (
        {"recipes.teacher.critic_width": 2},
        {"recipes.teacher.critic_width": 3},
    ),
    "critic's norm": (
        {"recipes.teacher.critic_norm": "layer"},
        {"recipes.teacher.critic_norm": "batch"},
    ),
    "all": (
        {
            "study.teacher_widths": (9,),
            "data.image_size": 64,
            "model.latent": 100,
            "model.generator_norm": "none",
            "recipes.teacher.critic_norm": "none",
        },
        {
            "study.teacher_widths": (3,),
            "data.image_size": 16,
            "model.latent": LATENT,
            "model.generator_norm": "batch",
            "recipes.teacher.critic_norm": "batch",
        },
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CHANGED.values(), ids=CHANGED)
def test_files_set_the_fields_that_they_decide(
    tmp_path: Path, files: tuple[Path, Path], changes: dict, expected: dict
) -> None:
    config, folder = tiny_config(**changes), tmp_path / "work"
    before = config.to_dict()
    run_folder, fields = import_torch.import_torch_teacher(
        config, folder, files[0], critic_path=files[1]
    )
    assert (run_folder, fields) == (folder / TEACHER, expected)
    assert config.to_dict() == before  # the caller's config stays
    changed = tiny_config(**(changes | expected))
    assert workdir.matches_config(folder, changed)
    module, _ = StudyContext(changed, folder).load_generator(find_run(changed, TEACHER))
    assert (module.width, module.image_size, module.latent_dim) == (3, 16, LATENT)


def test_critic_width_is_set_where_it_differs_from_the_generator(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    save_network(files[1], make_critic(width=2))
    _, fields = import_torch.import_torch_teacher(
        tiny_config(), tmp_path / "work", files[0], critic_path=files[1]
    )
    assert fields == {"recipes.teacher.critic_width": 2}


MISMATCHES = {
    "channels": ({"channels": 3}, {"channels": 3}, TEACHER, "of 3 channels, .*digits have 1; set"),
    "a critic of other images": ({}, {"channels": 3}, TEACHER, "netD.*netG.*channels is 3, not 1"),
    "a critic of larger images": ({}, {"image_size": 32}, TEACHER, "image_size is 32, not 16"),
    "another run": ({}, {}, "teacher-d2-s0", f"no teacher of width 3, .*it can be {TEACHER}"),
    "a student": ({}, {}, STUDENT, f"no teacher of width 3, .*it can be {TEACHER}"),
}


@pytest.mark.parametrize(
    ("generator_settings", "critic_settings", "run", "message"), MISMATCHES.values(), ids=MISMATCHES
)
def test_files_that_do_not_fit_are_refused_and_nothing_written(
    tmp_path: Path, generator_settings: dict, critic_settings: dict, run: str, message: str
) -> None:
    path, critic_path = tmp_path / "netG.pth", tmp_path / "netD.pth"
    save_network(path, make_generator(**generator_settings))
    save_network(critic_path, make_critic(**critic_settings))
    with pytest.raises(UserError, match=message):
        import_torch.import_torch_teacher(
            tiny_config(), tmp_path / "work", path, run=run, critic_path=critic_path
        )
    assert not (tmp_path / "work").exists()


def test_key_of_the_generator_is_recorded(tmp_path: Path, files: tuple[Path, Path]) -> None:
    state = make_generator().state_dict()
    torch.save({"g": state, "g_ema": {k: v + 1 for k, v in state.items()}}, files[0])
    config, folder = tiny_config(), tmp_path / "work"
    run_folder, _ = import_torch.import_torch_teacher(
        config, folder, files[0], critic_path=files[1], key="g_ema"
    )
    assert json.loads((run_folder / "imported.json").read_text())["generator"]["key"] == "g_ema"
    params = StudyContext(config, folder).restore_state(find_run(config, TEACHER)).generator.params
    np.testing.assert_array_equal(params["layer2"]["bias"], state["6.bias"].numpy() + 1)


def test_missing_critic_is_refused_if_a_student_needs_it(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    with pytest.raises(UserError, match=r"recipe joint .*--critic=FILE"):
        import_files(tiny_config(), tmp_path / "work", (files[0], None))
    changes = {"critic": "fresh", "features": "energy", "feature_batch": 4}
    changes = {f"recipes.joint.{field}": value for field, value in changes.items()}
    with pytest.raises(UserError, match=r"recipe joint compare features .*--critic=FILE"):
        import_files(tiny_config(**changes), tmp_path / "work", (files[0], None))
    assert not (tmp_path / "work").exists()


def test_only_a_teacher_that_has_not_started_can_be_imported(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    config, folder = tiny_config(), tmp_path / "work"
    import_files(config, folder, files)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="the run has started"):
        import_files(config, folder, files)
    with pytest.raises(UserError, match="another config"):
        import_files(tiny_config(**{"recipes.teacher.b1": 0.4}), folder, files)
    assert sorted(folder.rglob("*")) == before


def test_other_teacher_candidates_are_still_trained(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    changes = {"study.teacher_seeds": (0, 1), "data.validation": 10}
    config, folder = tiny_config(**changes), tmp_path / "work"
    import_files(config, folder, files)
    groups = resume_groups(StudyContext(config, folder), teacher_runs(config))
    assert groups == [[find_run(config, "teacher-d3-s1")]]
    assert not (folder / "teacher.json").exists()


def test_interrupted_import_leaves_no_run(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    config, folder = tiny_config(), tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(import_torch, "_save_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_files(config, folder, files)
    assert not (folder / TEACHER).exists()
    import_files(config, folder, files)
    assert workdir.is_trained(folder, config, find_run(config, TEACHER))


class HarmfulObject:
    """Runs a shell command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch harm",)


def test_file_with_code_is_refused_and_the_code_not_run(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(make_generator().state_dict() | {"harm": HarmfulObject()}, "bad.pth")
    for bad_files in ((Path("bad.pth"), files[1]), (files[0], Path("bad.pth"))):
        with pytest.raises(UserError, match="not allowed"):
            import_files(tiny_config(), tmp_path / "work", bad_files)
    assert not Path("harm").exists()
    assert not (tmp_path / "work").exists()
