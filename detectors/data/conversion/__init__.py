"""Data sets in the formats of YOLO and Pascal VOC, converted to COCO's.

No library reads them here. Those of supervision (commits 00fab37, 006caa0) and globox (034dbc4) were read: an odd line
or a missing element ends the reading, and what is not read is not counted. supervision has the image folder and the
label folder of one split as arguments, refuses CMYK images, does not apply the EXIF orientation, and read VOC's corners
as integers; globox reads no polygons, and needs a size in each XML.
"""
