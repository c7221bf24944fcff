#include "match_boxes.cuh"

#include "launch.h"

namespace mlc::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> match_boxes(const Tensor& priors, const Tensor& gt_boxes, const Tensor& gt_offsets,
                                               const std::optional<Tensor>& crowd, double high, double low,
                                               int64_t forced, double min_forced_iou, double crowd_iof) {
  constexpr const char* op = "match_boxes";
  check_match_boxes(op, priors, gt_boxes, gt_offsets, crowd, high, low, forced, min_forced_iou, crowd_iof);
  const DeviceGuard guard(priors.get_device_index());
  const Tensor p = vector_aligned(priors), g = vector_aligned(gt_boxes);
  const Tensor offsets = torch::stable::contiguous(gt_offsets);
  const std::optional<Tensor> crowd_c = contiguous(crowd);
  const int64_t batch = offsets.size(0) - 1, num_priors = p.size(0), num_gts = g.size(0);
  Tensor labels = new_empty(priors, {batch, num_priors}, ScalarType::Char);
  Tensor matched = new_empty(priors, {batch, num_priors}, ScalarType::Long);
  Tensor ious = new_empty(priors, {batch, num_priors}, priors.scalar_type());
  if (batch == 0 || num_priors == 0) return {labels, matched, ious};
  constexpr int threads = 256;
  // a warp keeps its hull over several images where the blocks of fewer fill the GPU
  const int64_t blocks = ceil_div(num_priors, threads), num_warps = ceil_div(num_priors, kWarpSize);
  const int64_t images = std::min(batch, ceil_div(int64_t{32} * num_multiprocessors(), blocks));
  const dim3 grid(grid_x(op, blocks), static_cast<unsigned>(std::min<int64_t>(images, 65535)));
  const cudaStream_t stream = current_stream(priors);
  dispatch_floating(priors.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const MatchRule<T> rule{static_cast<T>(high), static_cast<T>(low), static_cast<T>(min_forced_iou),
                            static_cast<T>(crowd_iof), static_cast<Forced>(forced)};
    Workspace workspace;
    const size_t of_gt = workspace.reserve<iou_bits_t<T>>(num_gts);
    const size_t of_warp = workspace.reserve<iou_bits_t<T>>(batch * num_warps);
    const size_t hull_of_warp = workspace.reserve<T>(4 * num_warps);
    workspace.allocate(priors);
    const MatchBests<T> bests{workspace.at<iou_bits_t<T>>(of_gt), workspace.at<iou_bits_t<T>>(of_warp),
                              workspace.at<T>(hull_of_warp)};
    if (num_gts > 0) STD_CUDA_CHECK(cudaMemsetAsync(bests.of_gt, 0, num_gts * sizeof(T), stream));
    const scalar_t* prior = p.const_data_ptr<scalar_t>();
    const scalar_t* gt = g.const_data_ptr<scalar_t>();
    const int64_t* offset = offsets.const_data_ptr<int64_t>();
    int8_t* label = labels.mutable_data_ptr<int8_t>();
    int64_t* match = matched.mutable_data_ptr<int64_t>();
    const bool* is_crowd = data_or_null<bool>(crowd_c);
    match_best_kernel<T, threads><<<grid, threads, 0, stream>>>(prior, num_priors, gt, offset, batch, num_gts, is_crowd,
                                                                rule, bests, label, match,
                                                                ious.mutable_data_ptr<scalar_t>());
    if (rule.forced != Forced::kNone && num_gts > 0) {
      match_force_kernel<T, threads><<<grid, threads, 0, stream>>>(prior, num_priors, gt, offset, batch, num_gts,
                                                                   is_crowd, rule, bests, label, match);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {labels, matched, ious};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("match_boxes", TORCH_BOX(&mlc::cuda::match_boxes)); }
