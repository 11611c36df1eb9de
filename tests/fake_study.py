"""Writes work directories with made-up numbers, for the tests of the report."""

import itertools
import json
from pathlib import Path

import numpy as np

SCORES = ("inception_score", "fd_classifier", "sharpness", "pixel_error")
# Scores of a model by width, at seed 0; each further seed adds STEP.
STUDENT = {
    2: (5.0, 100.0, 2000.0, 0.04),
    4: (6.0, 50.0, 2500.0, 0.02),
    8: (6.5, 30.0, 2800.0, 0.01),
}
BASELINE = {2: (2.0, 400.0, 9000.0, 0.0), 4: (5.0, 49.5, 4000.0, 0.0), 8: (7.0, 20.0, 3500.0, 0.0)}
STEP = {"inception_score": 0.1, "fd_classifier": 1.0, "sharpness": 100.0, "pixel_error": 0.001}
TEACHER = {"inception_score": 8.0, "inception_score_sd": 0.1, "fd_classifier": 10.0}
LATENT = 20  # the latent's dimension
REAL = {"inception_score": 9.8, "fd_classifier": 2.0, "sharpness": 3400.0}


def parameter_count(width: int) -> int:
    """Returns a made-up count: 100 d^2."""
    return 100 * width**2


def write_study(
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    widths: tuple[int, ...] = (2, 4, 8),
    students: tuple[str, ...] = ("mse", "joint"),
    data: str = "mnist",
    scores: tuple[str, ...] = SCORES,
    size: int = 16,
    channels: int = 1,
) -> Path:
    """Write a finished study: teacher of width 32 and students and baselines of every width."""
    config = _config(seeds, widths, students, data, size)
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "teacher.json", {"run": "teacher-d32-s0", "chosen_by": "the only candidate"}
    )
    real = {key: REAL[key] for key in scores if key in REAL}
    _write_json(folder / "reference" / "scores.json", {"scores": real, "made": _provenance(data)})
    _write_samples(folder / "reference", size, channels, blur=32)
    teacher = {"sharpness": 3600.0} | {k: v for k, v in TEACHER.items() if k[:15] in scores}
    _write_run(folder, ("teacher", "teacher", 32, 0), teacher, size, channels)
    for width in widths:
        for seed in seeds:
            for index, recipe in enumerate(students):
                student = _scores(STUDENT[width], seed, scores)
                if index and "inception_score" in student:
                    student["inception_score"] += 0.05
                _write_run(folder, ("student", recipe, width, seed), student, size, channels)
            baseline = _scores(BASELINE[width], seed, scores)
            baseline.pop("pixel_error", None)
            _write_run(folder, ("baseline", "baseline", width, seed), baseline, size, channels)
    return folder


def write_unfinished_study(folder: Path) -> Path:
    """Write an interrupted study: one run failed, one trained, one half-way, one not started."""
    write_study(folder, seeds=(0, 1), widths=(2, 4), students=("mse",))
    mark_failed(folder / "baseline-d2-s0")
    (folder / "student-mse-d2-s1" / "scores.json").unlink()
    for name in ("scores.json", "samples.npz"):
        (folder / "student-mse-d4-s1" / name).unlink()
    log = folder / "student-mse-d4-s1" / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], lines[3][:9]]))  # killed while writing step 400
    remove_run(folder / "baseline-d4-s1")
    return folder


def write_study_without_teacher(folder: Path) -> Path:
    """Write a study whose teacher is still being trained."""
    write_study(folder, seeds=(0,), widths=(2,), students=("mse",))
    (folder / "teacher.json").unlink()
    (folder / "teacher-d32-s0" / "scores.json").unlink()
    for name in ("student-mse-d2-s0", "baseline-d2-s0"):
        remove_run(folder / name)
    return folder


def add_teacher(folder: Path, *, width: int, inception_score: float) -> None:
    """Add a teacher candidate that was not chosen."""
    candidates = {"teacher-d32-s0": 20.5, f"teacher-d{width}-s0": 31.5}
    choice = {"run": "teacher-d32-s0", "chosen_by": "fd_classifier on validation"}
    _write_json(folder / "teacher.json", choice | {"candidates": candidates})
    scores = {"inception_score": inception_score}
    _write_run(folder, ("teacher", "teacher", width, 0), scores, size=16, channels=1)


def drop_precisions(folder: Path) -> None:
    """Remove the scores of lower precisions, as in a study that did not evaluate them."""
    for path in folder.glob("*/scores.json"):
        content = json.loads(path.read_text())
        content.pop("precisions", None)
        _write_json(path, content)


def mark_failed(run: Path) -> None:
    """Mark a run as failed."""
    _write_json(run / "failed.json", {"step": 120, "reason": "the critic's loss is not finite"})


def remove_run(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _config(
    seeds: tuple[int, ...], widths: tuple[int, ...], students: tuple[str, ...], data: str, size: int
) -> dict:
    recipe = {"steps": 1000, "batch_size": 64, "loss": "bce", "alpha": 0.0}
    return {
        "name": "made-up",
        "data": {"name": data, "image_size": size},
        "study": {
            "teacher_widths": [32],
            "teacher_seeds": [0],
            "widths": widths,
            "seeds": seeds,
            "students": students,
            "baselines": ["baseline"],
        },
        "recipes": dict.fromkeys(("teacher", "baseline", *students), recipe),
        "evaluation": {"samples": 1000},
    }


def _scores(seed_0_scores: tuple[float, ...], seed: int, keys: tuple[str, ...]) -> dict[str, float]:
    scores = dict(zip(SCORES, seed_0_scores, strict=True))
    return {key: scores[key] + seed * STEP[key] for key in keys}


def _provenance(data: str) -> dict:
    return {
        "samples": 1000,
        "reference": f"{data}:test",
        "weights": "sha256:00ff",
        "seed": 7,
        "versions": {"jax": "0.0.0"},
    }


def _write_run(
    folder: Path, run: tuple[str, str, int, int], scores: dict[str, float], size: int, channels: int
) -> None:
    kind, recipe, width, seed = run
    name = f"{kind}-{recipe}-d{width}-s{seed}" if kind == "student" else f"{kind}-d{width}-s{seed}"
    info = {
        "name": name,
        "kind": kind,
        "recipe": recipe,
        "width": width,
        "seed": seed,
        "parameters": parameter_count(width),
        "paper_parameters": 50 * width**2,
        "multiply_adds": 1000 * width**2,
        "bytes_float32": 4 * parameter_count(width),
    }
    _write_json(folder / name / "run.json", info)
    content = {
        "scores": scores,
        "made": _provenance("made-up"),
        "precisions": _precisions(width, scores),
    }
    _write_json(folder / name / "scores.json", content)
    lines = [json.dumps(_log_record(100 * (i + 1), kind, width, seed)) for i in range(10)]
    (folder / name / "log.jsonl").write_text("\n".join(lines) + "\n")
    _write_samples(folder / name, size, channels, blur=width)
    if kind != "baseline":
        _write_folded(folder / name, width, size, channels)


def _precisions(width: int, scores: dict[str, float]) -> dict:
    """Returns bytes and scores by precision; int8 costs a tenth of each score."""
    int8 = {key: 0.9 * value for key, value in scores.items()}
    return {
        "float32": {"bytes": 4 * parameter_count(width)},
        "float16": {"bytes": 2 * parameter_count(width), "scores": scores},
        "int8": {"bytes": parameter_count(width), "scores": int8},
    }


def _log_record(step: int, kind: str, width: int, seed: int) -> dict[str, float]:
    record = {
        "step": step,
        "seconds": step / 100,
        "generator_loss": 100 / step / width + 0.01 * seed,
    }
    if kind == "student":
        return record | {"pixel_error": 10 / step / width}
    return record | {"critic_loss": -1.0 - 0.1 * width + step / 1000}


def _write_samples(folder: Path, size: int, channels: int, blur: int) -> None:
    """Write images of discs; those of a narrow model are paler."""
    rng = np.random.default_rng(0)
    positions = rng.uniform(0.3, 0.7, (64, 2))
    ends = rng.uniform(0.25, 0.75, (4, 2, 2))
    weight = np.linspace(0, 1, 8)[None, :, None]
    paths = ends[:, None, 0] * (1 - weight) + ends[:, None, 1] * weight
    arrays = {
        "grid": _draw_discs(positions, size, channels, blur),
        "interpolation": np.stack([_draw_discs(path, size, channels, blur) for path in paths]),
        "distances": np.linspace(blur, 2 * blur, 64),
        "closest": np.arange(8),
        "nearest": _draw_discs(positions[:8], size, channels, blur=50),
    }
    np.savez(folder / "samples.npz", **arrays)


def _write_folded(folder: Path, width: int, size: int, channels: int) -> None:
    """Write random weights."""
    rng = np.random.default_rng(width)
    hidden = [width * 2**k for k in reversed(range(int(np.log2(size // 4))))]
    arrays = {"latents": rng.normal(size=(64, LATENT)).astype(np.float32)}
    for k, (i, o) in enumerate(itertools.pairwise((LATENT, *hidden, channels))):
        arrays[f"kernel{k}"] = rng.normal(0, 0.2, (4, 4, i, o)).astype(np.float32)
        arrays[f"bias{k}"] = rng.normal(0, 0.2, o).astype(np.float32)
    np.savez(folder / "folded.npz", **arrays)


def add_latency(folder: Path, *, widths: tuple[int, ...]) -> None:
    """Add latencies of the teacher and of a student of each width; d=2 is as slow as d=4."""
    runs = ["teacher-d32-s0", *(f"student-mse-d{width}-s0" for width in widths)]
    measurements = {"images_per_second": 5000.0, "peak_mib": 50.0}
    latency = {
        run: {
            precision: {"bytes": 1000, "milliseconds": max(width, 4) / divisor, **measurements}
            for precision, divisor in (("float32", 10), ("int8", 20))
        }
        for run, width in zip(runs, (32, *widths), strict=True)
    }
    _write_json(folder / "latency.json", {"machine": "a made-up machine", "runs": latency})


def _draw_discs(positions: np.ndarray, size: int, channels: int, blur: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    distance = np.hypot(x - positions[:, 0, None, None], y - positions[:, 1, None, None])
    ink = 255 / (1 + np.exp((distance - 0.2) * 4 * blur))
    tint = np.array([1.0, 0.7, 0.4])[:channels]
    return (ink[..., None] * tint).astype(np.uint8)


def _write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
