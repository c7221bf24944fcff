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

// Where the members are: gathered already, group k from offsets[k] on; or, with ids, gathered here by every block.
struct GroupMembers {
  const int64_t* offsets;  // [K + 1]
  const int64_t* ids;      // [n] or null
  int64_t n;
};

// A block has `groups` groups (one, if it gathers them itself), blockIdx.y is the task: first each of its warps takes
// small groups, then all of it the others.
template <typename T, int kThreads, int kCapacity, int kLevelBits, typename scalar_t>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads)  // 64 registers: many groups hide latency by number
    otsu_of_groups(GroupMembers members, int64_t num_segments, int groups, int bins, OtsuTasks<scalar_t> tasks) {
  __shared__ OtsuScratch<kCapacity, kLevelBits> scratch;
  const OtsuTask<scalar_t>& task = tasks.task[blockIdx.y];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups;
  const int64_t last = min_of(first + groups, num_segments);
  GroupPlace gathered{0, 0};
  if (members.ids) gathered = gather_one_group<kThreads>(members.ids, members.n, first, task.values, task.gathered);
  const auto place_of = [&](int64_t k) {
    if (members.ids) return gathered;
    return GroupPlace{members.offsets[k], members.offsets[k + 1] - members.offsets[k]};
  };
  for (int64_t k = first + warp_index(); k < last; k += kThreads / kWarpSize) {
    const GroupPlace place = place_of(k);
    if (place.size > kWarpSize) continue;
    const auto result = warp_otsu<T>(task.gathered + place.before, static_cast<int>(place.size), bins);
    if (lane_index() == 0) store_threshold(task, k, result);
  }
  for (int64_t k = first; k < last; ++k) {
    const GroupPlace place = place_of(k);
    if (place.size <= kWarpSize) continue;
    const auto result = BlockOtsu<T, scalar_t, kThreads, kCapacity, kLevelBits>(
        scratch, task.gathered + place.before, place.size)(bins);
    if (threadIdx.x == 0) store_threshold(task, k, result);
  }
}

}  // namespace mlc::cuda
