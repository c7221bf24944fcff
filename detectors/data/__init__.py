"""COCO-format sets, transforms and loading."""
