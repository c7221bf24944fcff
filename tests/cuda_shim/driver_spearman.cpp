// segmented_spearman through the shim: tiles of 128 are merged, four warps share the sums.
#include "sort_rows.h"

#include "../../csrc/cuda/segmented_spearman.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace spearman_driver {

constexpr int kThreads = 64;

template <typename T>
void segmented_spearman(const T* x, const T* y, const int64_t* ids, int64_t count, int64_t segments,
                        SpearmanOutputs out) {
  using Entry = GroupedEntry<T>;
  const unsigned n = static_cast<unsigned>(count);
  const auto columns = cuda_shim::sort_rows<Entry>(ByGroupAndValue<T, T>{x, y, ids, segments}, 2, n);
  std::vector<unsigned> begin(segments, 0), end(segments, 0);
  std::vector<int> ranks(n);
  std::vector<AtomicRankSums> sums(segments, AtomicRankSums{});
  const GroupBounds bounds{begin.data(), end.data()};
  const Entry *sorted_x = columns.data(), *sorted_y = sorted_x + n;
  cuda_shim::launch(2, kThreads, [&] { find_group_bounds(sorted_x, n, bounds); });
  cuda_shim::launch(2, kThreads, [&] { rank_column(sorted_x, n, bounds, ranks.data()); });
  cuda_shim::launch(2, kThreads, [&] { add_rank_products(sorted_y, n, bounds, ranks.data(), sums.data()); });
  cuda_shim::launch(2, kThreads, [&] { correlate_groups(sorted_x, sorted_y, segments, bounds, sums.data(), out); });
}

// Every thread of four warps adds `each` to one sum.
void add_everywhere(__int128 each, AtomicSum& sum) {
  cuda_shim::launch(2, kThreads, [&] { sum.add(each); });
}

}  // namespace spearman_driver

extern "C" {

void shim_segmented_spearman_float(const float* x, const float* y, const int64_t* ids, int64_t n, int64_t segments,
                                   double* rho, int64_t* sizes) {
  spearman_driver::segmented_spearman(x, y, ids, n, segments, {rho, sizes});
}

void shim_segmented_spearman_double(const double* x, const double* y, const int64_t* ids, int64_t n, int64_t segments,
                                    double* rho, int64_t* sizes) {
  spearman_driver::segmented_spearman(x, y, ids, n, segments, {rho, sizes});
}

// The sum of 128 equal numbers of two words, as two words; and its nearest double.
void shim_atomic_sum(int64_t high, int64_t low, int64_t* words, double* nearest) {
  AtomicSum sum{};
  spearman_driver::add_everywhere(
      static_cast<__int128>(static_cast<unsigned __int128>(high) << 64 | static_cast<uint64_t>(low)), sum);
  words[0] = static_cast<int64_t>(sum.words[0]);
  words[1] = static_cast<int64_t>(sum.words[1]);
  *nearest = nearest_double(sum.value());
}
}
