// Thresholds of all groups, of one array of values or two.
#pragma once

#include "grouping.cuh"
#include "otsu_threshold.cuh"

namespace mlc::cuda {

template <typename scalar_t>
struct OtsuTask {
  const scalar_t* values;     // [N]; read only by the kernel that gathers
  scalar_t* gathered;         // [N], by group
  scalar_t* thresholds;       // [K]
  unsigned char* splittable;  // [K] or null: whether any value is above the threshold
};
template <typename scalar_t>
struct OtsuTasks {
  OtsuTask<scalar_t> task[2];
};

template <typename T, typename scalar_t>
__device__ __forceinline__ void store_threshold(const OtsuTask<scalar_t>& task, int64_t k,
                                                const OtsuResult<T>& result) {
  const scalar_t threshold = static_cast<scalar_t>(result.threshold);
  task.thresholds[k] = threshold;
  if (task.splittable) task.splittable[k] = result.largest > static_cast<T>(threshold) ? 1 : 0;
}

template <typename T, int kThreads, int kCapacity, int kLevelBits, typename scalar_t>
__device__ void group_otsu(OtsuScratch<kCapacity, kLevelBits>& scratch, const OtsuTask<scalar_t>& task, int64_t k,
                           int64_t begin, int64_t size, int bins) {
  const auto result =
      BlockOtsu<T, scalar_t, kThreads, kCapacity, kLevelBits>(scratch, task.gathered + begin, size)(bins);
  if (threadIdx.x == 0) store_threshold(task, k, result);
}

// Groups are gathered already. A block has `groups` of them, blockIdx.y is the task: first each of its warps takes
// small groups, then all of it the others.
template <typename T, int kThreads, int kCapacity, int kLevelBits, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    otsu_of_groups(const int64_t* __restrict__ offsets, int64_t num_segments, int groups, int bins,
                   OtsuTasks<scalar_t> tasks) {
  __shared__ OtsuScratch<kCapacity, kLevelBits> scratch;
  const OtsuTask<scalar_t>& task = tasks.task[blockIdx.y];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups;
  const int64_t last = min_of(first + groups, num_segments);
  for (int64_t k = first + warp_index(); k < last; k += kThreads / kWarpSize) {
    const int64_t begin = offsets[k], size = offsets[k + 1] - begin;
    if (size > kWarpSize) continue;
    const auto result = warp_otsu<T>(task.gathered + begin, static_cast<int>(size), bins);
    if (lane_index() == 0) store_threshold(task, k, result);
  }
  for (int64_t k = first; k < last; ++k) {
    const int64_t begin = offsets[k], size = offsets[k + 1] - begin;
    if (size > kWarpSize) group_otsu<T, kThreads>(scratch, task, k, begin, size, bins);
  }
}

// One block a group, which it gathers itself.
template <typename T, int kThreads, int kCapacity, int kLevelBits, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    gather_and_otsu(const int64_t* __restrict__ ids, int64_t n, int bins, OtsuTasks<scalar_t> tasks) {
  __shared__ OtsuScratch<kCapacity, kLevelBits> scratch;
  const OtsuTask<scalar_t>& task = tasks.task[blockIdx.y];
  const int64_t k = blockIdx.x;
  const GroupPlace place = gather_one_group<kThreads>(ids, n, k, task.values, task.gathered);
  if (place.size > kWarpSize) {
    group_otsu<T, kThreads>(scratch, task, k, place.before, place.size, bins);
  } else if (warp_index() == 0) {
    const auto result = warp_otsu<T>(task.gathered + place.before, static_cast<int>(place.size), bins);
    if (lane_index() == 0) store_threshold(task, k, result);
  }
}

}  // namespace mlc::cuda
