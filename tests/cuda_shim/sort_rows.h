// sort.cuh's sorts through the shim: tiles small enough that small cases are merged.
#pragma once

#include "cuda_shim.h"

#include "../../csrc/cuda/sort.cuh"

namespace cuda_shim {

constexpr int kSortThreads = 64, kSortTile = 128;

template <typename Entry, typename Source>
std::vector<Entry> sort_rows(const Source& source, int64_t rows, unsigned n) {
  using namespace mlc::cuda;
  std::vector<Entry> buffer(rows * n), other(rows * n);
  const unsigned tiles = (n + kSortTile - 1) / kSortTile;
  launch(rows * tiles, kSortThreads,
         [&] { sort_tiles<kSortThreads, kSortTile, Entry>(source, n, tiles, buffer.data()); });
  for (unsigned width = kSortTile; width < n; width *= 2) {
    launch(3, kSortThreads, [&] { merge_runs<Entry>(buffer.data(), rows, n, width, other.data()); });
    buffer.swap(other);
  }
  return buffer;
}

}  // namespace cuda_shim
