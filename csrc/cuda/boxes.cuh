// Loading and storing boxes as vectors.
#pragma once

#include <cstdint>

#include "../box_iou.h"

namespace mlc::cuda {

constexpr int kVectorBytes = 16;  // of one memory access

// Four values, moved at once (twice 16 bytes for double). Its address must be a multiple of its alignment; the
// launchers see to that for tensors (`vector_aligned` in launch.h).
template <typename scalar_t>
struct alignas(4 * sizeof(scalar_t) < kVectorBytes ? 4 * sizeof(scalar_t) : kVectorBytes) Four {
  scalar_t v[4];
};

template <typename T, typename scalar_t>
__device__ __forceinline__ Box<T> load_box(const scalar_t* boxes, int64_t i) {
  const Four<scalar_t> four = reinterpret_cast<const Four<scalar_t>*>(boxes)[i];
  return {static_cast<T>(four.v[0]), static_cast<T>(four.v[1]), static_cast<T>(four.v[2]), static_cast<T>(four.v[3])};
}

template <typename T, typename scalar_t>
__device__ __forceinline__ void store_box(scalar_t* boxes, int64_t i, const Box<T>& box) {
  Four<scalar_t> four;
  four.v[0] = static_cast<scalar_t>(box.x1);
  four.v[1] = static_cast<scalar_t>(box.y1);
  four.v[2] = static_cast<scalar_t>(box.x2);
  four.v[3] = static_cast<scalar_t>(box.y2);
  reinterpret_cast<Four<scalar_t>*>(boxes)[i] = four;
}

}  // namespace mlc::cuda
