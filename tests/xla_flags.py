"""Flags with which XLA compiles the tests' programs faster."""

from importlib.metadata import version

# XLA's older code generator compiles in half the time.  From jaxlib 0.12 on XLA has it no more, and
# a flag that XLA does not know ends the process.
HAS_OLD_GENERATOR = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)
OLD_GENERATOR = "--xla_cpu_use_fusion_emitters=false" if HAS_OLD_GENERATOR else ""
