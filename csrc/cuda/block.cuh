// What the threads of a warp or of a block do together. Every thread of the block must make these calls.
#pragma once

#include <cstdint>
#include <cstring>

namespace mlc::cuda {

using u64 = unsigned long long;  // what the 64-bit atomics take

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }

// __shfl_xor_sync and __shfl_up_sync for plain structs: word by word.
template <typename T>
__device__ __forceinline__ T shuffle_xor(const T& value, int mask) {
  static_assert(sizeof(T) % 4 == 0, "shuffled types are made of 32-bit words");
  unsigned words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (unsigned& word : words) word = __shfl_xor_sync(kFullWarp, word, mask);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}
template <typename T>
__device__ __forceinline__ T shuffle_up(const T& value, int distance) {
  static_assert(sizeof(T) % 4 == 0, "shuffled types are made of 32-bit words");
  unsigned words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (unsigned& word : words) word = __shfl_up_sync(kFullWarp, word, distance);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

// combine(...) of the warp's values, in every lane; combine is associative and commutative.
template <typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, const Combine& combine) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

// The largest value of the warp, in every lane: one instruction where there is one.
__device__ __forceinline__ unsigned warp_max(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kFullWarp, value);
#else
  return warp_reduce(value, [](unsigned a, unsigned b) { return a > b ? a : b; });
#endif
}
__device__ __forceinline__ u64 warp_max(u64 value) {
  return warp_reduce(value, [](u64 a, u64 b) { return a > b ? a : b; });
}

// The sum of the values of this lane and lower ones; T adds with +=.
template <typename T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const T lower = shuffle_up(value, distance);
    if (lane_index() >= distance) value += lower;
  }
  return value;
}

// warp_reduce over a block. Ends with a barrier: what was in shared memory before may be overwritten after.
template <int kThreads, typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, const Combine& combine) {
  constexpr int warps = kThreads / kWarpSize;
  __shared__ T partial[warps];
  value = warp_reduce(value, combine);
  if (lane_index() == 0) partial[warp_index()] = value;
  __syncthreads();
  value = partial[0];
#pragma unroll
  for (int w = 1; w < warps; ++w) value = combine(value, partial[w]);
  __syncthreads();
  return value;
}

// The sum of the values of lower threads, and in `total` of all; T adds with +=. Ends with a barrier.
template <int kThreads, typename T>
__device__ __forceinline__ T block_exclusive_sum(const T& value, T& total) {
  constexpr int warps = kThreads / kWarpSize;
  __shared__ T partial[warps];
  const T inclusive = warp_inclusive_sum(value);
  if (lane_index() == kWarpSize - 1) partial[warp_index()] = inclusive;
  T exclusive = shuffle_up(inclusive, 1);
  if (lane_index() == 0) exclusive = T{};
  __syncthreads();
  T below{};
  total = T{};
#pragma unroll
  for (int w = 0; w < warps; ++w) {
    if (w == warp_index()) below = total;
    total += partial[w];
  }
  __syncthreads();
  exclusive += below;
  return exclusive;
}

__device__ __forceinline__ unsigned next_power_of_two(unsigned n) {
  unsigned power = 1;
  while (power < n) power *= 2;
  return power;
}

// Ascending bitonic sort of size = 2^k keys in shared memory. A warp's 32 comparisons of a step touch 64 keys in a row,
// and the same ones in every step of distance <= 32: between those steps the warp alone has to wait.
// Begins and ends with a barrier.
template <int kThreads, typename Key>
__device__ void block_sort(Key* keys, unsigned size) {
  __syncthreads();
  for (unsigned block = 2; block <= size; block *= 2) {
    for (unsigned distance = block / 2; distance > 0; distance /= 2) {
      for (unsigned pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        const unsigned low = 2 * pair - (pair & (distance - 1)), high = low + distance;
        const Key a = keys[low], b = keys[high];
        const bool ascending = (low & block) == 0;
        if (ascending ? b < a : a < b) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      const unsigned next_distance = distance > 1 ? distance / 2 : block;
      if (distance > kWarpSize || next_distance > kWarpSize) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

}  // namespace mlc::cuda
