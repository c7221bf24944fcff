"""Batches: collation, padding, aspect-ratio groups, and an order that survives resuming and any number of
workers."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from .images import ImageDecodeError

_KEY = "seed", "batch_size", "num_samples", "shuffle", "drop_last"


class DataError(RuntimeError):
    """The data cannot be loaded any more; the message is for the user."""


def death_of_worker(error: Exception) -> DataError | None:
    """`error` in plain words, if torch raised it because a loader's worker process died, else None.

    The main process learns of it by a signal, so it may be raised anywhere, not only where batches are fetched.
    """
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker"):
        return None
    return _lost(str(error).rstrip(". "))


def _lost(how: str) -> DataError:
    return DataError(
        f"a process that loads data died ({how}). Killed processes are often out of memory: use fewer data.workers, or "
        "none (data.workers=0) to see an error of the process itself"
    )


def collate(items: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images of different sizes stay a list, and stay uint8: a quarter of the bytes to move; floats are made
    on the device."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def batch_images(
    images: Sequence[Tensor], divisor: int = 32, pad_value: float | Sequence[float] = 0
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Pads images [C, H_i, W_i] at the right and bottom to one batch [N, C, H, W] with H, W divisible by
    `divisor`.

    Device and dtype are the images'. `pad_value`: one number, or one for every channel - the normalisation's
    mean, say, when padding comes before it; 0 is right after it. Returns the batch and the unpadded sizes
    (height, width).
    """
    if not images:
        raise ValueError("batch_images needs at least one image")
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    shape, dtype, device = images[0].shape, images[0].dtype, images[0].device
    for image in images:
        if image.ndim != 3 or image.shape[0] != shape[0] or image.dtype != dtype or image.device != device:
            raise ValueError(
                f"batch_images needs [C, H, W] images of one C, dtype and device, got {tuple(image.shape)} "
                f"{image.dtype} {image.device} beside {tuple(shape)} {dtype} {device}"
            )
    sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    batch = torch.empty((len(images), shape[0], height, width), dtype=dtype, device=device)
    if isinstance(pad_value, (int, float)):
        batch.fill_(pad_value)  # no copy to wait for on a GPU
    else:
        batch.copy_(torch.as_tensor(pad_value).reshape(-1, 1, 1).expand(shape[0], 1, 1))
    for slot, image, (h, w) in zip(batch, images, sizes, strict=True):
        slot[:, :h, :w].copy_(image)
    return batch, sizes


def share(batch: Sequence, part: int, parts: int) -> list:
    """The `part`-th of `parts` runs of a batch, whose lengths differ by at most one.

    A batch shorter than `parts` is filled up with its own items first: no part is empty.
    """
    whole = (list(batch) * parts)[: max(len(batch), parts)]
    return whole[len(whole) * part // parts : len(whole) * (part + 1) // parts]


class AspectRatioBatchSampler(Sampler[list[int]]):
    """Batches of indices in which portrait and landscape images do not mix, which saves padding.

    The order is a function of (seed, epoch) alone. Every index comes once per epoch: what is left over of the
    two groups is batched together at the end, unless `drop_last`. If it does not fill its batches, it is shared out
    evenly over them and the one before: a step on one or two images, with hardly an object, can undo hundreds of
    others. Several ranks have the batches of one: each
    takes its `share` of every batch.

    Args:
        aspect_ratios: height / width of every image [n]; None does not group.
        batch_size: images of a batch over all ranks.
        num_samples: n, where `aspect_ratios` is None.
    """

    def __init__(
        self,
        aspect_ratios: np.ndarray | None,
        batch_size: int,
        *,
        num_samples: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..world_size - 1, got rank {rank} of {world_size}")
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} leaves some of {world_size} ranks without an image")
        if (aspect_ratios is None) == (num_samples is None):
            raise ValueError("give either aspect_ratios or num_samples")
        self.num_samples = int(num_samples) if aspect_ratios is None else len(aspect_ratios)
        self._group = (
            np.zeros(self.num_samples, dtype=bool) if aspect_ratios is None else np.asarray(aspect_ratios) > 1
        )
        self.batch_size, self.shuffle, self.drop_last, self.seed = batch_size, shuffle, drop_last, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # batches of this epoch to pass over: those a resumed run has had
        if len(self) == 0:
            raise ValueError(f"{self.num_samples} images give no batch of {batch_size}")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; a new one starts at its beginning, the present one keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        if self.drop_last:
            return self.num_samples // self.batch_size
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches()[self.start :]:
            yield share(batch, self.rank, self.world_size)

    def batches(self) -> list[list[int]]:
        """The present epoch's, over all ranks."""
        order = np.arange(self.num_samples)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        batches: list[list[int]] = []
        pending: tuple[list[int], list[int]] = ([], [])
        for index, group in zip(order.tolist(), self._group[order].tolist(), strict=True):
            pending[group].append(index)
            if len(pending[group]) == self.batch_size:
                batches.append(pending[group].copy())
                pending[group].clear()
        rest = pending[0] + pending[1]
        if self.drop_last:
            return batches + ([rest[: self.batch_size]] if len(rest) >= self.batch_size else [])
        if len(rest) % self.batch_size and batches:
            rest = batches.pop() + rest
        if not rest:
            return batches
        parts = -(-len(rest) // self.batch_size)
        bounds = [-(-len(rest) * part // parts) for part in range(parts + 1)]  # the larger ones first
        return batches + [rest[start:end] for start, end in itertools.pairwise(bounds)]


class _SeededItems(Dataset):
    """Seeds torch, numpy and random for every item, from (seed, epoch, index): transforms then draw the same
    whichever worker has the item, and whether or not the run was resumed. What can go wrong with data is given back
    as the item, to be raised in the main process as it is, not inside a worker's traceback."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        torch_seed, numpy_seed = (
            np.random.SeedSequence([self.seed, epoch, index]).generate_state(2, np.uint32).tolist()
        )
        torch.default_generator.manual_seed(torch_seed)
        np.random.seed(numpy_seed)
        random.seed(numpy_seed)
        try:
            return self.dataset[index]
        except (OSError, ImageDecodeError, DataError) as error:
            return error
        finally:  # with no workers this is the training process, whose own draws are not ours to change
            torch.set_rng_state(state[0])
            np.random.set_state(state[1])
            random.setstate(state[2])


def _collate_or_error(items: Sequence[Any]) -> Any:
    return next((item for item in items if isinstance(item, Exception)), None) or collate(items)


class _KeyedBatches(Sampler):
    """The sampler's batches with the epoch beside every index, which so reaches even workers that live on."""

    def __init__(self, sampler: AspectRatioBatchSampler):
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.sampler:
            yield [(self.sampler.epoch, index) for index in batch]


class DetectionLoader:
    """A DataLoader whose place in the epoch can be saved and taken up again.

    Iterating yields `(images, targets)` of `collate`. Every pass begins at the epoch's beginning, but the
    first after `load_state_dict`, which yields what was left; call `set_epoch` before each pass for a new
    order. `len()` is of a whole epoch. `position` counts the batches handed out, not those that workers have
    prepared ahead.
    """

    def __init__(self, loader: DataLoader, sampler: AspectRatioBatchSampler):
        self.loader, self.batch_sampler = loader, sampler
        self.position = 0
        self._resume_at = 0
        self._lengths: tuple[int, list[int]] | None = None  # of an epoch's batches

    @property
    def epoch(self) -> int:
        return self.batch_sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch to iterate next; the epoch of a loaded place keeps that place."""
        if epoch != self.epoch:
            self.position = self._resume_at = 0
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
        self.batch_sampler.start = self.position = self._resume_at
        self._resume_at = 0
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if (died := death_of_worker(error)) is not None:
                    raise died from error
                raise
            except (OSError, EOFError) as error:  # what a worker had sent dies with it, if it was not fetched yet
                raise _lost(f"{type(error).__name__}: {error}") from error
            batch = self._usable(batch)
            self.position += 1
            yield batch

    @property
    def dataset(self) -> Dataset:
        """What the images come from, whole where a part of it is loaded."""
        dataset = self.loader.dataset.dataset
        return dataset.dataset if isinstance(dataset, Subset) else dataset

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
            if skipped := target.pop("skipped", None):
                self.dataset.note_broken(skipped)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches handed out, and what must be equal for them to mean the same."""
        return {"epoch": self.epoch, "position": self.position, **self._key()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a saved place. ValueError if the data, the seed or the batches differ from the saved
        run's."""
        differing = {k: (state.get(k), v) for k, v in self._key().items() if state.get(k) != v}
        if differing:
            told = ", ".join(f"{k} was {then!r}, is {now!r}" for k, (then, now) in differing.items())
            raise ValueError(f"the saved place in the data does not fit this loader: {told}")
        if not 0 <= state["position"] <= len(self):
            raise ValueError(f"position {state['position']} is not in an epoch of {len(self)} batches")
        self.set_epoch(state["epoch"])
        self.position = self._resume_at = state["position"]

    def _key(self) -> dict[str, Any]:
        return {key: getattr(self.batch_sampler, key) for key in _KEY}


def start_worker(worker_id: int) -> None:
    """What each worker process begins with."""
    torch.set_num_threads(1)  # workers are the parallelism
    # Ctrl-C, and a scheduler's SIGTERM, reach the workers too: the main process decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_the_parent(parent: int) -> None:
    """Ends this process at a SIGTERM that the process `parent` sent; passes over those of others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)


def build_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    shuffle: bool,
    num_workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    group_by_aspect: bool | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    persistent_workers: bool = True,
) -> DetectionLoader:
    """A loader of `(list of uint8 images, list of targets)` in an order, and with random transforms, that
    depend only on `seed` and the epoch: not on the number of workers, nor on a resume.

    Args:
        dataset: map-style; `aspect_ratios()` of `CocoDetection` is needed for grouping only.
        group_by_aspect: keep portrait and landscape apart; by default when shuffling, if the set can tell.
        batch_size: images of a batch over all ranks.
        rank, world_size: this process's share of each batch; all ranks have equally many.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    can_group = hasattr(dataset, "aspect_ratios")
    if group_by_aspect is None:
        group_by_aspect = shuffle and can_group
    if group_by_aspect and not can_group:
        raise ValueError(
            f"group_by_aspect needs a data set with aspect_ratios(), {type(dataset).__name__} has none"
        )
    sampler = AspectRatioBatchSampler(
        dataset.aspect_ratios() if group_by_aspect else None,
        batch_size,
        num_samples=None if group_by_aspect else len(dataset),
        shuffle=shuffle,
        drop_last=drop_last,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    loader = DataLoader(
        _SeededItems(dataset, seed),
        batch_sampler=_KeyedBatches(sampler),
        num_workers=num_workers,
        collate_fn=_collate_or_error,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        generator=torch.Generator().manual_seed(
            seed
        ),  # else every pass takes a draw from the global generator
    )
    return DetectionLoader(loader, sampler)
