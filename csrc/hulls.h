// Hulls of groups of boxes, by which whole groups are skipped.
#pragma once

#include <limits>

#include "box_iou.h"

namespace mlc {

// A box as a part of a group's hull. intersection() ignores a NaN side of a box, so that side becomes infinite.
template <typename T>
MLC_HOST_DEVICE Box<T> hull_of_box(const Box<T>& box) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  return {box.x1 == box.x1 ? box.x1 : -infinity, box.y1 == box.y1 ? box.y1 : -infinity,
          box.x2 == box.x2 ? box.x2 : infinity, box.y2 == box.y2 ? box.y2 : infinity};
}

template <typename T>
MLC_HOST_DEVICE Box<T> joined_hulls(const Box<T>& a, const Box<T>& b) {
  return {min_of(a.x1, b.x1), min_of(a.y1, b.y1), max_of(a.x2, b.x2), max_of(a.y2, b.y2)};
}

// Whether the gt may have an intersection above 0 with a box of the hull; never true for a gt with a NaN.
template <typename T>
MLC_HOST_DEVICE bool meets_hull(const Box<T>& gt, const Box<T>& hull) {
  return gt.x1 < hull.x2 && gt.x2 > hull.x1 && gt.y1 < hull.y2 && gt.y2 > hull.y1;
}

}  // namespace mlc
