#include "iou_loss.cuh"

#include "sum_launch.h"

namespace mlc::cuda {
namespace {

constexpr int kThreads = 256;

// Contiguous tensors of the operator, as the kernels take them.
struct IouLossTensors {
  Tensor boxes, targets;
  std::optional<Tensor> weights;

  IouLossTensors(const Tensor& a, const Tensor& b, const std::optional<Tensor>& w)
      : boxes(vector_aligned(a)), targets(vector_aligned(b)), weights(contiguous(w)) {}

  template <typename scalar_t, typename T = compute_t<scalar_t>>
  IouLossInputs<T, scalar_t> inputs(int64_t kind, double eps) const {
    return {boxes.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(),
            data_or_null<T>(weights),         boxes.size(0),
            static_cast<IouLoss>(kind),       static_cast<T>(eps)};
  }
};

Tensor iou_loss(const Tensor& boxes, const Tensor& targets, const std::optional<Tensor>& weights, int64_t kind,
                double eps) {
  check_iou_loss("iou_loss", boxes, targets, weights, kind, eps);
  const DeviceGuard guard(boxes.get_device_index());
  const IouLossTensors tensors(boxes, targets, weights);
  const cudaStream_t stream = current_stream(boxes);
  Tensor out = new_empty(boxes, {}, compute_dtype(boxes.scalar_type()));
  const unsigned blocks = summed_blocks(boxes.size(0), kThreads);
  const Tensor partial = new_empty(boxes, {blocks}, ScalarType::Double);
  double* sums = partial.mutable_data_ptr<double>();
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    sum_iou_loss<kThreads><<<blocks, kThreads, 0, stream>>>(tensors.inputs<scalar_t>(kind, eps), sums);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    launch_add_partial_sums(sums, blocks, out.mutable_data_ptr<compute_t<scalar_t>>(), stream);
  });
  return out;
}

Tensor iou_loss_backward(const Tensor& grad, const Tensor& boxes, const Tensor& targets,
                         const std::optional<Tensor>& weights, int64_t kind, double eps) {
  check_iou_loss_backward("iou_loss_backward", grad, boxes, targets, weights, kind, eps);
  const DeviceGuard guard(boxes.get_device_index());
  const IouLossTensors tensors(boxes, targets, weights);
  const int64_t n = boxes.size(0);
  Tensor out = new_empty(boxes, {n, 4}, boxes.scalar_type());
  if (n == 0) return out;
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    iou_loss_gradient<kThreads><<<strided_blocks(n, kThreads), kThreads, 0, current_stream(boxes)>>>(
        tensors.inputs<scalar_t>(kind, eps), grad.const_data_ptr<compute_t<scalar_t>>(),
        out.mutable_data_ptr<scalar_t>());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("iou_loss", TORCH_BOX(&mlc::cuda::iou_loss));
  m.impl("iou_loss_backward", TORCH_BOX(&mlc::cuda::iou_loss_backward));
}
