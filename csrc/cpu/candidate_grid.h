// The remaining candidates of one class, sorted by the cells of a grid over their centers. A kept box is compared with
// the candidates in the cells near it, 16 at a time. Where it suppresses one, its number is written as the owner.
//
// Proof that no suppressed candidate is missed. Take one axis. Let u be the length of the kept box, v the length of the
// candidate and s the length of their overlap. IoU > t implies s / (u + v - s) > t, because the overlap along the other
// axis is not longer than either box. As s <= u, u + v - s < u / t. The sums x1 + x2 (twice the centers) differ by at
// most u + v - 2 s < (1 - t) (u + v - s) < u (1 / t - 1).
// Rounding: the comparison of csrc/box_iou.h is off by some ulps, so t is lowered by 1/1000. The sums are rounded, so
// the searched interval is widened by some ulps of the sum. The cell never decreases when the sum increases, so any
// choice of cells is correct.
// Where products underflow or overflow, the error has no bound: a box with a side below 2^-50 or above 2^50 is compared
// with every other box. A box without a positive area overlaps nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../box_iou.h"

namespace mlc::cpu {

constexpr int32_t kUnclaimed = std::numeric_limits<int32_t>::max();

// owners[i] = min(owners[i], owner) for each of n boxes that `box` suppresses. The columns are those of first_overlap
// (kept_boxes.h). Boxes are compared 16 at a time, so up to 15 after the n-th are compared too.
template <typename T>
MLC_SIMD_CLONES void claim_run(const T* columns, int64_t stride, int64_t n, Box<T> box, T area, T threshold,
                               int32_t owner, int32_t* owners) {
  constexpr int lanes = 16;
  const T *x1 = columns, *y1 = x1 + stride, *x2 = y1 + stride, *y2 = x2 + stride, *areas = y2 + stride;
  for (int64_t i = 0; i < n; i += lanes) {
    for (int64_t k = i; k < i + lanes; ++k) {
      const Box<T> other{x1[k], y1[k], x2[k], y2[k]};
      owners[k] = min_of(owners[k], overlaps_more_than(box, area, other, areas[k], threshold) ? owner : kUnclaimed);
    }
  }
}

template <typename T>
class CandidateGrid {
 public:
  // Stores the candidates first..last - 1; box_of_candidate(r) returns the box of candidate r.
  template <typename BoxOf>
  void build(int64_t first, int64_t last, T threshold, const BoxOf& box_of_candidate) {
    const int64_t n = last - first;
    const auto box_of = [&](int64_t i) { return box_of_candidate(first + i); };
    first_ = first;
    choose_cells(n, box_of);
    reach_ = 1 / (T(0.999) * threshold) - 1;
    const int cells = columns_.cells * rows_.cells;
    starts_.assign(cells + 4, 0);
    place_.resize(n);
    for (int64_t r = 0; r < n; ++r) {
      const Box<T> box = box_of(r);
      place_[r] = is_ordinary(box) ? rows_.cell(box.y1 + box.y2) * columns_.cells + columns_.cell(box.x1 + box.x2)
                                   : (box.area() > 0 ? cells : cells + 1);  // compared with all; with none
      ++starts_[place_[r] + 2];
    }
    for (int c = 2; c < cells + 3; ++c) starts_[c + 1] += starts_[c];
    stride_ = n + 16;  // room for the lanes behind the last
    coordinates_.resize(5 * stride_);
    owners_.assign(stride_, kUnclaimed);
    for (int64_t r = 0; r < n; ++r) {
      const Box<T> box = box_of(r);
      place_[r] = starts_[place_[r] + 1]++;
      T* to = coordinates_.data() + place_[r];
      for (T value : {box.x1, box.y1, box.x2, box.y2, box.area()}) *to = value, to += stride_;
    }
  }

  // The first owner that claimed candidate r; kUnclaimed without one.
  int32_t owner(int64_t r) const { return owners_[place_[r - first_]]; }

  // Sets the owner of every candidate that kept box r suppresses. Returns false, and sets nothing, if r has too many
  // candidates near it: then it is cheaper to compare r with the later candidates that have no owner.
  bool claim(int64_t r, const Box<T>& box, T area, T threshold, int64_t owner) {
    if (!(area > 0)) return true;
    if (!is_ordinary(box)) return false;
    const Range x = columns_.range(box.x1, box.x2, reach_), y = rows_.range(box.y1, box.y2, reach_);
    const int everywhere = columns_.cells * rows_.cells;
    const auto for_runs = [&](const auto& run) {  // the cells of a row stand one behind the other
      for (int row = y.first; row <= y.last; ++row) {
        const int* starts = starts_.data() + row * columns_.cells;
        run(starts[x.first], starts[x.last + 1]);
      }
      run(starts_[everywhere], starts_[everywhere + 1]);
    };
    int64_t near = 0;
    for_runs([&](int begin, int end) { near += end - begin; });
    if (8 * near > first_ + static_cast<int64_t>(place_.size()) - r) return false;
    for_runs([&](int begin, int end) {
      if (begin == end) return;
      claim_run(coordinates_.data() + begin, stride_, end - begin, box, area, threshold, static_cast<int32_t>(owner),
                owners_.data() + begin);
    });
    return true;
  }

 private:
  struct Range {
    int first, last;
  };
  struct Axis {  // of twice the centers
    T low, per_cell;
    int cells;
    int cell(T sum) const {
      return static_cast<int>(max_of(T(0), min_of((sum - low) * per_cell, static_cast<T>(cells - 1))));
    }
    Range range(T x1, T x2, T reach) const {
      const T sum = x1 + x2, far = reach * (x2 - x1) + 4 * std::numeric_limits<T>::epsilon() * std::abs(sum);
      return {cell(sum - far), cell(sum + far)};
    }
  };

  static bool is_ordinary(const Box<T>& box) {
    const auto ordinary = [](T side) { return side >= T(0x1p-50) && side <= T(0x1p50); };
    return ordinary(box.x2 - box.x1) && ordinary(box.y2 - box.y1);
  }

  // About two candidates a cell, between the extremes of a sample: a sample seldom contains an outlier. The cells of a
  // row are stored one after another. Rows are high and columns narrow, so that vectors have long runs.
  template <typename BoxOf>
  void choose_cells(int64_t n, const BoxOf& box_of) {
    constexpr int samples = 64;
    constexpr T inf = std::numeric_limits<T>::infinity();
    T low_x = inf, low_y = inf, high_x = -inf, high_y = -inf;
    for (int64_t k = 0; k < samples; ++k) {
      const Box<T> box = box_of(n * k / samples);
      if (!is_ordinary(box)) continue;
      const T x = box.x1 + box.x2, y = box.y1 + box.y2;
      low_x = min_of(low_x, x), high_x = max_of(high_x, x), low_y = min_of(low_y, y), high_y = max_of(high_y, y);
    }
    const auto axis = [](T low, T high, double cells) {
      return low < high ? Axis{low, static_cast<T>(cells) / (high - low), static_cast<int>(cells)} : Axis{0, 0, 1};
    };
    columns_ = axis(low_x, high_x, std::ceil(2 * std::sqrt(n)));
    rows_ = axis(low_y, high_y, std::ceil(std::sqrt(n) / 3));
  }

  Axis columns_, rows_;
  T reach_ = 0;
  int64_t first_ = 0, stride_ = 0;
  std::vector<T> coordinates_;   // x1, y1, x2, y2, area, each `stride_` further, in the order of the cells
  std::vector<int> starts_;      // of the cells, row by row; behind them the boxes compared with all, then the empty
  std::vector<int> place_;       // of candidate first_ + i in that order
  std::vector<int32_t> owners_;  // by place
};

}  // namespace mlc::cpu
