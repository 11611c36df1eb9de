"""What the FID network scores, apart from the judges: it is slow, and may come to a study later."""

from collections.abc import Sequence

from gankd_jax import evaluate, workdir
from gankd_jax.lab import Lab
from gankd_jax.metrics.features import Summary, compare, summarize
from gankd_jax.runs import Run
from gankd_jax.runtime import files, stop
from gankd_jax.runtime.progress import tell


def score_layers(lab: Lab, wanted: Sequence[Run]) -> None:
    """Score those of the runs that are trained, and the test set, at the layers asked for."""
    if not workdir.has_layers(lab.folder / "reference", lab.config):
        tell("scoring the test images by the FID network")
        _write(lab, "reference", _of_test(lab))
    for run in wanted:
        stop.check()
        trained = workdir.is_trained(lab.folder, lab.config, run)
        if trained and not workdir.has_layers(lab.folder / run.name, lab.config):
            tell(f"scoring {run.name} by the FID network")
            _write(lab, run.name, _of_run(lab, run))


def _of_test(lab: Lab) -> Summary:
    assert lab.inception
    return lab.summary(lab.split("test"), lab.inception, _samples(lab))


def _of_run(lab: Lab, run: Run) -> Summary:
    assert lab.inception
    evaluation = lab.config.evaluation
    count, size = _samples(lab) or evaluation.samples, lab.inception.batch_size
    images = evaluate.drawn(lab.drawer(run), evaluation.seed, count=count, batch_size=size)
    return summarize(images, lab.inception, count=count)


def _samples(lab: Lab) -> int | None:
    """Images of each side; None: all."""
    return lab.config.evaluation.layer_samples or None


def _write(lab: Lab, name: str, found: Summary) -> None:
    """Against the training images, with how it was made; other layers' scores stay."""
    assert lab.inception
    asked, path = lab.config.evaluation, lab.folder / name / workdir.LAYERS
    reference = lab.summary(lab.train, lab.inception, _samples(lab))
    made = {
        "samples": found.count,
        "reference": lab.train.key,
        "reference_samples": reference.count,
        "layer_samples": asked.layer_samples,
        "network": lab.inception.about,
        "versions": evaluate.versions(),
    }
    scores, layers = compare(found, reference), set(asked.layers)
    before = files.read_json(path) if path.exists() else {"made": {}}
    if made == {k: v for k, v in before["made"].items() if k != "layers"}:
        scores, layers = before["scores"] | scores, layers | set(before["made"]["layers"])
    made["layers"] = sorted(layers, key=int)
    files.write_json(path, {"scores": scores, "made": made})
