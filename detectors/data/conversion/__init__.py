"""Data sets in the formats of YOLO and Pascal VOC, converted to COCO's."""
