"""Operators and criterion in a CUDA graph: a synchronization, or a launch that depends on the data, would fail it."""

import pytest
import torch
from _harness import captured
from comparisons import on
from cuda_programs import PROGRAMS, agree


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_replay_on_other_values(cuda, program):
    inputs = on(cuda, *program.make(0, program.size))
    replay, results = captured(lambda: program.run(*inputs))
    for seed in (0, 1, 2):
        values = program.make(seed, program.size)
        for held, new in zip(inputs, values, strict=True):
            held.copy_(new)
        replay()
        torch.cuda.synchronize()
        agree(results, program.run(*values), exact=program.exact)
