// The IoU matrix: bound by its writes. A thread keeps four columns' boxes in registers and goes down kRows rows.
#pragma once

#include "block.cuh"
#include "boxes.cuh"

namespace mlc::cuda {

// blockIdx.x: kThreads / 32 warps of kRows rows each; blockIdx.y: strides over chunks of 128 columns.
template <typename T, int kThreads, int kRows, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    box_iou_kernel(const scalar_t* __restrict__ boxes1, const scalar_t* __restrict__ boxes2, int64_t n, int64_t m,
                   scalar_t* __restrict__ out) {
  constexpr int columns = 4;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.x) * (kThreads / kWarpSize) + warp_index()) * kRows;
  const int64_t last_row = first_row + kRows < n ? first_row + kRows : n;
  const int64_t chunk = kWarpSize * columns;
  const bool whole = m % columns == 0;  // then every row is aligned for vectors
  for (int64_t j = blockIdx.y * chunk + lane_index() * columns; j < m; j += gridDim.y * chunk) {
    Box<T> b[columns];
    T area_b[columns];
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      b[c] = load_box<T>(boxes2, j + c < m ? j + c : m - 1);
      area_b[c] = b[c].area();
    }
    for (int64_t i = first_row; i < last_row; ++i) {
      const Box<T> a = load_box<T>(boxes1, i);
      const T area_a = a.area();
      Four<scalar_t> row;
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        // most pairs are apart: their warps skip the division, which would give the same 0
        T iou = T(0);
        if (intersection(a, b[c]) != T(0)) iou = iou_of(a, area_a, b[c], area_b[c]);
        row.v[c] = static_cast<scalar_t>(iou);
      }
      if (whole) {
        *reinterpret_cast<Four<scalar_t>*>(out + i * m + j) = row;
      } else {
#pragma unroll
        for (int c = 0; c < columns; ++c) {
          if (j + c < m) out[i * m + j + c] = row.v[c];
        }
      }
    }
  }
}

}  // namespace mlc::cuda
