// Values gathered by their group: a counting sort over segment ids. The order inside a group is left to chance: what is
// computed from a group (csrc/otsu.h) does not depend on it.
//
// Each block counts its slice of the ids in shared memory and reserves its places in every group with one atomic a
// group; where K is too large for that, every id is an atomic in global memory. Ids outside [0, K) are in no group.
#pragma once

#include "block.cuh"

namespace mlc::cuda {

// One array of values and where they go; a second one may be absent (null).
template <typename scalar_t>
struct GatherColumns {
  const scalar_t* values[2];
  scalar_t* gathered[2];
  __device__ __forceinline__ void move(int64_t from, int64_t to) const {
    gathered[0][to] = values[0][from];
    if (values[1]) gathered[1][to] = values[1][from];
  }
};

__device__ __forceinline__ bool in_group(int64_t id, int64_t num_segments) {
  return static_cast<uint64_t>(id) < static_cast<uint64_t>(num_segments);
}

struct Slice {
  int64_t begin, end;
};
// One of `parts` about equal slices of n.
__device__ __forceinline__ Slice slice_of(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}
__device__ __forceinline__ Slice slice_of_block(int64_t n) { return slice_of(n, blockIdx.x, gridDim.x); }

// sizes [K], zero at the start: members of every group. With kShared (K <= kMaxShared), reserved [gridDim.x, K] is
// where this block's members start within their group.
template <bool kShared, int kThreads, int kMaxShared>
__global__ void __launch_bounds__(kThreads) count_segments(const int64_t* __restrict__ ids, int64_t n,
                                                           int64_t num_segments, u64* sizes, int64_t* reserved) {
  const Slice slice = slice_of_block(n);
  if constexpr (kShared) {
    __shared__ unsigned count[kMaxShared];
    for (int64_t k = threadIdx.x; k < num_segments; k += kThreads) count[k] = 0;
    __syncthreads();
    for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
      const int64_t id = ids[i];
      if (in_group(id, num_segments)) atomicAdd(&count[id], 1u);
    }
    __syncthreads();
    int64_t* start = reserved + blockIdx.x * num_segments;
    for (int64_t k = threadIdx.x; k < num_segments; k += kThreads) {
      if (count[k] > 0) start[k] = static_cast<int64_t>(atomicAdd(&sizes[k], static_cast<u64>(count[k])));
    }
  } else {
    for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
      const int64_t id = ids[i];
      if (in_group(id, num_segments)) atomicAdd(&sizes[id], u64{1});
    }
  }
}

// offsets [K + 1] = exclusive sums of sizes; sizes is zeroed, to count again. One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) scan_sizes(u64* sizes, int64_t num_segments, int64_t* offsets) {
  int64_t base = 0;
  for (int64_t first = 0; first < num_segments; first += kThreads) {
    const int64_t k = first + threadIdx.x;
    const int64_t size = k < num_segments ? static_cast<int64_t>(sizes[k]) : 0;
    int64_t total;
    const int64_t before = block_exclusive_sum<kThreads>(size, total);
    if (k < num_segments) {
      offsets[k] = base + before;
      sizes[k] = 0;
    }
    base += total;
  }
  if (threadIdx.x == 0) offsets[num_segments] = base;
}

// Moves every member to its group. Same grid as count_segments; sizes is the zeroed one, the cursors without kShared.
template <bool kShared, int kThreads, int kMaxShared, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    scatter_to_groups(const int64_t* __restrict__ ids, int64_t n, int64_t num_segments,
                      const int64_t* __restrict__ offsets, const int64_t* __restrict__ reserved, u64* sizes,
                      GatherColumns<scalar_t> columns) {
  const Slice slice = slice_of_block(n);
  if constexpr (kShared) {
    __shared__ unsigned count[kMaxShared];
    for (int64_t k = threadIdx.x; k < num_segments; k += kThreads) count[k] = 0;
    __syncthreads();
    const int64_t* start = reserved + blockIdx.x * num_segments;
    for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
      const int64_t id = ids[i];
      if (in_group(id, num_segments)) columns.move(i, offsets[id] + start[id] + atomicAdd(&count[id], 1u));
    }
  } else {
    for (int64_t i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
      const int64_t id = ids[i];
      if (in_group(id, num_segments)) {
        columns.move(i, offsets[id] + static_cast<int64_t>(atomicAdd(&sizes[id], u64{1})));
      }
    }
  }
}

struct GroupPlace {
  int64_t before, size;  // members of lower groups, members
  __device__ __forceinline__ GroupPlace& operator+=(const GroupPlace& other) {
    before += other.before;
    size += other.size;
    return *this;
  }
};

// For few ids and groups: a block finds its own group k by reading all ids twice, and needs none of the kernels above.
template <int kThreads, typename scalar_t>
__device__ GroupPlace gather_one_group(const int64_t* __restrict__ ids, int64_t n, int64_t k, const scalar_t* values,
                                       scalar_t* gathered) {
  __shared__ unsigned cursor;
  GroupPlace mine{0, 0};
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const int64_t id = ids[i];
    mine.before += id >= 0 && id < k ? 1 : 0;
    mine.size += id == k ? 1 : 0;
  }
  if (threadIdx.x == 0) cursor = 0;
  const GroupPlace place = block_reduce<kThreads>(mine, [](GroupPlace a, const GroupPlace& b) { return a += b; });
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    if (ids[i] == k) gathered[place.before + atomicAdd(&cursor, 1u)] = values[i];
  }
  __syncthreads();
  return place;
}

}  // namespace mlc::cuda
