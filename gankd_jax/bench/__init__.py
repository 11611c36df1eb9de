"""`gankd bench` and `gankd describe`: speed, memory and cost of training and sampling."""
