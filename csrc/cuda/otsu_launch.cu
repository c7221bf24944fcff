#include "otsu_launch.h"

namespace mlc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLargeGroupThreads = 1024;
constexpr int64_t kLargeGroup = 8192;  // values of a group on average, from where blocks are large
constexpr int kCapacity = 1024;        // values sorted in shared memory
constexpr int kLevelBits = 10;
constexpr int kGroupingThreads = 1024;
constexpr int kSharedSegments = 4096;  // 16 KB of counts a block
// up to this n and this n * K every group's block reads all ids itself: one launch instead of five
constexpr int64_t kGatheringValues = 1 << 15;
constexpr int64_t kGatheringReads = 1 << 20;

}  // namespace

template <typename scalar_t>
void launch_otsu(const char* op, const Tensor& like, const int64_t* ids, int64_t n, int64_t num_segments,
                 std::optional<int64_t> bins, OtsuTasks<scalar_t> tasks, int num_tasks, cudaStream_t stream) {
  using T = compute_t<scalar_t>;
  MLC_CHECK_VALUE(n <= UINT32_MAX, op, "at most 2^32 - 1 values are supported on CUDA, got ", n);
  const int num_bins = static_cast<int>(bins.value_or(0));
  const bool gathering = n <= kGatheringValues && num_segments <= kGatheringReads / max_of<int64_t>(n, 1);
  const bool shared = num_segments <= kSharedSegments;
  // few blocks with long slices: each reserves its places in every group with an atomic
  const int64_t slices = std::min<int64_t>(ceil_div(n, 8 * kGroupingThreads), num_multiprocessors());
  const unsigned blocks = static_cast<unsigned>(std::max<int64_t>(1, slices));

  Workspace workspace;
  const size_t sizes_at = workspace.reserve<u64>(num_segments);
  const size_t offsets_at = workspace.reserve<int64_t>(num_segments + 1);
  const size_t reserved_at = workspace.reserve<int64_t>(shared && !gathering ? blocks * num_segments : 0);
  size_t gathered_at[2];
  for (int t = 0; t < num_tasks; ++t) gathered_at[t] = workspace.reserve<scalar_t>(n);
  workspace.allocate(like);
  for (int t = 0; t < num_tasks; ++t) tasks.task[t].gathered = workspace.at<scalar_t>(gathered_at[t]);

  const auto thresholds = [&](const GroupMembers& members, int groups) {
    const dim3 grid(grid_x(op, ceil_div(num_segments, groups)), static_cast<unsigned>(num_tasks));
    if (n / num_segments < kLargeGroup) {
      otsu_of_groups<T, kThreads, kCapacity, kLevelBits>
          <<<grid, kThreads, 0, stream>>>(members, num_segments, groups, num_bins, tasks);
    } else {
      otsu_of_groups<T, kLargeGroupThreads, kCapacity, kLevelBits>
          <<<grid, kLargeGroupThreads, 0, stream>>>(members, num_segments, groups, num_bins, tasks);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (gathering) return thresholds({nullptr, ids, n}, 1);

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
  const int64_t groups = min_of<int64_t>(kThreads / kWarpSize, ceil_div(num_segments, 4096));
  thresholds({offsets, nullptr, n}, static_cast<int>(groups));
}

template void launch_otsu(const char*, const Tensor&, const int64_t*, int64_t, int64_t, std::optional<int64_t>,
                          OtsuTasks<float>, int, cudaStream_t);
template void launch_otsu(const char*, const Tensor&, const int64_t*, int64_t, int64_t, std::optional<int64_t>,
                          OtsuTasks<double>, int, cudaStream_t);
template void launch_otsu(const char*, const Tensor&, const int64_t*, int64_t, int64_t, std::optional<int64_t>,
                          OtsuTasks<torch::headeronly::Half>, int, cudaStream_t);
template void launch_otsu(const char*, const Tensor&, const int64_t*, int64_t, int64_t, std::optional<int64_t>,
                          OtsuTasks<torch::headeronly::BFloat16>, int, cudaStream_t);

}  // namespace mlc::cuda
