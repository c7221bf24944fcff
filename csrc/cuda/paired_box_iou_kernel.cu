#include "paired_box_iou.cuh"

#include "launch.h"

namespace mlc::cuda {
namespace {

constexpr int kThreads = 256;

Tensor paired_box_iou(const Tensor& boxes1, const Tensor& boxes2, bool generalized) {
  check_paired_box_iou("paired_box_iou", boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor a = vector_aligned(boxes1), b = vector_aligned(boxes2);
  const int64_t n = a.size(0);
  Tensor out = new_empty(boxes1, {n}, boxes1.scalar_type());
  if (n == 0) return out;
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    paired_box_iou_kernel<compute_t<scalar_t>><<<strided_blocks(n, kThreads), kThreads, 0, current_stream(boxes1)>>>(
        a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(), n, generalized, out.mutable_data_ptr<scalar_t>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor> paired_box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                                   bool generalized, bool first, bool second) {
  constexpr const char* op = "paired_box_iou_backward";
  check_paired_box_iou_backward(op, grad, boxes1, boxes2);
  const DeviceGuard guard(boxes1.get_device_index());
  const Tensor a = vector_aligned(boxes1), b = vector_aligned(boxes2);
  const int64_t n = a.size(0);
  Tensor grad1 = new_empty(boxes1, {first ? n : 0, 4}, boxes1.scalar_type());
  Tensor grad2 = new_empty(boxes1, {second ? n : 0, 4}, boxes1.scalar_type());
  if (n == 0 || !(first || second)) return {grad1, grad2};
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto kernel = !second  ? paired_box_iou_backward_kernel<T, true, false, scalar_t>
                        : !first ? paired_box_iou_backward_kernel<T, false, true, scalar_t>
                                 : paired_box_iou_backward_kernel<T, true, true, scalar_t>;
    kernel<<<strided_blocks(n, kThreads), kThreads, 0, current_stream(boxes1)>>>(
        grad.const_data_ptr<scalar_t>(), grad.stride(0), a.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(), n,
        generalized, first ? grad1.mutable_data_ptr<scalar_t>() : nullptr,
        second ? grad2.mutable_data_ptr<scalar_t>() : nullptr);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad1, grad2};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("paired_box_iou", TORCH_BOX(&mlc::cuda::paired_box_iou));
  m.impl("paired_box_iou_backward", TORCH_BOX(&mlc::cuda::paired_box_iou_backward));
}
