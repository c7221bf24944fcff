"""A data set in COCO's format: its JSON, its classes, its boxes."""
