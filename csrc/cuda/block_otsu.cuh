// The Otsu threshold of a group that is too large for a warp, by one block; the rule is csrc/otsu.h.
//
// The values are counted and summed by levels of q, as in csrc/cpu/otsu_threshold.h. The cuts between levels are
// evaluated at once. A cut inside a level can be the best one only if the midpoint of the two class means falls into
// the level. Runs of such levels, usually one to three, are collected and sorted. A level with too many values for that
// (heavy tails) is divided into finer levels, down to single values of q, which contain no cut. No group needs a full
// sort in memory.
#pragma once

#include "otsu_cut.cuh"

namespace mlc::cuda {

template <typename scalar_t, int kCapacity, int kLevelBits>
struct OtsuScratch {
  static constexpr int kLevels = (1 << kLevelBits) + 1;  // q may equal 2^top_bit
  int64_t run[kCapacity];
  unsigned count[kLevels + 1];                           // of a level; later of all levels of the window before it
  unsigned sum_low[kLevels + 1], sum_high[kLevels + 1];  // likewise, of q, in words: their atomics are native
  unsigned char kept[kLevels];                           // whether the level can hold the best cut inside
  unsigned collected;
  // in shared memory to leave registers free:
  GroupValues<scalar_t> values;
  double low, high;  // of the values
  OtsuGrid grid;
  OtsuMean mean;
  int64_t total;       // of q
  int64_t begin, end;  // the window of levels
  int shift;
  OtsuSum below;  // the window
};

// q of a value, inside the grid even if the value is not finite (whose result is unspecified, but must do no harm).
__device__ __forceinline__ int64_t grid_place(const OtsuGrid& grid, double value) {
  const int64_t q = grid(value), last = int64_t{1} << grid.top_bit;
  return q < 0 ? 0 : (q > last ? last : q);
}

// By one whole block. Group sizes below 2^32.
template <typename T, typename scalar_t, int kThreads, int kCapacity, int kLevelBits>
class BlockOtsu {
 public:
  using Scratch = OtsuScratch<scalar_t, kCapacity, kLevelBits>;

  __device__ BlockOtsu(Scratch& scratch, const GroupValues<scalar_t>& values) : s_(scratch), best_{-1.0, INT64_MAX} {
    __syncthreads();  // the group before may still be read
    if (threadIdx.x == 0) s_.values = values;
    __syncthreads();
  }

  __device__ OtsuResult<T> operator()(int bins) {
    const auto smaller = [](T a, T b) { return b < a ? b : a; };
    const auto larger = [](T a, T b) { return b > a ? b : a; };
    const GroupValues<scalar_t> values = s_.values;
    T low = static_cast<T>(values[0]), high = low;
    for (int64_t i = threadIdx.x; i < values.size; i += kThreads) {
      const T value = static_cast<T>(values[i]);
      low = smaller(low, value);
      high = larger(high, value);
    }
    low = block_reduce<kThreads>(low, smaller);
    high = block_reduce<kThreads>(high, larger);
    if (low == high) return {low + T(0), high};  // -0 becomes 0
    if (threadIdx.x == 0) {
      s_.low = low;
      s_.high = high;
      s_.grid = OtsuGrid(s_.low, s_.high, values.size, bins);
      s_.below = {0, 0};
      s_.end = 0;
      next_window();
    }
    __syncthreads();
    judge_by_levels();
    const int64_t q = block_reduce<kThreads>(best_, better_cut<int64_t>).last;
    T last = static_cast<T>(s_.low);
    for_each_place([&](int64_t place, T value) {
      if (place <= q) last = larger(last, value);
    });
    last = block_reduce<kThreads>(last, larger);
    return {static_cast<T>(s_.grid.threshold(static_cast<double>(last))), static_cast<T>(s_.high)};
  }

 private:
  static constexpr int kLevels = Scratch::kLevels;

  // fn(q, value) of this thread's share of the values.
  template <typename Fn>
  __device__ __forceinline__ void for_each_place(const Fn& fn) const {
    constexpr int kBatch = kThreads > 256 ? 4 : 1;  // large blocks are few: more loads at a time instead
    const GroupValues<scalar_t> values = s_.values;
    const OtsuGrid& grid = s_.grid;
#pragma unroll 1
    for (int64_t first = threadIdx.x; first < values.size; first += kBatch * kThreads) {
      T batch[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        batch[b] = static_cast<T>(values[min_of<int64_t>(first + b * kThreads, values.size - 1)]);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (first + b * kThreads < values.size) fn(grid_place(grid, static_cast<double>(batch[b])), batch[b]);
      }
    }
  }

  // Sorts s_.run and offers every cut inside it, given what lies below it. A barrier must come before s_.run changes.
  __device__ void judge_run(unsigned size, OtsuSum below) {
    const unsigned padded = next_power_of_two(size);
    for (unsigned i = size + threadIdx.x; i < padded; i += kThreads) s_.run[i] = INT64_MAX;
    block_sort<kThreads>(s_.run, padded);
    const unsigned each = (size + kThreads - 1) / kThreads;
    const unsigned begin = min_of(threadIdx.x * each, size), end = min_of(begin + each, size);
    OtsuSum mine{static_cast<int64_t>(end - begin), 0}, total;
    for (unsigned i = begin; i < end; ++i) mine.sum += s_.run[i];
    below += block_exclusive_sum<kThreads>(mine, total);
#pragma unroll 1
    for (unsigned i = begin; i < end; ++i) {
      const int64_t q = s_.run[i];
      below += OtsuSum{1, q};
      if (i + 1 < size && s_.run[i + 1] != q) offer(below, q);
    }
  }
  __device__ __forceinline__ void offer(const OtsuSum& below, int64_t q) {
    best_.offer(otsu_objective(below.count, below.sum, s_.values.size, s_.mean), q);
  }

  // A window is a range of q divided into levels of 2^shift. It moves upwards over the grid; all cuts below it are
  // judged. Levels are aligned to their size: at the end of a fine window the coarsest one that may start there
  // follows.
  __device__ void judge_by_levels() {
    while (s_.begin < end_of_grid()) {
      const int levels = static_cast<int>(((s_.end - 1 - s_.begin) >> s_.shift) + 1);
      count_levels(levels);
      sum_levels(levels);
      if (threadIdx.x == 0 && s_.begin == 0 && s_.end == end_of_grid()) {
        s_.total = at(levels).sum;
        s_.mean = OtsuMean(s_.total, s_.values.size);
      }
      __syncthreads();
      judge_levels(levels);
      const int heavy = judge_kept_levels(levels);
      if (threadIdx.x == 0) {
        s_.below += at(heavy);
        if (heavy < levels) {
          divide_level(heavy);
        } else {
          next_window();
        }
      }
      __syncthreads();
    }
  }

  // By one thread. The window becomes one of its levels.
  __device__ __forceinline__ void divide_level(int level) {
    s_.begin = begin_of(level);
    s_.end = begin_of(1);
    s_.shift = finer(s_.shift);
  }
  // Likewise, the one behind.
  __device__ __forceinline__ void next_window() {
    s_.begin = s_.end;
    s_.end = end_of_grid();
    s_.shift = finer(s_.grid.top_bit);
    while (s_.begin < end_of_grid() && (s_.begin & ((int64_t{1} << s_.shift) - 1)) != 0) {
      s_.end = ((s_.begin >> s_.shift) + 1) << s_.shift;
      s_.shift = finer(s_.shift);
    }
  }
  __device__ __forceinline__ int64_t begin_of(int level) const {
    return s_.begin + (static_cast<int64_t>(level) << s_.shift);
  }
  __device__ __forceinline__ int64_t end_of_grid() const { return (int64_t{1} << s_.grid.top_bit) + 1; }
  static __device__ __forceinline__ int finer(int shift) { return shift > kLevelBits ? shift - kLevelBits : 0; }

  __device__ __forceinline__ OtsuSum at(int level) const {
    const u64 sum = static_cast<u64>(s_.sum_high[level]) << 32 | s_.sum_low[level];
    return {static_cast<int64_t>(s_.count[level]), static_cast<int64_t>(sum)};
  }
  __device__ __forceinline__ void put(int level, const OtsuSum& value) {
    s_.count[level] = static_cast<unsigned>(value.count);
    s_.sum_low[level] = static_cast<unsigned>(value.sum);
    s_.sum_high[level] = static_cast<unsigned>(value.sum >> 32);
  }
  __device__ __forceinline__ void add(int level, int64_t q) {
    atomicAdd(&s_.count[level], 1u);
    const unsigned low = static_cast<unsigned>(q);
    const unsigned carry = atomicAdd(&s_.sum_low[level], low) > ~low ? 1 : 0;
    const unsigned high = static_cast<unsigned>(q >> 32) + carry;
    if (high != 0) atomicAdd(&s_.sum_high[level], high);
  }

  __device__ void count_levels(int levels) {
    for (int level = threadIdx.x; level <= levels; level += kThreads) put(level, {0, 0});
    __syncthreads();
    const int64_t begin = s_.begin, end = s_.end;
    const int shift = s_.shift;
    for_each_place([&](int64_t q, T) {
      if (q >= begin && q < end) add(static_cast<int>((q - begin) >> shift), q);
    });
    __syncthreads();
  }

  // Turns the counts and sums of levels into those of all levels before, in place; [levels] is the window's.
  // A barrier must follow.
  __device__ void sum_levels(int levels) {
    const int each = (levels + kThreads - 1) / kThreads;
    const int begin = min_of(static_cast<int>(threadIdx.x) * each, levels), end = min_of(begin + each, levels);
    OtsuSum mine{0, 0}, total;
    for (int level = begin; level < end; ++level) mine += at(level);
    OtsuSum before = block_exclusive_sum<kThreads>(mine, total);
    for (int level = begin; level < end; ++level) {
      const OtsuSum here = at(level);
      put(level, before);
      before += here;
    }
    if (threadIdx.x == 0) put(levels, total);
  }

  // Offers the cut at the end of every level and notes which levels can hold the best one inside.
  __device__ void judge_levels(int levels) {
    const int64_t n = s_.values.size, total = s_.total;
    const double slack = midpoint_slack(s_.grid, n), step = static_cast<double>(int64_t{1} << s_.shift);
    for (int level = threadIdx.x; level < levels; level += kThreads) {
      OtsuSum before = s_.below, after = s_.below;
      before += at(level);
      after += at(level + 1);
      const bool populated = after.count > before.count;
      if (populated && after.count < n) offer(after, begin_of(level + 1) - 1);
      bool keep = false;
      if (s_.shift > 0 && after.count > before.count + 1) {
        const double floor = static_cast<double>(begin_of(level)), ceiling = floor + step;
        const double low_before = before.count > 0 ? ratio(before.sum, before.count) : floor;
        const double high_before = ratio(total - before.sum, n - before.count);
        const double low_after = ratio(after.sum, after.count);
        const double high_after = after.count < n ? ratio(total - after.sum, n - after.count) : ceiling;
        keep = low_before + high_before <= 2 * (ceiling + step + slack) &&
               low_after + high_after >= 2 * (floor - step - slack);
      }
      s_.kept[level] = keep ? 1 : 0;
    }
    __syncthreads();
  }

  // Judges the cuts inside kept levels, as many levels at once as fit; returns the first that does not, or `levels`.
  __device__ int judge_kept_levels(int levels) {
    for (int first = 0;;) {
      int from = levels;
      for (int level = first + threadIdx.x; level < levels; level += kThreads) {
        if (s_.kept[level]) {
          from = level;
          break;
        }
      }
      from = block_reduce<kThreads>(from, [](int a, int b) { return min_of(a, b); });
      if (from == levels) return levels;
      int to = from;
      for (int level = from + threadIdx.x; level < levels; level += kThreads) {
        if (s_.count[level + 1] - s_.count[from] > kCapacity) break;
        if (s_.kept[level]) to = level + 1;
      }
      to = block_reduce<kThreads>(to, [](int a, int b) { return max_of(a, b); });
      if (to == from) return from;

      const int64_t low = begin_of(from), high = begin_of(to);
      if (threadIdx.x == 0) s_.collected = 0;
      __syncthreads();
      for_each_place([&](int64_t q, T) {
        if (q >= low && q < high) s_.run[atomicAdd(&s_.collected, 1u)] = q;
      });
      OtsuSum base = s_.below;
      base += at(from);
      judge_run(s_.count[to] - s_.count[from], base);
      first = to;
    }
  }

  Scratch& s_;
  OtsuCut<int64_t> best_;  // this thread's
};

}  // namespace mlc::cuda
