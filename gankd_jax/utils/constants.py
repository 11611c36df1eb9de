"""What those that measure and those that report agree on: names of runs and weights, "faster"."""

LOSSY_PRECISIONS = ("float16", "int8")
PRECISIONS = ("float32", *LOSSY_PRECISIONS)  # of an exported file's weights
FASTER_FACTOR = 1.05  # times: a model that is faster by no more is not called faster
STEADY_SPREAD = 1.2  # times: turns that differ by more were disturbed
