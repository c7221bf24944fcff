// The IoU matrix; the time is that of writing it. A warp computes 128 columns, four in the registers of each lane, of
// all its rows, whose boxes are in shared memory.
#pragma once

#include "block.cuh"
#include "boxes.cuh"
#include "division.cuh"

namespace mlc::cuda {

constexpr int kBoxIouColumns = 4;  // of a lane

// A warp has `rows` rows (at most 32) of one of the `chunks` of 128 columns. Consecutive warps have consecutive chunks
// of the same rows, so that a block writes to neighboring memory.
template <typename T, int kThreads, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    box_iou_kernel(const scalar_t* __restrict__ boxes1, const scalar_t* __restrict__ boxes2, int64_t n, int64_t m,
                   unsigned chunks, int rows, scalar_t* __restrict__ out) {
  constexpr int warps = kThreads / kWarpSize, columns = kBoxIouColumns;
  __shared__ Box<T> shared_row[warps][kWarpSize];
  __shared__ T shared_area[warps][kWarpSize];
  const Box<T>* row = shared_row[warp_index()];
  const T* row_area = shared_area[warp_index()];
  const unsigned warp = blockIdx.x * warps + static_cast<unsigned>(warp_index());
  const int64_t first_row = static_cast<int64_t>(warp / chunks) * rows;
  const int64_t j = static_cast<int64_t>(warp % chunks) * (kWarpSize * columns) + lane_index() * columns;
  if (first_row >= n) return;  // the whole warp
  const int count = static_cast<int>(min_of<int64_t>(rows, n - first_row));

  const Box<T> lane_row = load_box<T>(boxes1, first_row + min_of(lane_index(), count - 1));
  shared_row[warp_index()][lane_index()] = lane_row;
  shared_area[warp_index()][lane_index()] = lane_row.area();
  Box<T> b[columns];
  T area_b[columns];
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    b[c] = load_box<T>(boxes2, min_of(j + c, m - 1));
    area_b[c] = b[c].area();
  }
  __syncwarp();

  const bool whole = m % columns == 0;  // then every row is aligned for vectors
  scalar_t* to = out + first_row * m + j;
  const auto fill = [&](auto divide) {
#pragma unroll 2
    for (int i = 0; i < count; ++i, to += m) {
      const Box<T> a = row[i];
      const T area_a = row_area[i];
      Four<scalar_t> four;
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        four.v[c] = static_cast<scalar_t>(iou_of(a, area_a, b[c], area_b[c], divide));
      }
      if (whole) {
        if (j < m) *reinterpret_cast<Four<scalar_t>*>(to) = four;
      } else {
#pragma unroll
        for (int c = 0; c < columns; ++c) {
          if (j + c < m) to[c] = four.v[c];
        }
      }
    }
  };
  if constexpr (std::is_same_v<T, float>) {
    CoordinateRange range;
    range.include(lane_row);
#pragma unroll
    for (int c = 0; c < columns; ++c) range.include(b[c]);
    if (range.warp_divides_in_range()) return fill(DivideInRange{});
  }
  fill(Quotient{});
}

}  // namespace mlc::cuda
