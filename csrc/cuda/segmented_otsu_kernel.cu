#include "otsu_launch.h"

namespace mlc::cuda {
namespace {

Tensor segmented_otsu(const Tensor& values, const Tensor& segment_ids, int64_t num_segments,
                      std::optional<int64_t> bins) {
  constexpr const char* op = "segmented_otsu";
  check_segments(op, segment_ids, "values", values, num_segments, bins);
  const DeviceGuard guard(values.get_device_index());
  const Tensor values_c = torch::stable::contiguous(values), ids_c = torch::stable::contiguous(segment_ids);
  Tensor thresholds = new_empty(values, {num_segments}, values.scalar_type());
  if (num_segments == 0) return thresholds;
  dispatch_floating(values.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    OtsuTasks<scalar_t> tasks{};
    tasks.task[0].values = values_c.const_data_ptr<scalar_t>();
    tasks.task[0].thresholds = thresholds.mutable_data_ptr<scalar_t>();
    launch_otsu(op, values, ids_c.const_data_ptr<int64_t>(), values_c.numel(), num_segments, bins, tasks, 1,
                current_stream(values));
  });
  return thresholds;
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("segmented_otsu", TORCH_BOX(&mlc::cuda::segmented_otsu)); }
