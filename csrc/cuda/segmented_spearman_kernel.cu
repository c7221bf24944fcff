#include "segmented_spearman.cuh"

#include "sort_launch.h"

namespace mlc::cuda {
namespace {

constexpr const char* kOp = "segmented_spearman";
constexpr int kThreads = 256;

template <typename scalar_t>
void launch(const Tensor& x, const Tensor& y, const Tensor& ids, int64_t num_segments, const SpearmanOutputs& out) {
  using T = compute_t<scalar_t>;
  using Entry = GroupedEntry<T>;
  const unsigned n = static_cast<unsigned>(x.numel());
  const cudaStream_t stream = current_stream(x);
  Workspace workspace;
  const SortBuffers<Entry> sort_buffers(workspace, 2, n);
  const size_t ranks_at = workspace.reserve<int>(n);
  const size_t sums_at = workspace.reserve<AtomicRankSums>(num_segments);
  const size_t bounds_at = workspace.reserve<unsigned>(2 * num_segments);
  const size_t end = workspace.reserve<unsigned char>(0);
  workspace.allocate(x);
  auto* sums = workspace.at<AtomicRankSums>(sums_at);
  auto* bound = workspace.at<unsigned>(bounds_at);
  const GroupBounds bounds{bound, bound + num_segments};
  STD_CUDA_CHECK(cudaMemsetAsync(sums, 0, end - sums_at, stream));  // and the bounds behind them

  const Entry* columns = nullptr;
  if (n > 0) {
    const ByGroupAndValue<T, scalar_t> source{x.const_data_ptr<scalar_t>(), y.const_data_ptr<scalar_t>(),
                                              ids.const_data_ptr<int64_t>(), num_segments};
    columns = sort_rows(kOp, source, 2, n, workspace, sort_buffers, stream);
    int* ranks = workspace.at<int>(ranks_at);
    const unsigned blocks = strided_blocks(n, kThreads);
    find_group_bounds<<<blocks, kThreads, 0, stream>>>(columns, n, bounds);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    rank_column<<<blocks, kThreads, 0, stream>>>(columns, n, bounds, ranks);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    // fewer warps with longer slices: each adds to memory at its end
    add_rank_products<<<strided_blocks(n, kThreads, 1), kThreads, 0, stream>>>(columns + n, n, bounds, ranks, sums);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  correlate_groups<<<strided_blocks(num_segments, kThreads), kThreads, 0, stream>>>(columns, columns + n, num_segments,
                                                                                    bounds, sums, out);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> segmented_spearman(const Tensor& x, const Tensor& y, const Tensor& segment_ids,
                                              int64_t num_segments) {
  check_segmented_spearman(kOp, x, y, segment_ids, num_segments);
  const DeviceGuard guard(x.get_device_index());
  MLC_CHECK_VALUE(x.numel() < INT32_MAX, kOp, "at most 2^31 - 2 pairs are supported on CUDA, got ", x.numel());
  MLC_CHECK_VALUE(num_segments <= UINT32_MAX, kOp, "at most 2^32 - 1 groups are supported on CUDA, got ", num_segments);
  const Tensor x_c = torch::stable::contiguous(x), y_c = torch::stable::contiguous(y);
  const Tensor ids_c = torch::stable::contiguous(segment_ids);
  Tensor rho = new_empty(x, {num_segments}, ScalarType::Double);
  Tensor sizes = new_empty(x, {num_segments}, ScalarType::Long);
  if (num_segments == 0) return {rho, sizes};
  const SpearmanOutputs out{rho.mutable_data_ptr<double>(), sizes.mutable_data_ptr<int64_t>()};
  dispatch_floating(x.scalar_type(), [&](auto tag) { launch<decltype(tag)>(x_c, y_c, ids_c, num_segments, out); });
  return {rho, sizes};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("segmented_spearman", TORCH_BOX(&mlc::cuda::segmented_spearman)); }
