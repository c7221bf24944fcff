"""Settings: dataclasses, overrides by name, files and presets."""
