#include "mutual_labels.cuh"

#include "otsu_launch.h"

namespace mlc::cuda {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs mutual_labels(const Tensor& scores, const Tensor& ious, const Tensor& candidate_gt,
                      const Tensor& baseline_labels, int64_t num_gts, double alpha, bool literal,
                      std::optional<int64_t> bins) {
  constexpr const char* op = "mutual_labels";
  constexpr int threads = 256;
  check_mutual_labels(op, scores, ious, candidate_gt, baseline_labels, num_gts, alpha, bins);
  const DeviceGuard guard(scores.get_device_index());
  const Tensor scores_c = torch::stable::contiguous(scores), ious_c = torch::stable::contiguous(ious);
  const Tensor ids_c = torch::stable::contiguous(candidate_gt);
  const Tensor baseline_c = torch::stable::contiguous(baseline_labels);
  const int64_t n = scores_c.numel();
  const int64_t* ids = ids_c.const_data_ptr<int64_t>();
  const ScalarType dtype = scores.scalar_type();
  Tensor cls_labels = new_empty(scores, {n}, ScalarType::Char), loc_labels = new_empty(scores, {n}, ScalarType::Char);
  Tensor cls_weights = new_empty(scores, {n}, dtype), loc_weights = new_empty(scores, {n}, dtype);
  Tensor score_thresholds = new_empty(scores, {num_gts}, dtype);
  Tensor iou_thresholds = new_empty(scores, {num_gts}, dtype);
  Tensor judged_by = new_empty(scores, {num_gts, 2}, dtype);
  const cudaStream_t stream = current_stream(scores);
  dispatch_floating(dtype, [&](auto tag) {
    using scalar_t = decltype(tag);
    OtsuTasks<scalar_t> tasks{};
    tasks.task[0] = {scores_c.const_data_ptr<scalar_t>(), nullptr, score_thresholds.mutable_data_ptr<scalar_t>()};
    tasks.task[1] = {ious_c.const_data_ptr<scalar_t>(), nullptr, iou_thresholds.mutable_data_ptr<scalar_t>()};
    tasks.judged_by = reinterpret_cast<ValuePair<scalar_t>*>(judged_by.mutable_data_ptr<scalar_t>());
    tasks.literal = literal;
    if (num_gts > 0) launch_otsu(op, scores, ids, n, num_gts, bins, tasks, 2, stream);
    if (n == 0) return;
    mutual_labels_kernel<compute_t<scalar_t>><<<strided_blocks(n, threads), threads, 0, stream>>>(
        tasks.task[0].values, tasks.task[1].values, ids, baseline_c.const_data_ptr<int8_t>(), n, num_gts,
        tasks.judged_by, alpha,
        MutualOutputs<scalar_t>{cls_labels.mutable_data_ptr<int8_t>(), loc_labels.mutable_data_ptr<int8_t>(),
                                cls_weights.mutable_data_ptr<scalar_t>(), loc_weights.mutable_data_ptr<scalar_t>()});
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {cls_labels, loc_labels, cls_weights, loc_weights, score_thresholds, iou_thresholds};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("mutual_labels", TORCH_BOX(&mlc::cuda::mutual_labels)); }
