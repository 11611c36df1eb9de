"""A resnet teacher with students of either family, by every command that takes a study."""

import numpy as np
import pytest
import tiny

import gankd_jax
from gankd_jax.evaluation import classifier, classifier_training
from gankd_jax.models.family import family_of
from gankd_jax.utils import atomic_io

STEPS = 4
FIELDS = {
    "data__image_size": 32,
    "data__pad": 0,
    "model__latent": 8,
    "model__teacher__family": "resnet",
    "model__precision": "bfloat16",
    "study__teacher_widths": (2,),
    "study__seeds": (0,),
    "study__students": ("mse",),
    "study__baselines": (),
    "recipes__teacher__loss": "hinge",
    "recipes__teacher__critic_norm": "spectral",
    "recipes__teacher__steps": STEPS,
    "recipes__mse__steps": STEPS,
    "training__steps_per_call": 2,
    "training__log_every": 2,
    "training__grid_every": 4,
    "training__checkpoint_every": 4,
    "evaluation__samples": 40,
    "evaluation__batch_size": 20,
}
STUDENT = "student-mse-d1-s0"


@pytest.mark.slow
@tiny.ONLY_IF_ALL
@pytest.mark.usefixtures("unoptimized")
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize("family", ["resnet", "dcgan"])
def test_a_resnet_teacher_has_students_of_either_family(family, command, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "choose_width", lambda *_: 4)
    monkeypatch.setattr(classifier_training, "EPOCHS", 0)
    monkeypatch.setattr(classifier_training, "MIN_STEPS", 20)
    workdir = tmp_path / "study"
    flags = tiny.flags(**FIELDS, model__student__family=family)
    study = [*flags, f"--workdir={workdir}"]
    status, _, errors = command("study", *study)
    assert status == 0, errors
    scores = atomic_io.read_json(workdir / STUDENT / "scores.json")
    assert set(scores["precisions"]) == {"float32", "float16", "int8"}
    assert scores["precisions"]["int8"]["bytes"] < scores["precisions"]["float32"]["bytes"]
    teacher, student = (
        gankd_jax.load_generator(workdir / name) for name in ("teacher-d2-s0", STUDENT)
    )
    assert family_of(teacher.module).name == "resnet"
    assert teacher.module.dtype is student.module.dtype is None  # sampled in float32
    assert atomic_io.read_json(workdir / STUDENT / "run.json")["precision"] == "bfloat16"
    assert family_of(student.module).name == family
    page = (workdir / "report.html").read_text()
    assert ("No student runs in a page" in page) == (family == "resnet")

    out = tmp_path / "student.safetensors"
    status, _, errors = command("export", *study, f"--run={STUDENT}", f"--out={out}")
    assert status == 0, errors
    np.testing.assert_allclose(gankd_jax.load_generator(out).sample(), student.sample(), atol=1e-5)
    for arguments in (
        ["sample", *study, f"--run={STUDENT}", f"--out={tmp_path / 'grid.png'}"],
        ["evaluate", *study],
        ["describe", *flags],
    ):
        status, _, errors = command(*arguments)
        assert status == 0, errors
    if family == "resnet":
        out = tmp_path / "student.onnx"
        status, _, errors = command("export", *study, f"--run={STUDENT}", f"--out={out}")
        assert status == 2
        assert errors.splitlines()[-1].startswith("gankd: no onnx file")
        assert not out.exists()
