"""pytest captures the trace that torch's compilers log, which takes longer than the export itself."""

import logging

import pytest


@pytest.fixture(scope="package", autouse=True)
def no_trace():
    logger = logging.getLogger("torch.__trace")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
