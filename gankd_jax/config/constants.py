"""Constants that folders share which do not import each other."""

PRECISIONS = ("float32", "float16", "int8")  # dtypes of the weights in an exported file
LOSSY_PRECISIONS = PRECISIONS[1:]
FASTER_FACTOR = 1.05  # a model counts as faster than another from this ratio on
STEADY_SPREAD = 1.2  # ratio of slowest to fastest round; above it, something disturbed the timing
DEFAULT_WRITERS = ("jsonl", "tensorboard")  # destinations of a run's metrics
COMMAND_FILE = "command.txt"  # in a work directory: the command line that trained the study
