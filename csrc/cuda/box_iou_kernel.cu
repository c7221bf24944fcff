#include "box_iou.cuh"

#include "launch.h"

namespace mlc::cuda {
namespace {

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  constexpr const char* op = "box_iou";
  check_box_iou(op, boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor a = vector_aligned(boxes1), b = vector_aligned(boxes2);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor out = new_empty(boxes1, {n, m}, boxes1.scalar_type());
  if (n == 0 || m == 0) return out;
  constexpr int threads = 256, warps = threads / kWarpSize;
  const int64_t chunks = ceil_div(m, kBoxIouColumns * kWarpSize);
  // more rows share the columns' loads, fewer fill the GPU
  const int64_t rows = std::clamp<int64_t>(n * chunks / (int64_t{32} * num_multiprocessors()), 4, kWarpSize);
  const unsigned grid = grid_x(op, ceil_div(ceil_div(n, rows) * chunks, warps));
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    box_iou_kernel<compute_t<scalar_t>, threads><<<grid, threads, 0, current_stream(boxes1)>>>(
        a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(), n, m, static_cast<unsigned>(chunks),
        static_cast<int>(rows), out.mutable_data_ptr<scalar_t>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) { m.impl("box_iou", TORCH_BOX(&mlc::cuda::box_iou)); }
