// Sorting by one warp, in registers: no shared memory, no barrier.
//
// A normalized bitonic sort: to merge two sorted runs, the first is compared with the second in reverse order, so every
// comparison puts the smaller key first. Key i of a lane has the place lane * kKeys + i. Therefore most steps compare
// keys of one lane, in registers; 15 steps exchange keys between lanes, whatever the number of keys.
#pragma once

#include <math.h>

#include "block.cuh"

namespace mlc::cuda {

// For float each is one instruction, which returns the other operand if one is NaN.
__device__ __forceinline__ float lower_of(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ float upper_of(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double lower_of(double a, double b) { return b < a ? b : a; }
__device__ __forceinline__ double upper_of(double a, double b) { return b < a ? a : b; }

template <typename Key>
__device__ __forceinline__ void put_in_order(Key& first, Key& second) {
  const Key a = first, b = second;
  first = lower_of(a, b);
  second = upper_of(a, b);
}

// Sorts a bitonic sequence: one that rises and falls, or a rotation of such. kKeys = 2^k or 3 * 2^k.
template <int kKeys, typename Key>
__device__ __forceinline__ void sort_bitonic(Key* keys) {
  if constexpr (kKeys == 3) {
    put_in_order(keys[0], keys[1]);
    put_in_order(keys[1], keys[2]);
    put_in_order(keys[0], keys[1]);
  } else if constexpr (kKeys > 1) {
    static_assert(kKeys % 2 == 0, "kKeys is 2^k or 3 * 2^k");
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) put_in_order(keys[i], keys[kKeys / 2 + i]);
    sort_bitonic<kKeys / 2>(keys);
    sort_bitonic<kKeys / 2>(keys + kKeys / 2);
  }
}

// Sorts one lane's keys.
template <int kKeys, typename Key>
__device__ __forceinline__ void lane_sort(Key* keys) {
  if constexpr (kKeys % 2 == 0) {
    lane_sort<kKeys / 2>(keys);
    lane_sort<kKeys / 2>(keys + kKeys / 2);
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) put_in_order(keys[i], keys[kKeys - 1 - i]);
    sort_bitonic<kKeys / 2>(keys);
    sort_bitonic<kKeys / 2>(keys + kKeys / 2);
  } else {
    sort_bitonic<kKeys>(keys);
  }
}

// Ascending sort of a warp's 32 * kKeys keys: afterwards keys[i] of a lane is number lane * kKeys + i.
template <int kKeys, typename Key>
__device__ __forceinline__ void warp_sort(Key (&keys)[kKeys]) {
  lane_sort<kKeys>(keys);
#pragma unroll 1
  for (int width = 1; width < kWarpSize; width *= 2) {  // lanes of a sorted run
    const bool in_second = (lane_index() & width) != 0;
#pragma unroll
    for (int i = 0; i < (kKeys + 1) / 2; ++i) {
      const int mirror = kKeys - 1 - i;
      const Key other = __shfl_xor_sync(kFullWarp, keys[mirror], 2 * width - 1);
      const Key mirrored = __shfl_xor_sync(kFullWarp, keys[i], 2 * width - 1);
      keys[i] = (other < keys[i]) != in_second ? other : keys[i];
      if (mirror != i) keys[mirror] = (mirrored < keys[mirror]) != in_second ? mirrored : keys[mirror];
    }
#pragma unroll 1
    for (int distance = width / 2; distance > 0; distance /= 2) {
      const bool in_upper = (lane_index() & distance) != 0;
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        const Key other = __shfl_xor_sync(kFullWarp, keys[i], distance);
        keys[i] = (other < keys[i]) != in_upper ? other : keys[i];
      }
    }
    sort_bitonic<kKeys>(keys);
  }
}

}  // namespace mlc::cuda
