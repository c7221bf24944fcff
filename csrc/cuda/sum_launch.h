// Launching sum.cuh.
#pragma once

#include "launch.h"
#include "sum.cuh"

namespace mlc::cuda {

// Blocks of a kernel that strides over n units of work and leaves a partial sum of each block.
inline unsigned summed_blocks(int64_t n, int threads) {
  return static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>(ceil_div(n, threads), kMaxSummedBlocks)));
}

template <typename T>
void launch_add_partial_sums(const double* partial, unsigned n, T* out, cudaStream_t stream) {
  add_partial_sums<<<1, kSumThreads, 0, stream>>>(partial, static_cast<int>(n), out);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace mlc::cuda
