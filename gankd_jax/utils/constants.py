"""What those that measure and those that report agree on: names of runs and weights, "faster"."""

PRECISIONS = ("float32", "float16", "int8")  # dtypes of the weights in an exported file
LOSSY_PRECISIONS = PRECISIONS[1:]
FASTER_FACTOR = 1.05  # times: a model that is faster by no more is not called faster
STEADY_SPREAD = 1.2  # times: turns that differ by more were disturbed
