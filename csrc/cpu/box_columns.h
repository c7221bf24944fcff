// Boxes as coordinate columns, and the hulls of blocks of them.
#pragma once

#include "../hulls.h"
#include "parallel.h"

namespace mlc::cpu {

constexpr int64_t kLanes = 16;

// Padded to whole lanes.
template <typename T>
struct BoxColumns {
  std::unique_ptr<T[]> storage;
  T *x1, *y1, *x2, *y2, *area;

  explicit BoxColumns(int64_t n) {
    const int64_t padded = (n + kLanes - 1) / kLanes * kLanes;
    storage = buffer<T>(5 * padded);
    x1 = storage.get(), y1 = x1 + padded, x2 = y1 + padded, y2 = x2 + padded, area = y2 + padded;
  }
  void set(int64_t i, const Box<T>& box) {
    x1[i] = box.x1, y1[i] = box.y1, x2[i] = box.x2, y2[i] = box.y2, area[i] = box.area();
  }
  Box<T> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

template <typename T, typename scalar_t>
Box<T> box_at(const scalar_t* boxes, int64_t i) {
  const scalar_t* p = boxes + 4 * i;
  return {static_cast<T>(p[0]), static_cast<T>(p[1]), static_cast<T>(p[2]), static_cast<T>(p[3])};
}

// n: whole lanes.
template <typename T>
MLC_SIMD_CLONES Box<T> hull_of_columns(const T* x1, const T* y1, const T* x2, const T* y2, int64_t n) {
  T low_x[kLanes], low_y[kLanes], high_x[kLanes], high_y[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    low_x[j] = low_y[j] = std::numeric_limits<T>::infinity();
    high_x[j] = high_y[j] = -std::numeric_limits<T>::infinity();
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const Box<T> box = hull_of_box(Box<T>{x1[i + j], y1[i + j], x2[i + j], y2[i + j]});
      low_x[j] = min_of(low_x[j], box.x1), low_y[j] = min_of(low_y[j], box.y1);
      high_x[j] = max_of(high_x[j], box.x2), high_y[j] = max_of(high_y[j], box.y2);
    }
  }
  return {*std::min_element(low_x, low_x + kLanes), *std::min_element(low_y, low_y + kLanes),
          *std::max_element(high_x, high_x + kLanes), *std::max_element(high_y, high_y + kLanes)};
}

}  // namespace mlc::cpu
