"""Loading batches: collation, seeded transforms, and a position in the epoch that can be saved."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ..errors import DataError, ImageDecodeError
from .sampler import AspectRatioBatchSampler, share
from .shared_batch import pack
from .worker_processes import POLL, batches, end_workers, start_worker

_KEY = "seed", "batch_size", "num_samples", "shuffle"


def collate(items: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images of different sizes stay a list, and stay uint8: a quarter of the bytes to move; floats are made
    on the device."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


class _SeededItems(Dataset):
    """Seeds torch, numpy and random for every item, from (seed, epoch, index): random transforms then do not depend on
    the worker that loads the item, nor on a resume. An error of the data is returned as the item: the main process
    raises it as it is, not inside a worker's traceback."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        torch_seed, numpy_seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2, np.uint32).tolist()
        torch.default_generator.manual_seed(torch_seed)
        np.random.seed(numpy_seed)
        random.seed(numpy_seed)
        try:
            dataset = self.dataset.of_epoch(epoch) if hasattr(self.dataset, "of_epoch") else self.dataset
            return dataset[index]
        except (OSError, ImageDecodeError, DataError) as error:
            return error
        finally:  # with no workers this is the training process, whose own draws are not ours to change
            torch.set_rng_state(state[0])
            np.random.set_state(state[1])
            random.setstate(state[2])


def _collate_or_error(items: Sequence[Any]) -> Any:
    error = next((item for item in items if isinstance(item, Exception)), None)
    return error if error is not None else collate(items)


def _packed(items: Sequence[Any]) -> Any:
    """As a worker sends it."""
    batch = _collate_or_error(items)
    return batch if isinstance(batch, Exception) else pack(batch)


class _KeyedBatches(Sampler):
    """The sampler's batches of (epoch, index): persistent workers receive the epoch only with the indices."""

    def __init__(self, sampler: AspectRatioBatchSampler):
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.sampler:
            yield [(self.sampler.epoch, index) for index in batch]


class DetectionLoader:
    """A DataLoader whose position in the epoch can be saved and restored.

    Iterating yields `(images, targets)` of `collate`. Every pass begins at the epoch's beginning, except the
    first after `load_state_dict`, which yields the remaining batches; call `set_epoch` before each pass for a new
    order. `len()` is of a whole epoch. `position` counts the batches handed out, not those that workers have
    prepared ahead.
    """

    def __init__(self, loader: DataLoader, sampler: AspectRatioBatchSampler):
        self.loader, self.batch_sampler = loader, sampler
        # a finalizer keeps its arguments alive: the queues of `loader` are still open when it is called
        weakref.finalize(self, end_workers, loader).atexit = False
        self.position = 0
        self._resume_at = 0
        self.cut = 0
        """Boxes that crops and mosaics have removed, or made crowds, in the batches of this pass and this process."""
        self._reported: set[str] = set()
        self._lengths: tuple[int, list[int]] | None = None  # of an epoch's batches

    @property
    def epoch(self) -> int:
        return self.batch_sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the next epoch; a loaded position is kept if it is in this epoch."""
        if epoch != self.epoch:
            self.position = self._resume_at = 0
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
        self.batch_sampler.start = self.position = self._resume_at
        self._resume_at = self.cut = 0
        for batch in batches(self.loader, self._reported):
            batch = self._usable(batch)
            self.position += 1
            yield batch

    @property
    def dataset(self) -> Dataset:
        """The data set of the images; the whole one if a subset, or one of mosaics, is loaded."""
        dataset = self.loader.dataset.dataset
        return dataset.dataset if isinstance(dataset, Subset) or hasattr(dataset, "of_epoch") else dataset

    def batch_length(self, position: int) -> int:
        """Images of a batch of the present epoch, over all ranks."""
        if self._lengths is None or self._lengths[0] != self.epoch:
            self._lengths = self.epoch, [len(batch) for batch in self.batch_sampler.batches()]
        return self._lengths[1][position]

    def load(self, position: int) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """A batch of the present epoch, loaded (again) in this process: the same images and transforms."""
        sampler = self.batch_sampler
        indices = share(sampler.batches()[position], sampler.rank, sampler.world_size)
        return self._usable(_collate_or_error([self.loader.dataset[sampler.epoch, index] for index in indices]))

    def _usable(self, batch: Any) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """A batch without the notes of its loading; an error that came in its place is raised."""
        if isinstance(batch, Exception):
            raise batch
        for target in batch[1]:
            self.cut += target.pop("cut", 0)
            if skipped := target.pop("skipped", None):
                self.dataset.findings.note_broken(skipped)
            if clipped := target.pop("clipped", None):
                self.dataset.findings.note_clipped(clipped)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the number of yielded batches, and the properties on which the order depends."""
        return {"epoch": self.epoch, "position": self.position, **self._key()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved position. ValueError if the data, the seed or the batches differ from the saved run's."""
        differing = {k: (state.get(k), v) for k, v in self._key().items() if state.get(k) != v}
        if differing:
            reported = ", ".join(f"{k} was {then!r}, is {now!r}" for k, (then, now) in differing.items())
            raise ValueError(f"the saved position in the data does not fit this loader: {reported}")
        if not 0 <= state["position"] <= len(self):
            raise ValueError(f"position {state['position']} is not in an epoch of {len(self)} batches")
        self.set_epoch(state["epoch"])
        self.position = self._resume_at = state["position"]

    def _key(self) -> dict[str, Any]:
        return {key: getattr(self.batch_sampler, key) for key in _KEY}


def build_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    shuffle: bool,
    num_workers: int = 0,
    seed: int = 0,
    group_by_aspect: bool | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    persistent_workers: bool = True,
) -> DetectionLoader:
    """A loader of `(list of uint8 images, list of targets)` in an order, and with random transforms, that
    depend only on `seed` and the epoch: not on the number of workers, nor on a resume.

    Args:
        dataset: map-style; `aspect_ratios()` of `CocoDetection` is needed for grouping only. With `of_epoch(epoch)`
            the items of an epoch are those of the data set that it returns.
        group_by_aspect: keep portrait and landscape apart; by default when shuffling, if the images' sizes are known.
        batch_size: images of a batch over all ranks.
        rank, world_size: this process's share of each batch; all ranks have equally many.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    can_group = hasattr(dataset, "aspect_ratios")
    if group_by_aspect is None:
        group_by_aspect = shuffle and can_group
    if group_by_aspect and not can_group:
        raise ValueError(f"group_by_aspect needs a data set with aspect_ratios(), {type(dataset).__name__} has none")
    sampler = AspectRatioBatchSampler(
        dataset.aspect_ratios() if group_by_aspect else None,
        batch_size,
        num_samples=None if group_by_aspect else len(dataset),
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    loader = DataLoader(
        _SeededItems(dataset, seed),
        batch_sampler=_KeyedBatches(sampler),
        num_workers=num_workers,
        collate_fn=_packed if num_workers else _collate_or_error,
        timeout=POLL if num_workers else 0,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        generator=torch.Generator().manual_seed(seed),  # else every pass takes a draw from the global generator
    )
    return DetectionLoader(loader, sampler)
