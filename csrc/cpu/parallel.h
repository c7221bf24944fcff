// Splitting CPU work over torch's threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "../stable.h"

namespace mlc::cpu {

// Uninitialized storage; vector would clear it.
template <typename T>
std::unique_ptr<T[]> buffer(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n > 0 ? n : 1)]);
}

// Chunks worth starting for n units of work, at least `grain` of them each.
inline int64_t num_chunks(int64_t n, int64_t grain) {
  int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  return std::max<int64_t>(1, std::min(threads, n / std::max<int64_t>(grain, 1)));
}

// fn(chunk, begin, end) for [0, n) cut in `chunks` equal pieces. fn must not throw.
template <typename Fn>
void for_chunks(int64_t n, int64_t chunks, const Fn& fn) {
  auto run = [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) fn(c, n * c / chunks, n * (c + 1) / chunks);
  };
  if (chunks <= 1) return fn(0, 0, n);  // also where n = 0: some callers prepare their chunk's share in fn
  torch::stable::parallel_for(0, chunks, 1, run);
}

// fn(block, begin, count) for [0, n) in blocks of kSize, the last one shorter. A thread takes at least `grain` blocks.
template <int64_t kSize, typename Fn>
void for_blocks(int64_t n, int64_t grain, const Fn& fn) {
  const int64_t blocks = (n + kSize - 1) / kSize;
  for_chunks(blocks, num_chunks(blocks, grain), [&](int64_t, int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) fn(b, b * kSize, std::min(kSize, n - b * kSize));
  });
}

// The sum of fn(begin, count) over these blocks, added in their order: it does not depend on the number of threads.
template <int64_t kSize, typename Fn>
double sum_of_blocks(int64_t n, int64_t grain, const Fn& fn) {
  const int64_t blocks = (n + kSize - 1) / kSize;
  const auto partial = buffer<double>(blocks);
  for_blocks<kSize>(n, grain, [&](int64_t b, int64_t begin, int64_t count) { partial[b] = fn(begin, count); });
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

// The smallest index seen by any chunk, for errors that are reported after the loop; `none` if there was none.
class FirstIndex {
 public:
  static constexpr int64_t none = INT64_MAX;
  explicit FirstIndex(int64_t chunks) : first_(buffer<int64_t>(chunks)), chunks_(chunks) {
    std::fill_n(first_.get(), chunks, none);
  }
  void report(int64_t chunk, int64_t index) { first_[chunk] = std::min(first_[chunk], index); }
  int64_t get() const { return *std::min_element(first_.get(), first_.get() + chunks_); }

 private:
  std::unique_ptr<int64_t[]> first_;
  int64_t chunks_;
};

}  // namespace mlc::cpu
