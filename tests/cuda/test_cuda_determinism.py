"""The same bits at every run, on every stream and device, and those of the CPU."""

import pytest
import torch
from comparisons import on
from cuda_programs import PROGRAMS, agree

RUNS = 100

every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def check_runs(program, device: str, runs: int, size: int) -> None:
    values = program.make(0, size)
    inputs = on(device, *values)
    first = program.run(*inputs)
    agree(first, program.run(*values), exact=program.exact)
    for _ in range(runs - 1):
        agree(program.run(*inputs), first, exact=True)


@every_program
def test_same_bits_in_many_runs_and_on_the_cpu(cuda, program):
    check_runs(program, cuda, RUNS, program.size)


@every_program
def test_the_check_itself(program):
    check_runs(program, "cpu", 2, 60)


@every_program
def test_on_several_streams_at_once(cuda, program):
    """Each stream's inputs arrive behind work of its own: an operator that ran elsewhere would find others."""
    streams = [torch.cuda.Stream() for _ in range(4)]
    values = [program.make(seed, program.size) for seed in range(len(streams))]
    pinned = [[t.pin_memory() for t in tensors] for tensors in values]
    inputs = [[torch.zeros_like(t, device=cuda) for t in tensors] for tensors in values]
    program.run(*on(cuda, *values[0]))
    torch.cuda.synchronize()
    results = []
    for stream, held, new in zip(streams, inputs, pinned, strict=True):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            for t, value in zip(held, new, strict=True):
                t.copy_(value, non_blocking=True)
            results.append(program.run(*held))
    torch.cuda.synchronize()
    for found, tensors in zip(results, values, strict=True):
        agree(found, program.run(*tensors), exact=program.exact)


@every_program
def test_on_another_device_than_the_current_one(cuda, program):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    values = program.make(0, program.size)
    found = program.run(*on("cuda:1", *values))
    assert torch.cuda.current_device() == 0 and all(t.device == torch.device("cuda:1") for t in found)
    agree(found, program.run(*values), exact=program.exact)
