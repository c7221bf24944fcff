// A sum over a grid in a fixed order: every block leaves a partial sum, and one block adds these up.
#pragma once

#include "block.cuh"

namespace mlc::cuda {

// Of a grid that is summed over. Not the number of multiprocessors: the order of a sum must not depend on the GPU.
constexpr int kMaxSummedBlocks = 2048;
constexpr int kSumThreads = 256;

template <int kThreads>
__device__ __forceinline__ double block_sum(double value) {
  return block_reduce<kThreads>(value, [](double a, double b) { return a + b; });
}

// *out = the sum of partial [n]; one block.
template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    add_partial_sums(const double* __restrict__ partial, int n, T* __restrict__ out) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kSumThreads) sum += partial[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *out = static_cast<T>(sum);
}

}  // namespace mlc::cuda
