"""Decoding every image of a data set once, to know the broken ones before training."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ... import distributed
from ..errors import DataError, ImageDecodeError
from .worker_processes import POLL, batches, start_worker


def broken_images(images: Dataset, *, workers: int, progress: bool) -> dict[int, str]:
    """{index: fault of the image}, from all ranks, which share the work."""
    rank = distributed.rank()
    mine = list(range(rank, len(images), distributed.world_size()))
    loader = DataLoader(
        _Problems(images),
        batch_size=32,
        sampler=mine,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=start_worker,
        timeout=POLL if workers else 0,
        generator=torch.Generator(),  # else it takes a draw from the global one
    )
    found: dict[int, str] = {}
    with tqdm(total=len(mine), desc="checking images", unit="img", disable=not progress or rank > 0) as bar:
        for batch in batches(loader, set()):
            for _, problem in batch:
                if isinstance(problem, DataError):
                    raise problem
            found |= {index: problem for index, problem in batch if problem is not None}
            bar.update(len(batch))
    parts = distributed.gather(found)
    return dict(sorted((index, problem) for part in parts for index, problem in part.items()))


class _Problems(Dataset):
    """(index, the fault of image `index` or None)."""

    def __init__(self, images: Dataset):
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, str | DataError | None]:
        try:
            self.images.load_image(index, lambda text: None)  # noted when it is used
        except (OSError, ImageDecodeError) as error:
            return index, str(error)
        except DataError as error:  # of the system, not of this image
            return index, error
        return index, None
