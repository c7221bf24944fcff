"""What tests need without hypothesis: seeds, boxes, and comparisons that count every bit."""

import torch
from torch import Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal in shape, type and every bit (so -0 is not 0); a NaN equals a NaN."""
    actual, expected = actual.cpu(), expected.cpu()
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if not expected.dtype.is_floating_point:
        assert torch.equal(actual, expected), (actual, expected)
        return
    assert torch.equal(actual.isnan(), expected.isnan()), (actual, expected)
    bits = BITS[expected.element_size()]
    unlike = (actual.view(bits) != expected.view(bits)) & ~expected.isnan()
    assert not unlike.any(), (unlike.nonzero().flatten()[:8], actual[unlike][:8], expected[unlike][:8])


def same_values(actual: Tensor, expected: Tensor) -> None:
    """Equal in shape, type and value; 0 is -0."""
    same_bits(actual + 0.0, expected + 0.0)


def on(device: str, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.to(device) for t in tensors]


def random_boxes(n: int, generator: torch.Generator, *, extent: float = 100, size: float = 30) -> Tensor:
    """[n, 4] float64 proper boxes."""
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * extent
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator, dtype=torch.float64) * size], 1)
