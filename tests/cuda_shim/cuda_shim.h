// Enough of CUDA to run csrc/cuda/*.cuh on the CPU: a std::thread for every thread of a block, one block after another,
// barriers for __syncthreads and the warp operations. It checks what a kernel computes and, under ThreadSanitizer, that
// its barriers suffice; it knows neither the GPU's memory model nor its speed.
//
// Kernels must be compiled with shared arrays as function statics (one block runs at a time) and may only use warp
// operations with a full mask. As on the GPU, a thread that leaves a kernel early must not be waited for.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

// Before the next line: torch's half types have device code of their own.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#define __CUDA_ARCH__ 900  // device code, not the host's part of a common rule
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_shim {

constexpr unsigned kWarpSize = 32;

struct Warp {
  std::barrier<> barrier{kWarpSize};
  uint64_t lanes[kWarpSize] = {};
};

struct Block {
  explicit Block(unsigned threads) : barrier(threads), warps(threads / kWarpSize) {}
  std::barrier<> barrier;
  std::vector<Warp> warps;
};

inline Block* block = nullptr;
inline Warp& warp() { return block->warps[threadIdx.x / kWarpSize]; }

// Every lane shows its value and reads the one of lane `source`.
template <typename T>
T exchange(T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  Warp& w = warp();
  std::memcpy(&w.lanes[threadIdx.x % kWarpSize], &value, sizeof(T));
  w.barrier.arrive_and_wait();
  T result;
  std::memcpy(&result, &w.lanes[source % kWarpSize], sizeof(T));
  w.barrier.arrive_and_wait();
  return result;
}

// kernel() on every thread of a grid of one-dimensional blocks, a multiple of 32 threads each.
template <typename Kernel>
void launch(dim3 grid, unsigned threads, const Kernel& kernel) {
  blockDim = dim3(threads);
  gridDim = grid;
  Block state(threads);
  block = &state;
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      threadIdx = dim3(t, 0, 0);
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, 0);
          kernel();
          state.barrier.arrive_and_wait();  // the next block gets the shared memory
        }
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  block = nullptr;
}

}  // namespace cuda_shim

// MLC_SHIM_WITHOUT_BARRIERS takes __syncthreads away, to show that ThreadSanitizer would find a missing one.
#ifdef MLC_SHIM_WITHOUT_BARRIERS
inline void __syncthreads() {}
#else
inline void __syncthreads() { cuda_shim::block->barrier.arrive_and_wait(); }
#endif
inline void __syncwarp(unsigned = ~0u) { cuda_shim::warp().barrier.arrive_and_wait(); }

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_shim::exchange(value, static_cast<unsigned>(lane));
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_shim::exchange(value, threadIdx.x ^ static_cast<unsigned>(mask));
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const unsigned lane = threadIdx.x % cuda_shim::kWarpSize, d = static_cast<unsigned>(distance);
  return cuda_shim::exchange(value, lane >= d ? lane - d : lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  cuda_shim::Warp& w = cuda_shim::warp();
  w.lanes[threadIdx.x % cuda_shim::kWarpSize] = predicate != 0;
  w.barrier.arrive_and_wait();
  unsigned result = 0;
  for (unsigned lane = 0; lane < cuda_shim::kWarpSize; ++lane) result |= static_cast<unsigned>(w.lanes[lane]) << lane;
  w.barrier.arrive_and_wait();
  return result;
}

inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  for (int mask = cuda_shim::kWarpSize / 2; mask > 0; mask /= 2)
    value = std::max(value, __shfl_xor_sync(~0u, value, mask));
  return value;
}

template <typename T>
T atomicAdd(T* address, T value) {
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}
template <typename T>
T atomicMax(T* address, T value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (old < value && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
}
template <typename T>
T atomicMin(T* address, T value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (value < old && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
}
template <typename T>
T atomicOr(T* address, T value) {
  return std::atomic_ref<T>(*address).fetch_or(value, std::memory_order_relaxed);
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
// The GPU's is one unit in the last place off at most: so is this one, either way.
inline float approximate_reciprocal(float b) {
  const float exact = 1.0f / b;
  uint32_t bits;
  std::memcpy(&bits, &b, sizeof(bits));
  return bits % 3 == 0 ? exact : std::nextafterf(exact, bits % 3 == 1 ? 0.0f : INFINITY);
}
