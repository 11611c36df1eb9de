"""What a study's programs take on an NVIDIA GPU that is not at hand, by XLA's compiler."""
