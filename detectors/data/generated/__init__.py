"""A generated data set that needs no download: ``python -m mlc_ext.detectors.data.generated OUT``."""
