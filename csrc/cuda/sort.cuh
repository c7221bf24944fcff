// Sorting rows of keys that carry an index: tiles in shared memory, then merges of neighbouring runs. The launches
// depend on the row length alone, so a sort can be captured in a graph.
#pragma once

#include "block.cuh"

namespace mlc::cuda {

constexpr unsigned kNoIndex = 0xffffffffu;

// Ordered by key, then by index. Rows have less than 2^31 entries.
template <typename Key>
struct alignas(2 * sizeof(Key)) Ranked {
  Key key;
  unsigned index;
  __device__ __forceinline__ bool operator<(const Ranked& other) const {
    return key < other.key || (key == other.key && index < other.index);
  }
  // Behind every entry.
  static __device__ __forceinline__ Ranked none() { return {static_cast<Key>(~Key{0}), kNoIndex}; }
};

template <typename Key>
constexpr int kSortTile = 32768 / static_cast<int>(sizeof(Ranked<Key>));

// One block a tile, `tiles` of them a row; source(row, i) makes entry i.
template <int kThreads, int kTile, typename Key, typename Source>
__global__ void __launch_bounds__(kThreads)
    sort_tiles(const Source source, unsigned n, unsigned tiles, Ranked<Key>* __restrict__ out) {
  __shared__ Ranked<Key> keys[kTile];
  const int64_t row = blockIdx.x / tiles;
  const unsigned begin = blockIdx.x % tiles * kTile;
  const unsigned size = n - begin < kTile ? n - begin : kTile, padded = next_power_of_two(size);
  for (unsigned i = threadIdx.x; i < padded; i += kThreads) {
    keys[i] = i < size ? source(row, begin + i) : Ranked<Key>::none();
  }
  block_sort<kThreads>(keys, padded);
  for (unsigned i = threadIdx.x; i < size; i += kThreads) out[row * n + begin + i] = keys[i];
}

// Merges sorted runs of `width` in pairs: an entry's place is its own rank and its rank in the other run.
template <typename Key>
__global__ void merge_runs(const Ranked<Key>* __restrict__ in, int64_t rows, unsigned n, unsigned width,
                           Ranked<Key>* __restrict__ out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < rows * n; e += stride) {
    const int64_t row = e / n * n, i = e - row;
    const Ranked<Key> mine = in[e];
    const int64_t pair = i / (2 * int64_t{width}) * (2 * int64_t{width});
    const int64_t middle = pair + width < n ? pair + width : n;
    const int64_t end = pair + 2 * int64_t{width} < n ? pair + 2 * int64_t{width} : n;
    const bool left = i < middle;
    int64_t low = left ? middle : pair, high = left ? end : middle;
    const int64_t other = low;
    while (low < high) {
      const int64_t probe = (low + high) / 2;
      // equals (only `none`s) of the left run come first
      if (left ? in[row + probe] < mine : !(mine < in[row + probe])) {
        low = probe + 1;
      } else {
        high = probe;
      }
    }
    out[row + (left ? i : i - middle + pair) + (low - other)] = mine;
  }
}

}  // namespace mlc::cuda
