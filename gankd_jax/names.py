"""What those that measure and those that report agree on: names of runs and weights, "faster"."""

LOSSY = ("float16", "int8")
PRECISIONS = ("float32", *LOSSY)  # of an exported file's weights
AS_FAST = 1.05  # times: a model that is faster by no more is not called faster
STEADY = 1.2  # times: turns that differ by more were disturbed


def run_name(kind: str, recipe: str, width: int, seed: int) -> str:
    """The name of a run and of its folder, such as `student-mse-d4-s0` or `teacher-d32-s0`."""
    parts = [kind, recipe, f"d{width}", f"s{seed}"]
    return "-".join(parts if recipe != kind else parts[1:])
