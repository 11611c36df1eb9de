"""What runs and weights are called, in their files and on the command line."""

LOSSY = ("float16", "int8")
PRECISIONS = ("float32", *LOSSY)  # of an exported file's weights


def run_name(kind: str, recipe: str, width: int, seed: int) -> str:
    """The name of a run and of its folder, such as `student-mse-d4-s0` or `teacher-d32-s0`."""
    parts = [kind, recipe, f"d{width}", f"s{seed}"]
    return "-".join(parts if recipe != kind else parts[1:])
