#include "topk_alignment.cuh"

#include "launch.h"

namespace mlc::cuda {
namespace {

std::tuple<Tensor, Tensor> topk_alignment(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& gt_image,
                                          const std::optional<Tensor>& logits, const std::optional<Tensor>& columns,
                                          int64_t k, double alpha, double beta) {
  constexpr const char* op = "topk_alignment";
  check_topk_alignment(op, boxes, gt_boxes, gt_image, logits, columns, k, alpha, beta);
  const DeviceGuard guard(boxes.get_device_index());
  const Tensor boxes_c = vector_aligned(boxes), gts_c = vector_aligned(gt_boxes);
  const Tensor image_c = torch::stable::contiguous(gt_image);
  const std::optional<Tensor> logits_c = contiguous(logits), columns_c = contiguous(columns);
  const int64_t num_gts = gts_c.size(0), num_classes = logits_c.has_value() ? logits_c->size(2) : 0;
  Tensor metrics = new_empty(boxes, {num_gts, k}, boxes.scalar_type());
  Tensor priors = new_empty(boxes, {num_gts, k}, ScalarType::Long);
  if (num_gts == 0) return {metrics, priors};
  constexpr int threads = 256;
  const unsigned grid = grid_x(op, num_gts);
  const cudaStream_t stream = current_stream(boxes);
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto launch = [&](const auto* logit) {
      topk_alignment_kernel<T, threads><<<grid, threads, 0, stream>>>(
          boxes_c.const_data_ptr<scalar_t>(), boxes_c.size(0), boxes_c.size(1), gts_c.const_data_ptr<scalar_t>(),
          image_c.const_data_ptr<int64_t>(), logit, data_or_null<int64_t>(columns_c), num_classes, static_cast<int>(k),
          AlignmentRule<T>::of(alpha, beta), metrics.mutable_data_ptr<scalar_t>(), priors.mutable_data_ptr<int64_t>());
    };
    if (!logits_c.has_value()) return launch(static_cast<const float*>(nullptr));
    dispatch_floating(logits_c->scalar_type(),
                      [&](auto logit_tag) { launch(logits_c->const_data_ptr<decltype(logit_tag)>()); });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {metrics, priors};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("topk_alignment", TORCH_BOX(&mlc::cuda::topk_alignment)); }
