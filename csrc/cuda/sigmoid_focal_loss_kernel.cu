#include "sigmoid_focal_loss.cuh"

#include "sum_launch.h"

namespace mlc::cuda {
namespace {

constexpr int kThreads = 256;

// Contiguous tensors of the operator, as the kernels take them.
struct FocalTensors {
  Tensor logits, labels;
  std::optional<Tensor> weights;

  FocalTensors(const Tensor& x, const Tensor& y, const std::optional<Tensor>& w)
      : logits(vector_aligned(x)), labels(torch::stable::contiguous(y)), weights(contiguous(w)) {}

  template <typename scalar_t, typename T = compute_t<scalar_t>>
  FocalInputs<T, scalar_t> inputs(double alpha, double gamma) const {
    return {logits.const_data_ptr<scalar_t>(),
            labels.const_data_ptr<int64_t>(),
            data_or_null<T>(weights),
            logits.numel(),
            static_cast<int>(logits.size(1)),
            static_cast<T>(1 - alpha),
            static_cast<T>(alpha),
            static_cast<T>(gamma)};
  }
};

// fn(whole, square) of the kernel's kind as constants.
template <typename scalar_t, typename Fn>
void dispatch_kind(int64_t columns, double gamma, const Fn& fn) {
  const bool whole = columns % kPackSize<scalar_t> == 0, square = gamma == 2;
  using yes = std::true_type;
  using no = std::false_type;
  if (whole) return square ? fn(yes{}, yes{}) : fn(yes{}, no{});
  return square ? fn(no{}, yes{}) : fn(no{}, no{});
}

Tensor sigmoid_focal_loss(const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& weights,
                          double alpha, double gamma) {
  constexpr const char* op = "sigmoid_focal_loss";
  check_sigmoid_focal_loss(op, logits, labels, weights, alpha, gamma);
  const DeviceGuard guard(logits.get_device_index());
  const FocalTensors tensors(logits, labels, weights);
  const cudaStream_t stream = current_stream(logits);
  Tensor out = new_empty(logits, {}, compute_dtype(logits.scalar_type()));
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto in = tensors.inputs<scalar_t>(alpha, gamma);
    const unsigned blocks = in.columns == 0 ? 0 : summed_blocks(ceil_div(in.numel, kPackSize<scalar_t>), kThreads);
    const Tensor partial = new_empty(logits, {blocks}, ScalarType::Double);
    double* sums = partial.mutable_data_ptr<double>();
    if (blocks > 0) {  // the kernel divides by the number of columns
      dispatch_kind<scalar_t>(in.columns, gamma, [&](auto whole, auto square) {
        sum_focal_loss<decltype(whole)::value, decltype(square)::value, kThreads>
            <<<blocks, kThreads, 0, stream>>>(in, sums);
      });
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    launch_add_partial_sums(sums, blocks, out.mutable_data_ptr<T>(), stream);
  });
  return out;
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                                   const std::optional<Tensor>& weights, double alpha, double gamma) {
  constexpr const char* op = "sigmoid_focal_loss_backward";
  check_sigmoid_focal_loss_backward(op, grad, logits, labels, weights, alpha, gamma);
  const DeviceGuard guard(logits.get_device_index());
  const FocalTensors tensors(logits, labels, weights);
  Tensor out = new_empty(logits, {logits.size(0), logits.size(1)}, logits.scalar_type());
  if (out.numel() == 0) return out;
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto in = tensors.inputs<scalar_t>(alpha, gamma);
    const unsigned blocks = strided_blocks(ceil_div(in.numel, kPackSize<scalar_t>), kThreads);
    dispatch_kind<scalar_t>(in.columns, gamma, [&](auto whole, auto square) {
      focal_gradient<decltype(whole)::value, decltype(square)::value, kThreads>
          <<<blocks, kThreads, 0, current_stream(logits)>>>(in, grad.const_data_ptr<T>(),
                                                            out.mutable_data_ptr<scalar_t>());
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&mlc::cuda::sigmoid_focal_loss));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&mlc::cuda::sigmoid_focal_loss_backward));
}
