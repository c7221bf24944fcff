// Grouping and thresholds of one array of values or two, for segmented_otsu and mutual_labels.
#pragma once

#include "launch.h"
#include "segmented_otsu.cuh"

namespace mlc::cuda {

constexpr int kOtsuThreads = 256;
constexpr int kOtsuCapacity = 1024;  // values sorted in shared memory
constexpr int kOtsuLevelBits = 10;
constexpr int kGroupingThreads = 1024;
constexpr int kSharedSegments = 4096;         // 16 KB of counts a block
constexpr int64_t kGatheringValues = 1 << 15;  // up to this n and n * K, every group's block reads all ids itself:
constexpr int64_t kGatheringReads = 1 << 20;   // one launch instead of five

// tasks[t].values and .thresholds (and .splittable) are given, the scratch memory for .gathered is made here and comes
// back: it must live until the launches are queued.
template <typename scalar_t>
Workspace launch_otsu(const char* op, const Tensor& like, const int64_t* ids, int64_t n, int64_t num_segments,
                      std::optional<int64_t> bins, OtsuTasks<scalar_t>& tasks, int num_tasks, cudaStream_t stream) {
  using T = compute_t<scalar_t>;
  MLC_CHECK_VALUE(n <= UINT32_MAX, op, "at most 2^32 - 1 values are supported on CUDA, got ", n);
  const int num_bins = static_cast<int>(bins.value_or(0));
  const bool gathering = n <= kGatheringValues && num_segments <= kGatheringReads / max_of<int64_t>(n, 1);
  const bool shared = num_segments <= kSharedSegments;
  // few blocks with long slices: each reserves its places in every group with an atomic
  const unsigned blocks =
      static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>(ceil_div(n, 8 * kGroupingThreads), num_multiprocessors())));

  Workspace workspace;
  const size_t sizes_at = workspace.reserve<u64>(num_segments);
  const size_t offsets_at = workspace.reserve<int64_t>(num_segments + 1);
  const size_t reserved_at = workspace.reserve<int64_t>(shared && !gathering ? blocks * num_segments : 0);
  size_t gathered_at[2];
  for (int t = 0; t < num_tasks; ++t) gathered_at[t] = workspace.reserve<scalar_t>(n);
  workspace.allocate(like);
  for (int t = 0; t < num_tasks; ++t) tasks.task[t].gathered = workspace.at<scalar_t>(gathered_at[t]);
  const unsigned columns = static_cast<unsigned>(num_tasks);

  if (gathering) {
    gather_and_otsu<T, kOtsuThreads, kOtsuCapacity, kOtsuLevelBits>
        <<<dim3(static_cast<unsigned>(num_segments), columns), kOtsuThreads, 0, stream>>>(ids, n, num_bins, tasks);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return workspace;
  }

  u64* sizes = workspace.at<u64>(sizes_at);
  int64_t *offsets = workspace.at<int64_t>(offsets_at), *reserved = workspace.at<int64_t>(reserved_at);
  GatherColumns<scalar_t> moved{};
  for (int t = 0; t < num_tasks; ++t) {
    moved.values[t] = tasks.task[t].values;
    moved.gathered[t] = tasks.task[t].gathered;
  }
  STD_CUDA_CHECK(cudaMemsetAsync(sizes, 0, static_cast<size_t>(num_segments) * sizeof(u64), stream));
  const auto group = [&](auto in_shared) {
    constexpr bool kShared = decltype(in_shared)::value;
    count_segments<kShared, kGroupingThreads, kSharedSegments>
        <<<blocks, kGroupingThreads, 0, stream>>>(ids, n, num_segments, sizes, reserved);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    scan_sizes<kGroupingThreads><<<1, kGroupingThreads, 0, stream>>>(sizes, num_segments, offsets);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    scatter_to_groups<kShared, kGroupingThreads, kSharedSegments>
        <<<blocks, kGroupingThreads, 0, stream>>>(ids, n, num_segments, offsets, reserved, sizes, moved);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (shared) {
    group(std::true_type{});
  } else {
    group(std::false_type{});
  }
  // a block to each group while blocks are few; many groups are small ones, of which each warp takes its own
  const int groups = static_cast<int>(std::min<int64_t>(kOtsuThreads / kWarpSize, ceil_div(num_segments, 4096)));
  otsu_of_groups<T, kOtsuThreads, kOtsuCapacity, kOtsuLevelBits>
      <<<dim3(grid_x(op, ceil_div(num_segments, groups)), columns), kOtsuThreads, 0, stream>>>(
          offsets, num_segments, groups, num_bins, tasks);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return workspace;
}

}  // namespace mlc::cuda
