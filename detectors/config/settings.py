"""A run's settings: plain dataclasses, one for each section. The presets are in presets.py."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from mlc_ext import MLCConfig

from .paper_schedule import milestones
from .sections.data import DataConfig
from .sections.model import ASSIGNERS, BACKBONES, CLS_LOSSES, EXTRA_LEVELS, TOWER_NORMS, ModelConfig
from .sections.run import DEVICE, RunConfig
from .sections.schedule import PRECISIONS, ScheduleConfig

__all__ = [
    "ASSIGNERS",
    "BACKBONES",
    "CLS_LOSSES",
    "DEVICE",
    "EXTRA_LEVELS",
    "PRECISIONS",
    "TOWER_NORMS",
    "Config",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "ScheduleConfig",
]


@dataclass(frozen=True)
class Config:
    """All settings of a run, in sections."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mlc: MLCConfig = field(default_factory=MLCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def milestones(self) -> tuple[float, ...]:
        """Epochs at which the learning rate falls to a tenth."""
        if self.schedule.kind != "step":
            return ()
        if self.schedule.milestones is not None:
            return self.schedule.milestones
        return milestones(self.schedule.epochs)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The text of a run's config.json."""
        return json.dumps(self.to_dict(), indent=2) + "\n"
