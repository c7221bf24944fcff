// The Otsu threshold of one gathered group by a warp or by a block; the rule is csrc/otsu.h.
//
// All work is on the integers q. Up to 32 values: every lane ranks its own. Up to kCapacity: sorted in shared memory.
// More: counted and added up by levels of q, as csrc/cpu/otsu_threshold.h does; the cuts between levels are judged
// right there, and a cut inside a level can only win if the midpoint of the two class means falls into it. Runs of
// levels that can hold it, one to three as a rule, are collected and sorted. A level too heavy for that (heavy tails)
// is divided into finer levels in turn, down to single values of q, which hold no cut. Thus no group needs a full sort.
#pragma once

#include <math.h>

#include "../box_iou.h"
#include "../otsu.h"
#include "block.cuh"

namespace mlc::cuda {

// A cut after all values up to q. The larger objective wins, the first of equals.
struct OtsuCut {
  double objective;
  int64_t q;
  __device__ __forceinline__ void offer(double candidate, int64_t candidate_q) {
    if (candidate > objective || (candidate == objective && candidate_q < q)) {
      objective = candidate;
      q = candidate_q;
    }
  }
};

__device__ __forceinline__ OtsuCut better_cut(OtsuCut a, const OtsuCut& b) {
  a.offer(b.objective, b.q);
  return a;
}

// How many values, and their q added up.
struct OtsuSum {
  int64_t count, sum;
  __device__ __forceinline__ OtsuSum& operator+=(const OtsuSum& other) {
    count += other.count;
    sum += other.sum;
    return *this;
  }
};

template <typename T>
struct OtsuResult {
  T threshold;
  T largest;  // of the group: some value is above a threshold iff this one is
};

// q of a value, inside the grid even if the value is not finite (whose result is unspecified, but must do no harm).
__device__ __forceinline__ int64_t grid_place(const OtsuGrid& grid, double value) {
  const int64_t q = grid(value), last = int64_t{1} << grid.top_bit;
  return q < 0 ? 0 : (q > last ? last : q);
}

// By one whole warp: n <= 32.
template <typename T, typename scalar_t>
__device__ OtsuResult<T> warp_otsu(const scalar_t* values, int n, int bins) {
  const int lane = lane_index();
  const auto smaller = [](T a, T b) { return b < a ? b : a; };
  const auto larger = [](T a, T b) { return b > a ? b : a; };
  if (n == 0) return {static_cast<T>(NAN), static_cast<T>(NAN)};
  const T value = static_cast<T>(values[lane < n ? lane : 0]);
  const T low = warp_reduce(value, smaller), high = warp_reduce(value, larger);
  if (low == high) return {low + T(0), high};  // -0 becomes 0
  const OtsuGrid grid(static_cast<double>(low), static_cast<double>(high), n, bins);
  const int64_t q = grid_place(grid, static_cast<double>(value));
  int64_t below = 0, sum = 0, total = 0;
  for (int other = 0; other < n; ++other) {
    const int64_t other_q = __shfl_sync(kFullWarp, static_cast<long long>(q), other);
    total += other_q;
    if (other_q <= q) {
      ++below;
      sum += other_q;
    }
  }
  OtsuCut best{-1.0, INT64_MAX};
  if (lane < n && below < n) best.offer(otsu_objective(below, sum, n, OtsuMean(total, n)), q);
  best = warp_reduce(best, better_cut);
  const T last = warp_reduce(q <= best.q ? value : low, larger);
  return {static_cast<T>(grid.threshold(static_cast<double>(last))), high};
}

template <int kCapacity, int kLevelBits>
struct OtsuScratch {
  static constexpr int kLevels = (1 << kLevelBits) + 1;  // q may equal 2^top_bit
  int64_t run[kCapacity];
  unsigned count[kLevels + 1];  // of a level; later of all levels of the window before it
  unsigned sum_low[kLevels + 1], sum_high[kLevels + 1];  // likewise, of q, in words: their atomics are native
  unsigned char kept[kLevels];  // whether the level can hold the best cut inside
  unsigned collected;
};

// By one whole block. Group sizes below 2^32.
template <typename T, typename scalar_t, int kThreads, int kCapacity, int kLevelBits>
class BlockOtsu {
 public:
  using Scratch = OtsuScratch<kCapacity, kLevelBits>;

  __device__ BlockOtsu(Scratch& scratch, const scalar_t* values, int64_t n)
      : s_(scratch), values_(values), n_(n), best_{-1.0, INT64_MAX} {}

  __device__ OtsuResult<T> operator()(int bins) {
    const auto smaller = [](T a, T b) { return b < a ? b : a; };
    const auto larger = [](T a, T b) { return b > a ? b : a; };
    T low = static_cast<T>(values_[0]), high = low;
    for (int64_t i = threadIdx.x; i < n_; i += kThreads) {
      const T value = static_cast<T>(values_[i]);
      low = smaller(low, value);
      high = larger(high, value);
    }
    low = block_reduce<kThreads>(low, smaller);
    high = block_reduce<kThreads>(high, larger);
    if (low == high) return {low + T(0), high};  // -0 becomes 0
    const OtsuGrid grid(static_cast<double>(low), static_cast<double>(high), n_, bins);
    if (n_ <= kCapacity) {
      judge_all(grid);
    } else {
      judge_by_levels(grid);
    }
    const int64_t q = block_reduce<kThreads>(best_, better_cut).q;
    T last = low;
    for (int64_t i = threadIdx.x; i < n_; i += kThreads) {
      const T value = static_cast<T>(values_[i]);
      if (place(grid, i) <= q) last = larger(last, value);
    }
    last = block_reduce<kThreads>(last, larger);
    return {static_cast<T>(grid.threshold(static_cast<double>(last))), high};
  }

 private:
  static constexpr int kLevels = Scratch::kLevels;

  __device__ __forceinline__ int64_t place(const OtsuGrid& grid, int64_t i) const {
    return grid_place(grid, static_cast<double>(values_[i]));
  }

  __device__ void judge_all(const OtsuGrid& grid) {
    int64_t sum = 0;
    for (int64_t i = threadIdx.x; i < n_; i += kThreads) sum += s_.run[i] = place(grid, i);
    total_ = block_reduce<kThreads>(sum, [](int64_t a, int64_t b) { return a + b; });
    judge_run(static_cast<unsigned>(n_), {0, 0});
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
    const OtsuMean mean(total_, n_);
    for (unsigned i = begin; i < end; ++i) {
      const int64_t q = s_.run[i];
      below += OtsuSum{1, q};
      if (i + 1 < size && s_.run[i + 1] != q) best_.offer(otsu_objective(below.count, below.sum, n_, mean), q);
    }
  }

  // A window is a range of q divided into levels of 2^shift. `cursor` moves from its begin to its end and further to
  // the next window; all cuts below it are judged. Levels are aligned to their size: at the end of a fine window the
  // coarsest one that may start there follows.
  __device__ void judge_by_levels(const OtsuGrid& grid) {
    const int64_t end_of_grid = (int64_t{1} << grid.top_bit) + 1;
    const int coarsest = grid.top_bit > kLevelBits ? grid.top_bit - kLevelBits : 0;
    // A cut outside its level's reach loses by at least 4 slack / (n 2^top_bit) of the objective, and rounding must
    // not make that up: 2^-44 is far above its noise.
    const double slack = static_cast<double>(n_) * power_of_two(grid.top_bit - 46);
    OtsuSum below{0, 0};
    int64_t cursor = 0, end = end_of_grid;
    int shift = coarsest;
    while (cursor < end_of_grid) {
      const int levels = static_cast<int>(((end - 1 - cursor) >> shift) + 1);
      count_levels(grid, cursor, end, shift, levels);
      sum_levels(levels);
      if (cursor == 0 && end == end_of_grid) total_ = at(levels).sum;
      judge_levels(cursor, shift, levels, below, slack);
      const int heavy = judge_kept_levels(grid, cursor, shift, levels, below);
      below += at(heavy);
      __syncthreads();  // the counts may be overwritten now
      if (heavy < levels) {
        cursor += static_cast<int64_t>(heavy) << shift;
        end = cursor + (int64_t{1} << shift);
        shift = finer(shift);
        continue;
      }
      cursor = end;
      end = end_of_grid;
      shift = coarsest;
      while (cursor < end_of_grid && (cursor & ((int64_t{1} << shift) - 1)) != 0) {
        end = ((cursor >> shift) + 1) << shift;
        shift = finer(shift);
      }
    }
  }

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

  __device__ void count_levels(const OtsuGrid& grid, int64_t begin, int64_t end, int shift, int levels) {
    for (int level = threadIdx.x; level <= levels; level += kThreads) put(level, {0, 0});
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n_; i += kThreads) {
      const int64_t q = place(grid, i);
      if (q >= begin && q < end) add(static_cast<int>((q - begin) >> shift), q);
    }
    __syncthreads();
  }

  // Turns the counts and sums of levels into those of all levels before, in place; [levels] is the window's.
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
    __syncthreads();
  }

  // Offers the cut at the end of every level and notes which levels can hold the best one inside.
  __device__ void judge_levels(int64_t begin, int shift, int levels, const OtsuSum& below, double slack) {
    const OtsuMean mean(total_, n_);
    const double step = static_cast<double>(int64_t{1} << shift);
    for (int level = threadIdx.x; level < levels; level += kThreads) {
      OtsuSum before = below, after = below;
      before += at(level);
      after += at(level + 1);
      const bool populated = after.count > before.count;
      const int64_t level_begin = begin + (static_cast<int64_t>(level) << shift);
      if (populated && after.count < n_) {
        best_.offer(otsu_objective(after.count, after.sum, n_, mean), level_begin + (int64_t{1} << shift) - 1);
      }
      bool keep = false;
      if (shift > 0 && after.count > before.count + 1) {
        const double floor = static_cast<double>(level_begin), ceiling = floor + step;
        const double low_before = before.count > 0 ? ratio(before) : floor;
        const double high_before = ratio({n_ - before.count, total_ - before.sum});
        const double low_after = ratio(after);
        const double high_after = after.count < n_ ? ratio({n_ - after.count, total_ - after.sum}) : ceiling;
        keep = low_before + high_before <= 2 * (ceiling + step + slack) &&
               low_after + high_after >= 2 * (floor - step - slack);
      }
      s_.kept[level] = keep ? 1 : 0;
    }
    __syncthreads();
  }
  static __device__ __forceinline__ double ratio(const OtsuSum& part) {
    return static_cast<double>(part.sum) / static_cast<double>(part.count);
  }

  // Judges the cuts inside kept levels, as many levels at once as fit; returns the first that does not, or `levels`.
  __device__ int judge_kept_levels(const OtsuGrid& grid, int64_t begin, int shift, int levels, const OtsuSum& below) {
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

      const int64_t low = begin + (static_cast<int64_t>(from) << shift);
      const int64_t high = begin + (static_cast<int64_t>(to) << shift);
      if (threadIdx.x == 0) s_.collected = 0;
      __syncthreads();
      for (int64_t i = threadIdx.x; i < n_; i += kThreads) {
        const int64_t q = place(grid, i);
        if (q >= low && q < high) s_.run[atomicAdd(&s_.collected, 1u)] = q;
      }
      OtsuSum base = below;
      base += at(from);
      judge_run(s_.count[to] - s_.count[from], base);
      first = to;
    }
  }

  Scratch& s_;
  const scalar_t* values_;
  int64_t n_;
  int64_t total_ = 0;
  OtsuCut best_;  // this thread's
};

}  // namespace mlc::cuda
