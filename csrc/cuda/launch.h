// What every launcher shares: grid sizes, aligned inputs, scratch memory.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../checks.h"

namespace mlc::cuda {

using torch::stable::accelerator::DeviceGuard;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Multiprocessors of the current device. Asked every time: a cache would have to know of several devices.
inline int num_multiprocessors() {
  int device = 0, count = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Blocks of a kernel that strides over n units of work: all of them, or `waves` of 8 blocks on every multiprocessor.
inline unsigned strided_blocks(int64_t n, int threads, int waves = 4) {
  return static_cast<unsigned>(
      std::max<int64_t>(1, std::min<int64_t>(ceil_div(n, threads), int64_t{8} * waves * num_multiprocessors())));
}

// A grid's x dimension, refused in words where CUDA would refuse it in a code.
inline unsigned grid_x(const char* op, int64_t blocks) {
  MLC_CHECK_VALUE(blocks <= INT32_MAX, op, "too large for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

// Contiguous and aligned for 16-byte accesses, copied only if it is not (a view that starts at an odd place).
inline Tensor vector_aligned(const Tensor& tensor) {
  Tensor result = torch::stable::contiguous(tensor);
  if (reinterpret_cast<std::uintptr_t>(result.const_data_ptr()) % 16 != 0) result = torch::stable::clone(result);
  return result;
}

template <typename scalar_t>
const scalar_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<scalar_t>() : nullptr;
}

// Scratch arrays in one allocation of torch's caching allocator: it belongs to the current stream and may be captured.
// reserve() all, allocate() once, then at() each.
class Workspace {
 public:
  template <typename T>
  size_t reserve(int64_t count) {
    const size_t offset = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return offset;
  }
  void allocate(const Tensor& like) {
    memory_ = new_empty(like, {static_cast<int64_t>(bytes_)}, ScalarType::Byte);
    base_ = memory_->mutable_data_ptr<uint8_t>();
  }
  template <typename T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  size_t bytes_ = 0;
  uint8_t* base_ = nullptr;
  std::optional<Tensor> memory_;
};

}  // namespace mlc::cuda
