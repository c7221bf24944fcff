"""COCO metrics, score-IoU correlations and label statistics."""
