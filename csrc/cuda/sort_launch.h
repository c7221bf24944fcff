// Queueing the sort of sort.cuh.
#pragma once

#include <utility>

#include "launch.h"
#include "sort.cuh"

namespace mlc::cuda {

// Where a sort works: one array of rows * n entries, and a second one if rows are longer than a tile and so are merged
// from one to the other.
template <typename Entry>
struct SortBuffers {
  size_t at[2];
  SortBuffers(Workspace& workspace, int64_t rows, int64_t n)
      : at{workspace.reserve<Entry>(rows * n), workspace.reserve<Entry>(n > kSortTile<Entry> ? rows * n : 0)} {}
};

// Sorts `rows` rows of n entries that `source` makes, n > 0. The result lies in one of the buffers.
template <typename Entry, typename Source>
const Entry* sort_rows(const char* op, const Source& source, int64_t rows, unsigned n, const Workspace& workspace,
                       const SortBuffers<Entry>& buffers, cudaStream_t stream) {
  constexpr int sort_threads = 512, merge_threads = 256, tile = kSortTile<Entry>;
  Entry *sorted = workspace.at<Entry>(buffers.at[0]), *other = workspace.at<Entry>(buffers.at[1]);
  const unsigned tiles = static_cast<unsigned>(ceil_div(n, tile));
  sort_tiles<sort_threads, tile, Entry>
      <<<grid_x(op, rows * tiles), sort_threads, 0, stream>>>(source, n, tiles, sorted);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  for (unsigned width = tile; width < n; width *= 2) {
    merge_runs<Entry>
        <<<strided_blocks(rows * n, merge_threads), merge_threads, 0, stream>>>(sorted, rows, n, width, other);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    std::swap(sorted, other);
  }
  return sorted;
}

}  // namespace mlc::cuda
