"""What `gankd export` does: fold, store, run the file, compare, and only then write it."""

from pathlib import Path
from typing import Any

import ml_collections

from gankd_jax.export import safetensors
from gankd_jax.export.formats import COUNT, FORMATS, export_generator, require_packages
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import evaluate, plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io
from gankd_jax.utils.constants import PRECISIONS
from gankd_jax.utils.errors import UserError


def export_run(
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    run: str,
    kind: str,
    precision: str,
    out: Path,
) -> str:
    """Write a trained run's generator as a file of that kind; what was measured of it, as text.

    Raises:
      UserError: no such run, format or precision, the run is not trained, `out` exists, a package
        is missing, or the file does not draw what the model draws (it is not written then).
    """
    chosen = _check(config, folder, run=run, kind=kind, precision=precision, out=out)
    lab = StudyContext(config, folder)
    made = export_generator(lab.drawer(chosen), kind, precision, what=run)
    file = made.file
    if kind == "safetensors":
        file = safetensors.add_card(file, _card(lab, chosen, precision))
    atomic_io.write_bytes(out, file)
    lines = [
        f"{out}: {len(file):,} bytes; largest difference to {run} on {COUNT} fresh latents"
        f" {made.difference:.1e} (images in -1..1)"
    ]
    if precision != "float32":
        lines += _changes(lab, chosen, made.stored)
    return "\n".join(lines)


def _card(lab: StudyContext, run: Run, precision: str) -> dict[str, Any]:
    """How a run was made, and where it is scored its scores with weights of that precision."""
    card = {
        "study": lab.config.name,
        "run": run.name,
        "precision": precision,
        "recipe": lab.config.recipes[run.recipe].to_dict(),
        "data": lab.train.key,
    }
    path = lab.folder / run.name / "scores.json"
    if not path.exists():
        return card
    scored = atomic_io.read_json(path)
    stored = scored.get("precisions", {}).get(precision, {})
    return card | scored | ({"scores": stored["scores"]} if "scores" in stored else {})


def _check(
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    run: str,
    kind: str,
    precision: str,
    out: Path,
) -> Run:
    if kind not in FORMATS:
        raise UserError(f"--format={kind} is not known; it can be {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise UserError(f"--precision={precision} is not known; it can be {allowed}")
    chosen = plan.find_run(config, run)
    workdir.require_trained(folder, config, chosen)
    atomic_io.require_absent(out)
    require_packages(kind)
    return chosen


def _changes(lab: StudyContext, run: Run, stored: TrainedGenerator) -> list[str]:
    """Each of the report's scores with the weights as they were, and as they are stored."""
    before, after = evaluate.score_generators(lab, run, [lab.drawer(run), stored])
    width = max(map(len, before))
    lines = (
        f"  {name:{width}}  {value:10.4g} -> {after[name]:<10.4g} ({after[name] - value:+.2g})"
        for name, value in before.items()
        if name in after
    )
    return [f"scores of {lab.config.evaluation.samples:,} images", *lines]
