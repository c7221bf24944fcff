"""The progress of a detector's training, which switches mutual labeling and IoU rescoring on."""

import dataclasses
import warnings

from ..config import MLCConfig


@dataclasses.dataclass
class State:
    """Settings and progress, one object for all parts of a converted detector. Not a part of the state_dict."""

    config: MLCConfig
    how: str
    """How a user sets the epoch, for the warning."""
    mutual: bool = False
    """Whether mutual labeling has started."""
    rescoring: bool = False
    """Whether the IoU layer is trained."""
    epoch_is_set: bool = False

    def __post_init__(self) -> None:
        self._start(0.0)

    def set_epoch(self, epoch: float) -> None:
        self.epoch_is_set = True
        self._start(epoch)

    def _start(self, epoch: float) -> None:
        # two flags instead of the epoch: torch.compile would compile again for every value of it
        self.mutual = self.config.ml and epoch >= self.config.start_epoch
        self.rescoring = self.config.iur and epoch >= self.config.rescoring_start

    def warn_without_epoch(self) -> None:
        """A warning, once, if the model trains and its epoch has not been set."""
        if not self.epoch_is_set and (parts := self.config.not_started(0.0)):
            self.epoch_is_set = True
            warnings.warn(f"{self.how} Not started: {parts}", stacklevel=2)
