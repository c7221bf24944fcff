// All that the operators use of torch: its stable ABI, at the version that the build targets (TORCH_TARGET_VERSION),
// and a few functions on top of it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>
#include <tuple>

namespace mlc {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An uninitialized tensor of another shape and type on the device of `like`.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), dtype);
}

// The type a kernel computes in: half and bfloat16 widen to float.
template <typename scalar_t>
struct compute_type {
  using type = scalar_t;
};
template <>
struct compute_type<torch::headeronly::Half> {
  using type = float;
};
template <>
struct compute_type<torch::headeronly::BFloat16> {
  using type = float;
};
template <typename scalar_t>
using compute_t = typename compute_type<scalar_t>::type;
inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

// Calls fn with a value of the C++ type that belongs to dtype. The check functions have already refused the others.
template <typename Fn>
void dispatch_floating(ScalarType dtype, Fn&& fn) {
  switch (dtype) {
    case ScalarType::Float:
      return fn(float{});
    case ScalarType::Double:
      return fn(double{});
    case ScalarType::Half:
      return fn(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return fn(torch::headeronly::BFloat16{});
    default:
      throw std::runtime_error("dispatch_floating: unchecked dtype");
  }
}

#if defined(USE_CUDA) && defined(__CUDACC__)
// torch's current stream of the tensor's device, as the CUDA runtime wants it.
inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

}  // namespace mlc
