#include "otsu_launch.h"

namespace mlc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLargeGroupThreads = 512;
constexpr int kGatheringThreads = 512;
constexpr int64_t kLargeGroup = 8192;  // values of a group on average, from where blocks are large
constexpr int kWarpKeyBytes = 96;      // of the values that a lane sorts: 24 floats, 12 doubles
constexpr int kCapacity = 1024;        // values sorted in shared memory
constexpr int kLevelBits = 10;
constexpr int kGroupingThreads = 1024;
constexpr int kSharedSegments = 4096;  // 16 KB of counts a block
// up to this n and this n * K every group's block reads all ids itself: one launch instead of four
constexpr int64_t kGatheringValues = 1 << 15;
constexpr int64_t kGatheringReads = 1 << 20;

}  // namespace

template <typename scalar_t>
void launch_otsu(const char* op, const Tensor& like, const int64_t* ids, int64_t n, int64_t num_segments,
                 std::optional<int64_t> bins, OtsuTasks<scalar_t> tasks, int num_tasks, cudaStream_t stream) {
  using T = compute_t<scalar_t>;
  MLC_CHECK_VALUE(n <= UINT32_MAX, op, "at most 2^32 - 1 values are supported on CUDA, got ", n);
  MLC_CHECK_VALUE(num_segments <= INT32_MAX, op, "at most 2^31 - 1 groups are supported on CUDA, got ", num_segments);
  const int num_bins = static_cast<int>(bins.value_or(0));
  const bool gathering = n <= kGatheringValues && num_segments <= kGatheringReads / max_of<int64_t>(n, 1);
  const bool shared = num_segments <= kSharedSegments;
  // few blocks with long slices: each reserves its places in every group with an atomic
  const int64_t slices = std::min<int64_t>(ceil_div(n, kScatterBatch * kGroupingThreads), num_multiprocessors());
  const unsigned blocks = static_cast<unsigned>(std::max<int64_t>(1, slices));

  Workspace workspace;
  const size_t sizes_at = workspace.reserve<unsigned>(num_segments);
  const size_t offsets_at = workspace.reserve<unsigned>(num_segments + 1);
  const size_t reserved_at = workspace.reserve<unsigned>(shared && !gathering ? blocks * num_segments : 0);
  const size_t gathered_at = workspace.reserve<scalar_t>(num_tasks * n * (gathering ? num_segments : 1));
  workspace.allocate(like);
  auto* gathered = workspace.at<scalar_t>(gathered_at);
  // columns one after the other, or pairs
  for (int t = 0; t < num_tasks; ++t) tasks.task[t].gathered = gathered + t * (gathering ? n * num_segments : 1);

  constexpr int warp_keys = kWarpKeyBytes / static_cast<int>(sizeof(T));
  if (gathering) {
    gather_and_otsu<T, kGatheringThreads, warp_keys, kCapacity, kLevelBits>
        <<<dim3(grid_x(op, num_segments), static_cast<unsigned>(num_tasks)), kGatheringThreads, 0, stream>>>(
            ids, n, num_bins, tasks);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return;
  }

  auto *sizes = workspace.at<unsigned>(sizes_at), *offsets = workspace.at<unsigned>(offsets_at);
  auto* reserved = workspace.at<unsigned>(reserved_at);
  const GatherColumns<scalar_t> columns{{tasks.task[0].values, tasks.task[1].values}, gathered};
  STD_CUDA_CHECK(cudaMemsetAsync(sizes, 0, static_cast<size_t>(num_segments) * sizeof(unsigned), stream));
  const auto group = [&](auto in_shared) {
    constexpr bool kShared = decltype(in_shared)::value;
    count_segments<kShared, kGroupingThreads, kSharedSegments>
        <<<blocks, kGroupingThreads, 0, stream>>>(ids, n, num_segments, sizes, reserved);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (!kShared) {
      scan_sizes<kGroupingThreads><<<1, kGroupingThreads, 0, stream>>>(sizes, num_segments, offsets);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    scatter_to_groups<kShared, kGroupingThreads, kSharedSegments>
        <<<blocks, kGroupingThreads, 0, stream>>>(ids, n, num_segments, sizes, reserved, offsets, columns);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (shared) {
    group(std::true_type{});
  } else {
    group(std::false_type{});
  }
  // a group to each warp, but fewer to a block while that leaves multiprocessors without one
  const int64_t spread = ceil_div(num_segments * num_tasks, 4 * num_multiprocessors());
  const auto groups = static_cast<unsigned>(min_of<int64_t>(kSortingWarps, spread));
  const dim3 grid(grid_x(op, 2 * ceil_div(num_segments, groups)), static_cast<unsigned>(num_tasks));
  const unsigned k = static_cast<unsigned>(num_segments);
  if (n / num_segments < kLargeGroup) {
    otsu_of_groups<T, kThreads, warp_keys, kCapacity, kLevelBits>
        <<<grid, kThreads, 0, stream>>>(offsets, num_tasks, k, groups, num_bins, tasks);
  } else {
    otsu_of_groups<T, kLargeGroupThreads, warp_keys, kCapacity, kLevelBits>
        <<<grid, kLargeGroupThreads, 0, stream>>>(offsets, num_tasks, k, groups, num_bins, tasks);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
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
