"""MLCEpochHook: the heads' epoch, from the runner."""

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from .head import MLCHead


@HOOKS.register_module()
class MLCEpochHook(Hook):  # type: ignore[misc]
    """Sets the epoch of the model's MLC heads before every iteration, as a fraction of epochs.

    With any other training loop than EpochBasedTrainLoop an epoch is as many images as the training set has. A warning
    is logged if the training ends before the method starts.
    """

    def before_train(self, runner: Any) -> None:
        last = (runner.max_iters - 1) / _epoch_length(runner)
        for head in _heads(runner):
            if parts := head.state.config.not_started(last):
                runner.logger.warning(f"{type(head).__name__}: the training ends before the start of {parts}")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        epoch = runner.iter / _epoch_length(runner)
        for head in _heads(runner):
            head.state.set_epoch(epoch)


def _heads(runner: Any) -> list[MLCHead]:
    return [module for module in runner.model.modules() if isinstance(module, MLCHead)]


def _epoch_length(runner: Any) -> float:
    """Iterations of an epoch. The length of an iteration-based loop's loader is that of its sampler, on one rank the
    whole data set's."""
    loader = runner.train_dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return float(len(loader))
    return float(len(loader.dataset) / (loader.batch_sampler.batch_size * get_world_size()))
