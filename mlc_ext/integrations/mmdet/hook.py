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

    With any other training loop than EpochBasedTrainLoop an epoch is as many images as the training set has.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        epoch = runner.iter / _epoch_length(runner)
        for module in runner.model.modules():
            if isinstance(module, MLCHead):
                module.state.set_epoch(epoch)


def _epoch_length(runner: Any) -> float:
    """Iterations of an epoch. The length of an iteration-based loop's loader is that of its sampler, on one rank the
    whole data set's."""
    loader = runner.train_dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return float(len(loader))
    return float(len(loader.dataset) / (loader.batch_sampler.batch_size * get_world_size()))
