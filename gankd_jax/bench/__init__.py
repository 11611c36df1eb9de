"""`gankd bench`: how fast training and drawing are, beside PyTorch and the machine's own rate."""
