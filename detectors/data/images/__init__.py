"""Image files: found, read and decoded."""
