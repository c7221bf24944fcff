// The NMS that rescored_nms is measured against: the textbook greedy loop over boxes sorted by score, every kept box
// against all behind it, as torchvision's CPU operator runs it. For benchmarks only.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

at::Tensor greedy_nms(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.scalar_type() == at::kFloat, "boxes: [N, 4] float32");
  const int64_t n = boxes.size(0);
  const at::Tensor columns = boxes.t().contiguous();
  const float* x1 = columns.const_data_ptr<float>();
  const float *y1 = x1 + n, *x2 = y1 + n, *y2 = x2 + n;
  const at::Tensor areas = (columns[2] - columns[0]) * (columns[3] - columns[1]);
  const float* area = areas.const_data_ptr<float>();
  const at::Tensor ranked = std::get<1>(scores.sort(/*stable=*/true, /*dim=*/0, /*descending=*/true));
  const int64_t* order = ranked.const_data_ptr<int64_t>();

  std::vector<unsigned char> dropped(n, 0);
  at::Tensor keep = at::empty({n}, boxes.options().dtype(at::kLong));
  int64_t* kept = keep.mutable_data_ptr<int64_t>();
  int64_t count = 0;
  for (int64_t r = 0; r < n; ++r) {
    const int64_t i = order[r];
    if (dropped[i]) continue;
    kept[count++] = i;
    for (int64_t later = r + 1; later < n; ++later) {
      const int64_t j = order[later];
      if (dropped[j]) continue;
      const float width = std::max(0.0f, std::min(x2[i], x2[j]) - std::max(x1[i], x1[j]));
      const float height = std::max(0.0f, std::min(y2[i], y2[j]) - std::max(y1[i], y1[j]));
      const float inter = width * height;
      if (inter / (area[i] + area[j] - inter) > threshold) dropped[j] = 1;
    }
  }
  return keep.narrow(0, 0, count);
}

}  // namespace

TORCH_LIBRARY(mlc_benchmarks, m) {
  m.def("greedy_nms(Tensor boxes, Tensor scores, float threshold) -> Tensor", greedy_nms);
}
