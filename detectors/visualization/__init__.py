"""Drawings of boxes and labels, and TensorBoard."""
