"""Scores that a study computes if its config asks for them."""

import pytest
import tiny

from gankd_jax.evaluation import scoring
from gankd_jax.study import evaluate, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io

pytestmark = pytest.mark.usefixtures("unoptimized")
STUDENT = Run("student", "mse", 1, 0)


@pytest.mark.slow  # it compiles the scoring of a study
def test_path_length_by_the_classifier_is_a_score_if_it_is_asked_for(old_workdir, root):
    config, path = workdir.read_config(old_workdir), old_workdir / STUDENT.name / "scores.json"
    config.data.dir = str(tiny.prepare_data(root))
    assert "ppl_classifier" not in atomic_io.read_json(path)["scores"]
    path.unlink()
    config.evaluation.ppl_samples = 20
    context = StudyContext(config, old_workdir)
    evaluate.evaluate_runs(context, [STUDENT])
    results = atomic_io.read_json(path)
    [(classifier, _)] = context.compute_reference_stats()
    generator, seed = context.load_generator(STUDENT), config.evaluation.seed
    expected = scoring.path_length(generator, classifier, seed, count=20)
    assert results["scores"]["ppl_classifier"] == pytest.approx(expected["ppl_classifier"])
    assert results["made"]["ppl_samples"] == 20
