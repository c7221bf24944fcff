"""Predictions on images: the detector of a checkpoint, its inputs and its outputs."""
