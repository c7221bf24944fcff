"""Batches from a data set: order, processes, checks."""
