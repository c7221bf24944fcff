"""Settings of the images, annotations and their loading."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import COUNT, SHARE, Range, check_choices, check_numbers, check_texts

EVALUATORS = ("pycocotools", "faster_coco_eval")
"""Packages that compute the COCO metrics."""

_SIDE = Range(1, 65536)


@dataclass(frozen=True)
class DataConfig:
    """Images, annotations and how they are loaded."""

    data: str | None = None
    """Folder of a data set in COCO's format, in any layout of detectors/data/layouts.py; None: one is generated."""
    train_images: str | None = None
    """Folder of the training images; None: found in data.data."""
    train_annotations: str | None = None
    """COCO JSON of the training images; None: found in data.data."""
    val_images: str | None = None
    """Folder of the validation images; None: found in data.data."""
    val_annotations: str | None = None
    """COCO JSON of the validation images; None: found in data.data."""
    val_fraction: float | None = None
    """For data without a validation split: the share of the training images that is held out for validation, for
    example 0.2. A hash of the file names and val_seed chooses them: the choice is the same on every machine, and adding
    images does not change it. None: the data have a validation split."""
    val_seed: int = 0
    """Seed of val_fraction, separate from run.seed: runs of several seeds have the same validation images."""
    categories: tuple[str, ...] | None = None
    """Names of the categories to train and evaluate on: "person, car", or a YAML list in which names with commas, and
    names such as none, are quoted: '["car (parked)", "lamp, desk", "none"]'. None (as text "~"): all."""
    short_side: int | tuple[int, ...] = 800
    """Length in pixels that the short side is resized to. Several (480,640,800) are multi-scale training: each image
    draws one."""
    long_side: int = 1333
    """Upper limit of the long side in pixels; an image that would exceed it is resized to this long side instead."""
    eval_short_side: int | None = None
    """Short side in evaluation and prediction, in pixels; None: the largest of short_side."""
    flip: float = 0.5
    """Probability of a horizontal flip in training, in 0..1."""
    scale_jitter: tuple[float, ...] | None = None
    """Lowest and highest factor on the size of a training image, each in 0.01..4, such as (0.1, 2); each image draws
    one. What is larger than short_side x long_side (in the image's orientation) is cropped to that at a random place.
    None: no jitter."""
    min_visible: float = 0.1
    """Crops and mosaics: an object of whose box less than this share is visible becomes a crowd region, which is
    neither an object nor background in training. Boxes with less than a pixel of a side are removed. The log has the
    number of both."""
    photometric: float = 0.0
    """Probability of changing each of brightness, contrast, saturation and hue in training, in 0..1, by the amounts of
    torchvision's RandomPhotometricDistort; the color channels are not permuted."""
    mosaic: float = 0.0
    """Probability that a training image becomes a mosaic of short_side x long_side with three others, in 0..1; their
    sizes have the factors of scale_jitter, or without it (0.5, 1)."""
    mosaic_end: float = 0.85
    """Share of the epochs with mosaics, in 0..1, rounded down to whole epochs: the last ones train on images as
    evaluation has them."""
    limit_train: int | None = None
    """Number of training images to use, the first by id (for overfitting checks); None: all."""
    limit_val: int | None = None
    """Number of validation images to use, the first by id, in training and by evaluate; None: all."""
    val_is_train: bool = False
    """Evaluate on the training images (overfitting checks)."""
    keep_empty: bool = True
    """Keep training images without boxes: all of their priors are background."""
    strict: bool = False
    """Raise an error for a missing, malformed or broken image; otherwise it is left out and reported."""
    verify: bool = False
    """Decode every image once before training and leave out the broken ones."""
    cache: bool = False
    """Keep all image files in memory, encoded."""
    workers: int = 0
    """Processes that load images; 0: the training process loads them."""
    evaluator: str = "pycocotools"
    """"pycocotools", or "faster_coco_eval" (the same metrics in less time; pycocotools is used if it is not
    installed)."""
    generated_images: int = 320
    """Training images of the generated set; a quarter as many are added for validation."""
    generated_size: int = 160
    """Side of the generated images, in pixels."""

    def __post_init__(self) -> None:
        if self.short_side == ():
            raise ValueError("data.short_side must be a side or several, got none")
        check_texts("data", self)
        check_choices("data", self, evaluator=EVALUATORS)
        check_numbers(
            "data",
            self,
            short_side=_SIDE,
            long_side=_SIDE,
            eval_short_side=_SIDE,
            val_fraction=Range(0, 1, low_open=True, high_open=True),
            val_seed=Range(0, 2**63 - 1),
            flip=SHARE,
            scale_jitter=Range(0.01, 4),
            min_visible=SHARE,
            photometric=SHARE,
            mosaic=SHARE,
            mosaic_end=SHARE,
            limit_train=COUNT,
            limit_val=COUNT,
            workers=Range(0, 1024),
            generated_images=Range(1, 1_000_000),
            generated_size=Range(48, 4096),
        )
        factors = self.scale_jitter
        if factors is not None and (len(factors) != 2 or factors[0] > factors[1]):
            raise ValueError(f"data.scale_jitter must be a lowest and a highest factor or None, got {factors}")
        if self.categories == ():
            raise ValueError("data.categories must be names or None, got none")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError(f"data.categories names a category twice: {self.categories!r}")

    @property
    def validation_limit(self) -> int | None:
        """Number of images to evaluate on: limit_val, and of the training images (val_is_train) limit_train at most."""
        limits = [self.limit_val, self.limit_train if self.val_is_train else None]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def largest_side(self) -> int:
        """The largest of short_side."""
        return max(self.short_side) if isinstance(self.short_side, tuple) else self.short_side

    @property
    def evaluated_side(self) -> int:
        """The short side in evaluation and prediction."""
        return self.largest_side if self.eval_short_side is None else self.eval_short_side
