// The Otsu threshold of one gathered group; the rule is csrc/otsu.h.
//
// Small groups are sorted. Larger ones are counted into bins of the grid first: sums are exact integers, so a cut
// between two bins is judged without sorting, and a cut inside a bin can only be the best one if the midpoint of the
// two class means falls into that bin (the optimality condition of 2-means). Only such bins, one to three as a rule,
// are sorted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../otsu.h"

namespace mlc::cpu {

template <typename T>
class OtsuThreshold {
 public:
  explicit OtsuThreshold(int bins) : bins_(bins) {}

  // `values` may be reordered.
  T operator()(T* values, int64_t n) {
    if (n == 0) return std::numeric_limits<T>::quiet_NaN();
    T low = values[0], high = values[0];
    for (int64_t i = 1; i < n; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
    if (low == high) return low + T(0);  // -0 becomes 0
    const OtsuGrid grid(static_cast<double>(low), static_cast<double>(high), n, bins_);
    return n <= kSortedSize ? by_sorting(values, n, grid) : by_counting(values, n, grid);
  }

 private:
  static constexpr int64_t kSortedSize = 96;
  static constexpr int kMaxLevelBits = 10;

  // The best cut so far: after `value`, or after the largest value of `level` where that is not known yet.
  struct Best {
    double objective = -1.0;
    T value{};
    int64_t level = -1;
    void offer(double candidate, T cut_value, int64_t cut_level) {
      if (candidate > objective) {
        objective = candidate;
        value = cut_value;
        level = cut_level;
      }
    }
  };

  T by_sorting(T* values, int64_t n, const OtsuGrid& grid) {
    std::sort(values, values + n);
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += grid(static_cast<double>(values[i]));
    Best best;
    scan(values, n, 0, 0, n, OtsuMean(total, n), grid, best);
    return static_cast<T>(grid.threshold(static_cast<double>(best.value)));
  }

  // Offers every cut inside a sorted run that starts after `below` values whose q add up to `sum`.
  void scan(const T* run, int64_t size, int64_t below, int64_t sum, int64_t n, OtsuMean mean, const OtsuGrid& grid,
            Best& best) {
    int64_t q = grid(static_cast<double>(run[0]));
    for (int64_t i = 0; i + 1 < size; ++i) {
      const int64_t next = grid(static_cast<double>(run[i + 1]));
      sum += q;
      if (q != next) best.offer(otsu_objective(below + i + 1, sum, n, mean), run[i], -1);
      q = next;
    }
  }

  T by_counting(T* values, int64_t n, const OtsuGrid& grid) {
    const int level_bits = std::min({grid.top_bit, kMaxLevelBits, std::max(6, ceil_log2(n) - 2)});
    const int shift = grid.top_bit - level_bits;
    const int64_t levels = (int64_t{1} << level_bits) + 1;  // q may equal 2^top_bit
    count_.assign(static_cast<size_t>(levels), 0);
    sum_.assign(static_cast<size_t>(levels), 0);
    level_.resize(static_cast<size_t>(n));
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t q = grid(static_cast<double>(values[i]));
      const int64_t level = q >> shift;
      level_[i] = static_cast<uint16_t>(level);
      ++count_[level];
      sum_[level] += q;
      total += q;
    }
    const OtsuMean mean(total, n);

    // Which levels can hold the best cut inside.
    const double step = static_cast<double>(int64_t{1} << shift);
    run_begin_.assign(static_cast<size_t>(levels), -1);
    int64_t collected = 0, below = 0, sum = 0;
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t inside = count_[level];
      if (inside > 1) {
        const double floor = static_cast<double>(level) * step, ceiling = floor + step;
        const double low_mean_before = below > 0 ? static_cast<double>(sum) / static_cast<double>(below) : floor;
        const double high_mean_before = static_cast<double>(total - sum) / static_cast<double>(n - below);
        const int64_t after = n - below - inside;
        const double low_mean_after =
            static_cast<double>(sum + sum_[level]) / static_cast<double>(below + inside);
        const double high_mean_after =
            after > 0 ? static_cast<double>(total - sum - sum_[level]) / static_cast<double>(after) : ceiling;
        // a level of slack on both sides keeps rounding out of the decision
        if (low_mean_before + high_mean_before <= 2 * (ceiling + step) &&
            low_mean_after + high_mean_after >= 2 * (floor - step)) {
          run_begin_[level] = collected;
          collected += inside;
        }
      }
      below += inside;
      sum += sum_[level];
    }

    run_.resize(static_cast<size_t>(collected));
    cursor_ = run_begin_;
    if (collected > 0) {
      for (int64_t i = 0; i < n; ++i) {
        int64_t& cursor = cursor_[level_[i]];
        if (cursor >= 0) run_[cursor++] = values[i];
      }
    }

    // All cuts in ascending order: inside a kept level, then at its end.
    Best best;
    below = sum = 0;
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t inside = count_[level];
      if (inside == 0) continue;
      if (run_begin_[level] >= 0) {
        T* run = run_.data() + run_begin_[level];
        std::sort(run, run + inside);
        scan(run, inside, below, sum, n, mean, grid, best);
      }
      below += inside;
      sum += sum_[level];
      if (below < n) best.offer(otsu_objective(below, sum, n, mean), T{}, level);
    }
    if (best.level >= 0) {
      best.value = -std::numeric_limits<T>::infinity();
      for (int64_t i = 0; i < n; ++i) {
        if (level_[i] == best.level) best.value = std::max(best.value, values[i]);
      }
    }
    return static_cast<T>(grid.threshold(static_cast<double>(best.value)));
  }

  int bins_;
  std::vector<int64_t> count_, sum_, run_begin_, cursor_;
  std::vector<uint16_t> level_;
  std::vector<T> run_;
};

}  // namespace mlc::cpu
