// Values gathered by their group: a counting sort over segment ids. The order inside a group is left to chance: what is
// computed from a group (csrc/otsu.h) does not depend on it.
//
// Each block counts its slice of the ids in shared memory and reserves its places in every group with one atomic a
// group; where K is too large for that, every id is an atomic in global memory. Ids outside [0, K) are in no group.
// N < 2^32: places fit 32 bits.
#pragma once

#include "block.cuh"

namespace mlc::cuda {

// A value of each of two columns, moved by one instruction.
template <typename scalar_t>
struct alignas(2 * sizeof(scalar_t)) ValuePair {
  scalar_t of[2];
};

// One column of values, or two that are gathered as pairs.
template <typename scalar_t>
struct GatherColumns {
  const scalar_t* values[2];  // the second may be null
  scalar_t* gathered;
  __device__ __forceinline__ ValuePair<scalar_t> load(int64_t i) const {
    return {{values[0][i], values[1] ? values[1][i] : scalar_t{}}};
  }
  __device__ __forceinline__ void store(int64_t i, const ValuePair<scalar_t>& value) const {
    if (values[1]) {
      reinterpret_cast<ValuePair<scalar_t>*>(gathered)[i] = value;
    } else {
      gathered[i] = value.of[0];
    }
  }
};

__device__ __forceinline__ bool in_group(int64_t id, int64_t num_segments) {
  return static_cast<uint64_t>(id) < static_cast<uint64_t>(num_segments);
}

struct Slice {
  int64_t begin, end;
};
// Slice number `part` of n, which is cut into `parts` slices of about equal length.
__device__ __forceinline__ Slice slice_of(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}
__device__ __forceinline__ Slice slice_of_block(int64_t n) { return slice_of(n, blockIdx.x, gridDim.x); }

// The ids of a thread at first, first + kThreads, ..., loaded together; -1 after the end.
template <int kThreads, int kBatch>
__device__ __forceinline__ void load_ids(const int64_t* ids, int64_t first, int64_t end, int64_t (&batch)[kBatch]) {
#pragma unroll
  for (int b = 0; b < kBatch; ++b) batch[b] = first + b * kThreads < end ? ids[first + b * kThreads] : -1;
}

constexpr int kScatterBatch = 4;  // ids that a thread of the next kernels loads together

// sizes [K], zero at the start: members of every group. With kShared (K <= kMaxShared), reserved [gridDim.x, K] is
// where this block's members start within their group.
template <bool kShared, int kThreads, int kMaxShared>
__global__ void __launch_bounds__(kThreads) count_segments(const int64_t* __restrict__ ids, int64_t n,
                                                           int64_t num_segments, unsigned* sizes, unsigned* reserved) {
  __shared__ unsigned shared[kShared ? kMaxShared : 1];
  unsigned* count = kShared ? shared : sizes;
  if constexpr (kShared) {
    for (int64_t k = threadIdx.x; k < num_segments; k += kThreads) count[k] = 0;
    __syncthreads();
  }
  const Slice slice = slice_of_block(n);
  for (int64_t first = slice.begin + threadIdx.x; first < slice.end; first += kScatterBatch * kThreads) {
    int64_t batch[kScatterBatch];
    load_ids<kThreads>(ids, first, slice.end, batch);
#pragma unroll
    for (int64_t id : batch) {
      if (in_group(id, num_segments)) atomicAdd(&count[id], 1u);
    }
  }
  if constexpr (kShared) {
    __syncthreads();
    unsigned* start = reserved + blockIdx.x * num_segments;
    for (int64_t k = threadIdx.x; k < num_segments; k += kThreads) {
      start[k] = count[k] > 0 ? atomicAdd(&sizes[k], count[k]) : 0;
    }
  }
}

// offsets [K + 1] = exclusive sums of sizes; sizes becomes the same, the cursors of scatter_to_groups. One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) scan_sizes(unsigned* sizes, int64_t num_segments, unsigned* offsets) {
  unsigned base = 0;
  for (int64_t first = 0; first < num_segments; first += kThreads) {
    const int64_t k = first + threadIdx.x;
    unsigned total;
    const unsigned before = block_exclusive_sum<kThreads>(k < num_segments ? sizes[k] : 0, total);
    if (k < num_segments) sizes[k] = offsets[k] = base + before;
    base += total;
  }
  if (threadIdx.x == 0) offsets[num_segments] = base;
}

// Moves every member to its group. Same grid as count_segments. With kShared every block adds up the sizes by itself,
// and the first writes offsets [K + 1]; without, sizes is what scan_sizes left.
template <bool kShared, int kThreads, int kMaxShared, typename scalar_t>
__global__ void __launch_bounds__(kThreads, 1)
    scatter_to_groups(const int64_t* __restrict__ ids, int64_t n, int64_t num_segments, unsigned* sizes,
                      const unsigned* __restrict__ reserved, unsigned* offsets, GatherColumns<scalar_t> columns) {
  __shared__ unsigned shared[kShared ? kMaxShared : 1];
  unsigned* cursor = kShared ? shared : sizes;
  if constexpr (kShared) {
    const int groups = static_cast<int>(num_segments), each = (groups + kThreads - 1) / kThreads;
    const int begin = static_cast<int>(threadIdx.x) * each, end = begin + each < groups ? begin + each : groups;
    unsigned members = 0, total;
    for (int k = begin; k < end; ++k) members += sizes[k];
    unsigned offset = block_exclusive_sum<kThreads>(members, total);
    const unsigned* start = reserved + blockIdx.x * num_segments;
    for (int k = begin; k < end; ++k) {
      cursor[k] = offset + start[k];
      if (blockIdx.x == 0) offsets[k] = offset;
      offset += sizes[k];
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) offsets[num_segments] = total;
    __syncthreads();
  }
  const Slice slice = slice_of_block(n);
  for (int64_t first = slice.begin + threadIdx.x; first < slice.end; first += kScatterBatch * kThreads) {
    int64_t batch[kScatterBatch];
    ValuePair<scalar_t> values[kScatterBatch];
    load_ids<kThreads>(ids, first, slice.end, batch);
#pragma unroll
    for (int b = 0; b < kScatterBatch; ++b) {
      if (first + b * kThreads < slice.end) values[b] = columns.load(first + b * kThreads);
    }
#pragma unroll
    for (int b = 0; b < kScatterBatch; ++b) {
      if (in_group(batch[b], num_segments)) columns.store(atomicAdd(&cursor[batch[b]], 1u), values[b]);
    }
  }
}

// For few ids and groups: a block reads all ids to find its own group k, and needs none of the kernels above. Returns
// how many members were gathered.
template <int kThreads, typename scalar_t>
__device__ unsigned gather_one_group(const int64_t* __restrict__ ids, int64_t n, int64_t k, const scalar_t* values,
                                     scalar_t* gathered) {
  constexpr int kBatch = 8;
  __shared__ unsigned cursor;
  if (threadIdx.x == 0) cursor = 0;
  __syncthreads();
  for (int64_t first = threadIdx.x; first < n; first += kBatch * kThreads) {
    int64_t batch[kBatch];
    load_ids<kThreads>(ids, first, n, batch);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (batch[b] == k) gathered[atomicAdd(&cursor, 1u)] = values[first + b * kThreads];
    }
  }
  __syncthreads();
  return cursor;
}

}  // namespace mlc::cuda
