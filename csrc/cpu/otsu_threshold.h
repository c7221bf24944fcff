// The Otsu threshold of one gathered group; the rule is csrc/otsu.h.
//
// Small groups are sorted. Larger ones are counted into levels of the grid first: sums are exact integers, so a cut
// between two levels is judged without sorting, and a cut inside a level can only be the best one if the midpoint of
// the two class means falls into that level (the optimality condition of 2-means). Only such levels, one to three as a
// rule, are sorted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "otsu_loops.h"

namespace mlc::cpu {

template <typename T>
struct OtsuSplit {
  T threshold;
  T largest;    // of the group
  bool finite;  // whether all values are; if not, the others say nothing
};

template <typename T>
class OtsuThreshold {
 public:
  explicit OtsuThreshold(int bins) : bins_(bins) {}

  // `values` may be reordered.
  OtsuSplit<T> operator()(T* values, int64_t n) {
    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    if (n == 0) return {nan, nan, true};
    const Extremes<T> extremes = extremes_of(values, n);
    const auto [low, high, finite] = extremes;
    if (!finite) return {nan, nan, false};
    if (low == high) return {low + T(0), high, true};  // -0 becomes 0
    const OtsuGrid grid(static_cast<double>(low), static_cast<double>(high), n, bins_);
    const T below = n <= kSortedSize ? by_sorting(values, n, grid) : by_counting(values, n, extremes, grid);
    return {static_cast<T>(grid.threshold(static_cast<double>(below))), high, true};
  }

 private:
  static constexpr int64_t kSortedSize = 96;
  static constexpr int kMaxLevelBits = 10;
  static constexpr int64_t kBlock = 256;  // values placed on the grid at once

  struct Best {
    double objective = -1.0;
    T value{};           // the largest below the cut
    int64_t level = -1;  // that it lies in; -1 where it does not matter
    void offer(double candidate, T cut_value, int64_t cut_level) {
      if (candidate > objective) {
        objective = candidate;
        value = cut_value;
        level = cut_level;
      }
    }
  };
  struct Level {
    int64_t count, sum;
  };
  struct Run {
    int64_t level, begin;
  };

  // Both ways return the largest value below the best cut.
  T by_sorting(T* values, int64_t n, const OtsuGrid& grid) {
    std::sort(values, values + n);
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += grid(static_cast<double>(values[i]));
    Best best;
    scan(values, n, 0, 0, n, OtsuMean(total, n), grid, -1, best);
    return best.value;
  }

  // Offers every cut inside a sorted run that starts after `below` values whose q add up to `sum`.
  void scan(const T* run, int64_t size, int64_t below, int64_t sum, int64_t n, OtsuMean mean, const OtsuGrid& grid,
            int64_t level, Best& best) {
    int64_t q = grid(static_cast<double>(run[0]));
    for (int64_t i = 0; i + 1 < size; ++i) {
      const int64_t next = grid(static_cast<double>(run[i + 1]));
      sum += q;
      if (q != next) best.offer(otsu_objective(below + i + 1, sum, n, mean), run[i], level);
      q = next;
    }
  }

  T by_counting(const T* values, int64_t n, const Extremes<T>& extremes, const OtsuGrid& grid) {
    const int level_bits = std::min({grid.top_bit, kMaxLevelBits, std::max(6, ceil_log2(n) - 2)});
    const int shift = grid.top_bit - level_bits;
    count(values, n, grid, shift);
    const int64_t bottom = grid(static_cast<double>(extremes.low)) >> shift;
    const int64_t top = grid(static_cast<double>(extremes.high)) >> shift;
    judge_levels(n, bottom, top);
    choose_runs(n, bottom, top, static_cast<double>(int64_t{1} << shift));
    collect_runs(values, n);

    Best inside;
    for (const Run& run : runs_) {
      T* begin = run_.data() + run.begin;
      const int64_t size = levels_[run.level].count;
      std::sort(begin, begin + size);
      scan(begin, size, below_[run.level] - size, sum_[run.level] - levels_[run.level].sum, n, mean_, grid, run.level,
           inside);
    }
    // the cut at a level's end comes after those inside it
    const int64_t at = bottom + first_largest(objective_.data() + bottom, top - bottom);
    const double best = at < top ? objective_[at] : -1.0;
    if (inside.objective > best || (inside.objective == best && inside.level <= at)) return inside.value;
    return largest_of_level(values, level_.data(), n, static_cast<uint16_t>(at), extremes.low);
  }

  // Every value's level; every level's values and sum of q.
  void count(const T* values, int64_t n, const OtsuGrid& grid, int shift) {
    const int64_t levels = (grid_levels(grid) >> shift) + 1;
    levels_.assign(static_cast<size_t>(levels), Level{0, 0});
    level_.resize(static_cast<size_t>(n));
    int64_t q[kBlock];
    for (int64_t first = 0; first < n; first += kBlock) {
      const int64_t size = std::min(kBlock, n - first);
      uint16_t* level = level_.data() + first;
      place_on_grid(values + first, size, grid, shift, q, level);
      for (int64_t i = 0; i < size; ++i) {
        Level& to = levels_[level[i]];
        ++to.count;
        to.sum += q[i];
      }
    }
  }
  static int64_t grid_levels(const OtsuGrid& grid) { return int64_t{1} << grid.top_bit; }  // q may equal this

  // The cuts at the ends of levels [bottom, top); midpoint_[i + 1] is that of level i's.
  void judge_levels(int64_t n, int64_t bottom, int64_t top) {
    for (auto* column : {&below_, &sum_}) column->resize(levels_.size());
    objective_.resize(levels_.size());
    midpoint_.resize(levels_.size() + 1);
    int64_t below = 0, sum = 0;
    for (int64_t level = bottom; level <= top; ++level) {
      below_[level] = below += levels_[level].count;
      sum_[level] = sum += levels_[level].sum;
    }
    total_ = sum;
    mean_ = OtsuMean(sum, n);
    judge_cuts(below_.data() + bottom, sum_.data() + bottom, top - bottom, n, sum, mean_, objective_.data() + bottom,
               midpoint_.data() + bottom + 1);
  }

  // Lists the levels that can hold the best cut inside.
  void choose_runs(int64_t n, int64_t bottom, int64_t top, double step) {
    runs_.clear();
    const double mean = static_cast<double>(total_) / static_cast<double>(n);
    midpoint_[bottom] = static_cast<double>(bottom) * step + mean;
    midpoint_[top + 1] = mean + static_cast<double>(top + 1) * step;
    const int64_t levels = top + 1 - bottom;
    chosen_.resize(levels_.size());
    choose_levels(midpoint_.data() + bottom, bottom, levels, step, chosen_.data());
    int64_t begin = 0;
    for (int64_t i = 0; (i = next_chosen(chosen_.data(), i, levels)) < levels; ++i) {
      const int64_t count = levels_[bottom + i].count;
      if (count < 2) continue;
      runs_.push_back({bottom + i, begin});
      begin += count;
    }
    run_.resize(static_cast<size_t>(begin));
  }

  void collect_runs(const T* values, int64_t n) {
    if (runs_.empty()) return;
    constexpr int64_t block = 32;
    cursor_.assign(levels_.size(), -1);
    for (const Run& run : runs_) cursor_[run.level] = run.begin;
    const uint16_t low = static_cast<uint16_t>(runs_.front().level), high = static_cast<uint16_t>(runs_.back().level);
    for (int64_t first = 0; (first = next_block_with(level_.data(), first, n, block, low, high)) < n; first += block) {
      for (int64_t i = first, end = std::min(first + block, n); i < end; ++i) {
        int64_t& cursor = cursor_[level_[i]];
        if (cursor >= 0) run_[cursor++] = values[i];
      }
    }
  }

  int bins_;
  int64_t total_ = 0;
  OtsuMean mean_{0, 1};
  std::vector<Level> levels_;
  std::vector<int64_t> below_, sum_, cursor_;
  std::vector<double> objective_, midpoint_;
  std::vector<uint16_t> level_;
  std::vector<uint8_t> chosen_;
  std::vector<Run> runs_;
  std::vector<T> run_;
};

}  // namespace mlc::cpu
