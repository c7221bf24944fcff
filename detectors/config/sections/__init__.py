"""The sections of a run's settings, a dataclass each."""
