"""MLCEpochHook: the heads' epoch, from the runner."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .head import MLCHead


@HOOKS.register_module()
class MLCEpochHook(Hook):  # type: ignore[misc]
    """Sets the epoch of the model's MLC heads before every iteration, parts of an epoch included.

    With an iteration-based training loop an epoch is one pass over the training set.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        epoch = runner.iter / len(runner.train_dataloader)
        for module in runner.model.modules():
            if isinstance(module, MLCHead):
                module.state.set_epoch(epoch)
