// Thresholds of all groups, of one array of values or two.
#pragma once

#include "../mutual_labels.h"
#include "block_otsu.cuh"
#include "grouping.cuh"
#include "warp_otsu.cuh"

namespace mlc::cuda {

template <typename scalar_t>
struct OtsuTask {
  const scalar_t* values;  // [N]; read only by the kernels that gather
  scalar_t* gathered;      // by group
  scalar_t* thresholds;    // [K]
};
template <typename scalar_t>
struct OtsuTasks {
  OtsuTask<scalar_t> task[2];
  // [K] or null: the deciding_threshold of both tasks (csrc/mutual_labels.h)
  ValuePair<scalar_t>* judged_by;
  bool literal;
};

template <typename T, typename scalar_t>
__device__ __forceinline__ void store_threshold(const OtsuTasks<scalar_t>& tasks, int t, unsigned k,
                                                const OtsuResult<T>& result) {
  const scalar_t threshold = static_cast<scalar_t>(result.threshold);
  (t == 0 ? tasks.task[0] : tasks.task[1]).thresholds[k] = threshold;  // an index would copy tasks to local memory
  if (!tasks.judged_by) return;
  const T deciding = deciding_threshold(static_cast<T>(threshold), result.largest, tasks.literal);
  tasks.judged_by[k].of[t] = static_cast<scalar_t>(deciding);
}

constexpr int kSortingWarps = 8;  // of a block, at most: each has shared memory for what it sorts

template <typename T, int kWarpKeys, int kCapacity, int kLevelBits, typename scalar_t>
union OtsuShared {
  WarpKeys<kWarpKeys, T> sorted[kSortingWarps];
  OtsuScratch<scalar_t, kCapacity, kLevelBits> levels;
};

// Groups of up to this size are a warp's, larger ones a block's.
template <int kWarpKeys>
constexpr unsigned kSmallGroup = kWarpSize * kWarpKeys;

// By one whole warp: a group of up to kSmallGroup.
template <typename T, int kWarpKeys, typename scalar_t>
__device__ __forceinline__ OtsuResult<T> otsu_of_small_group(const GroupValues<scalar_t>& values, int bins,
                                                             WarpKeys<kWarpKeys, T>& sorted) {
  if (values.size == 0) return {static_cast<T>(NAN), static_cast<T>(NAN)};
  return warp_otsu<kWarpKeys, T>(values, bins, sorted);
}

// Thresholds of gathered groups (fewer than 2^31). Group k starts at offsets[k] and has every `stride`-th value;
// blockIdx.y is the task. Each `groups` groups (at most the warps of a block and kSortingWarps) have two blocks: the
// one in the first half of the grid computes the large groups, one after another with all threads; the one in the
// second half computes the small groups, one in each warp. At most 64 registers, 80 for doubles: many small blocks hide
// the latency.
template <typename T, int kThreads, int kWarpKeys, int kCapacity, int kLevelBits, typename scalar_t>
__global__ void __launch_bounds__(kThreads, kThreads > 256 ? 1 : 4 - sizeof(T) / 8)
    otsu_of_groups(const unsigned* __restrict__ offsets, int stride, unsigned num_segments, unsigned groups, int bins,
                   OtsuTasks<scalar_t> tasks) {
  __shared__ OtsuShared<T, kWarpKeys, kCapacity, kLevelBits, scalar_t> shared;
  const int t = static_cast<int>(blockIdx.y);
  const scalar_t* gathered = t == 0 ? tasks.task[0].gathered : tasks.task[1].gathered;
  const auto values_of = [&](unsigned k) -> GroupValues<scalar_t> {
    const unsigned begin = offsets[k], end = offsets[k + 1];
    return {gathered + static_cast<int64_t>(begin) * stride, end - begin, stride};
  };
  const unsigned half = gridDim.x / 2;
  if (blockIdx.x < half) {
    const unsigned first = blockIdx.x * groups, last = min_of(first + groups, num_segments);
    for (unsigned k = first; k < last; ++k) {
      const GroupValues<scalar_t> values = values_of(k);
      if (values.size <= kSmallGroup<kWarpKeys>) continue;
      const auto result = BlockOtsu<T, scalar_t, kThreads, kCapacity, kLevelBits>(shared.levels, values)(bins);
      if (threadIdx.x == 0) store_threshold(tasks, t, k, result);
    }
  } else {
    const unsigned warp = static_cast<unsigned>(warp_index()), k = (blockIdx.x - half) * groups + warp;
    if (warp >= groups || k >= num_segments) return;
    const GroupValues<scalar_t> values = values_of(k);
    if (values.size > kSmallGroup<kWarpKeys>) return;
    const auto result = otsu_of_small_group<T, kWarpKeys>(values, bins, shared.sorted[warp]);
    if (lane_index() == 0) store_threshold(tasks, t, k, result);
  }
}

// For few ids and groups: block (k, t) gathers its own group into gathered[k * n] first.
template <typename T, int kThreads, int kWarpKeys, int kCapacity, int kLevelBits, typename scalar_t>
__global__ void __launch_bounds__(kThreads, 1)
    gather_and_otsu(const int64_t* __restrict__ ids, int64_t n, int bins, OtsuTasks<scalar_t> tasks) {
  __shared__ OtsuShared<T, kWarpKeys, kCapacity, kLevelBits, scalar_t> shared;
  const unsigned k = blockIdx.x;
  const int t = static_cast<int>(blockIdx.y);
  const scalar_t* values = t == 0 ? tasks.task[0].values : tasks.task[1].values;
  scalar_t* gathered = (t == 0 ? tasks.task[0].gathered : tasks.task[1].gathered) + static_cast<int64_t>(k) * n;
  const GroupValues<scalar_t> group{gathered, gather_one_group<kThreads>(ids, n, k, values, gathered), 1};
  if (group.size > kSmallGroup<kWarpKeys>) {
    const auto result = BlockOtsu<T, scalar_t, kThreads, kCapacity, kLevelBits>(shared.levels, group)(bins);
    if (threadIdx.x == 0) store_threshold(tasks, t, k, result);
  } else if (warp_index() == 0) {
    const auto result = otsu_of_small_group<T, kWarpKeys>(group, bins, shared.sorted[0]);
    if (lane_index() == 0) store_threshold(tasks, t, k, result);
  }
}

}  // namespace mlc::cuda
