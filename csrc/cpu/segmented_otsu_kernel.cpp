#include <atomic>

#include "grouping.h"
#include "otsu_threshold.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "segmented_otsu";

Tensor segmented_otsu(const Tensor& values, const Tensor& segment_ids, int64_t num_segments,
                      std::optional<int64_t> bins) {
  check_segments(kOp, segment_ids, "values", values, num_segments, bins);
  Tensor values_c = torch::stable::contiguous(values);
  Tensor ids_c = torch::stable::contiguous(segment_ids);
  const int64_t n = values_c.numel();
  const int64_t* ids = ids_c.const_data_ptr<int64_t>();
  Tensor thresholds = new_empty(values, {num_segments}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* in = values_c.const_data_ptr<scalar_t>();
    auto gathered = buffer<T>(n);
    const Groups groups = group_by_segment(kOp, "segment_ids", ids, n, num_segments, [&](int64_t i, int64_t position) {
      gathered[position] = static_cast<T>(in[i]);
    });
    scalar_t* out = thresholds.mutable_data_ptr<scalar_t>();
    std::atomic<bool> finite{true};
    for_each_group_with(
        groups, [&] { return OtsuThreshold<T>(static_cast<int>(bins.value_or(0))); },
        [&](OtsuThreshold<T>& otsu, int64_t k) {
          const OtsuSplit<T> split = otsu(gathered.get() + groups.begin(k), groups.size(k));
          if (!split.finite) finite = false;
          out[k] = static_cast<scalar_t>(split.threshold);
        });
    if (!finite) fail_not_finite(kOp, "values", in, ids, n);
  });
  return thresholds;
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("segmented_otsu", TORCH_BOX(&mlc::cpu::segmented_otsu)); }
