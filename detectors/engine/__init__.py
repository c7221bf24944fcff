"""Training: the loop, its steps, and how they are computed."""
