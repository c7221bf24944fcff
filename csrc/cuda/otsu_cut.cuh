// What the Otsu thresholds of a warp's group (warp_otsu.cuh) and of a block's group (block_otsu.cuh) share: cuts, sums
// and how far from the midpoint a cut can lie. The rule is csrc/otsu.h.
#pragma once

#include "../box_iou.h"
#include "../otsu.h"
#include "block.cuh"

namespace mlc::cuda {

// A cut after all values up to `last`: a value or its q. The larger objective wins, the first of equals.
template <typename Place>
struct OtsuCut {
  double objective;
  Place last;
  __device__ __forceinline__ void offer(double candidate, Place candidate_last) {
    if (candidate > objective || (candidate == objective && candidate_last < last)) {
      objective = candidate;
      last = candidate_last;
    }
  }
};

template <typename Place>
__device__ __forceinline__ OtsuCut<Place> better_cut(OtsuCut<Place> a, const OtsuCut<Place>& b) {
  a.offer(b.objective, b.last);
  return a;
}

// How many values, and their q added up.
struct OtsuSum {
  int64_t count, sum;
  __device__ __forceinline__ OtsuSum& operator+=(const OtsuSum& other) {
    count += other.count;
    sum += other.sum;
    return *this;
  }
};

template <typename T>
struct OtsuResult {
  T threshold;
  T largest;  // of the group: some value is above a threshold iff this one is
};

__device__ __forceinline__ double ratio(int64_t sum, int64_t count) {
  return static_cast<double>(sum) / static_cast<double>(count);
}

// How far from the midpoint of the class means a value may be for the cut next to it to be the best one. Farther off it
// loses by at least 4 slack / (n 2^top_bit) of the objective, and rounding must not make that up: 2^-44 is far above
// its noise.
__device__ __forceinline__ double midpoint_slack(const OtsuGrid& grid, int64_t n) {
  return static_cast<double>(n) * power_of_two(grid.top_bit - 46);
}

// The values of one group: every `stride`-th from `first` on.
template <typename scalar_t>
struct GroupValues {
  const scalar_t* first;
  unsigned size;
  int stride;
  __device__ __forceinline__ scalar_t operator[](int64_t i) const { return first[i * stride]; }
};

}  // namespace mlc::cuda
