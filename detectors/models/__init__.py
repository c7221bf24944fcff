"""Detectors: backbones, pyramid, heads, priors, assignment, postprocessing."""
