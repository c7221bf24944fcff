// Sorting rows of entries: tiles in shared memory, then merges of neighboring runs. The launches depend on the row
// length alone, so a sort can be captured in a graph.
//
// An entry has operator<, a total order but for Entry::none(), which is behind all others. Rows have less than 2^31
// entries.
#pragma once

#include "block.cuh"

namespace mlc::cuda {

constexpr unsigned kNoIndex = 0xffffffffu;

// Ordered by key, then by index.
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

template <typename Entry>
constexpr int kSortTile = 32768 / static_cast<int>(sizeof(Entry));

// One block a tile, `tiles` of them a row; source(row, i) makes entry i.
template <int kThreads, int kTile, typename Entry, typename Source>
__global__ void __launch_bounds__(kThreads)
    sort_tiles(const Source source, unsigned n, unsigned tiles, Entry* __restrict__ out) {
  __shared__ Entry keys[kTile];
  const int64_t row = blockIdx.x / tiles;
  const unsigned begin = blockIdx.x % tiles * kTile;
  const unsigned size = n - begin < kTile ? n - begin : kTile, padded = next_power_of_two(size);
  for (unsigned i = threadIdx.x; i < padded; i += kThreads) {
    keys[i] = i < size ? source(row, begin + i) : Entry::none();
  }
  block_sort<kThreads>(keys, padded);
  for (unsigned i = threadIdx.x; i < size; i += kThreads) out[row * n + begin + i] = keys[i];
}

// Merges sorted runs of `width`, a power of two, in pairs: an entry's place is its own rank and its rank in the other
// run.
template <typename Entry>
__global__ void merge_runs(const Entry* __restrict__ in, int64_t rows, unsigned n, unsigned width,
                           Entry* __restrict__ out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < rows * n; e += stride) {
    const int64_t row = e / n * n, i = e - row;
    const Entry mine = in[e];
    const int64_t pair = i & -(2 * int64_t{width});
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

// How many of 0 .. limit - 1 are alike, given that all alike ones come first: doubling steps, then halving ones, so
// that a short answer is a quick one. limit < 2^31.
template <typename Alike>
__device__ __forceinline__ unsigned count_alike(unsigned limit, const Alike& alike) {
  unsigned low = 0, step = 1;  // all below low are alike
  while (low + step <= limit && alike(low + step - 1)) {
    low += step;
    step *= 2;
  }
  unsigned high = low + step - 1 < limit ? low + step - 1 : limit;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    if (alike(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace mlc::cuda
