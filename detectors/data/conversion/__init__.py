"""Data sets in the formats of YOLO and Pascal VOC, converted to COCO's.

The readers are written here, without a library. The code of supervision (commits 00fab37, 006caa0) and globox (034dbc4)
was compared: both stop at an odd line or a missing element, and do not count what they leave out. supervision needs the
image folder and the label folder of each split as arguments, refuses CMYK images, does not apply the EXIF orientation,
and read VOC's corners as integers. globox does not read polygons, and needs a size in each XML.
"""
