// Kept boxes of one class. At first they are in a list (kept_boxes.h), with which each candidate is compared. When
// these comparisons become many, the remaining candidates are sorted into a grid (candidate_grid.h). From then on a
// kept box looks for the candidates that it suppresses and becomes their owner. A box with too many candidates near it
// is listed.
#pragma once

#include <algorithm>

#include "candidate_grid.h"
#include "kept_boxes.h"

namespace mlc::cpu {

template <typename T>
class ClaimingBoxes {
 public:
  void reset(int64_t n) {
    listed_.reset(n, [](int64_t) { return int64_t{0}; });
    n_ = n, has_grid_ = false, compared_ = 0;
  }

  // Whether candidate r has an owner. A listed box may suppress it too, and may come before that owner.
  bool claimed(int64_t r) const { return has_grid_ && grid_.owner(r) != kUnclaimed; }

  // The same contract as KeptBoxes::suppressor_or_keep. Owners are 0, 1, 2, ...
  template <typename BoxOf>
  int64_t suppressor_or_keep(int64_t r, const BoxOf& box_of, T threshold, int64_t owner) {
    if (!has_grid_) return without_grid(r, box_of, threshold, owner);
    const int64_t claimed_by = grid_.owner(r);
    if (claimed_by < first_listed_) return claimed_by;
    return with_grid(r, box_of(r), threshold, owner, claimed_by);
  }

 private:
  // The grid is made when kWindow candidates in a row were compared with kMany boxes each on average and more than
  // kLeft candidates remain: from there on a grid is cheaper than the comparisons.
  static constexpr int64_t kWindow = 128, kMany = 96, kLeft = 512;

  template <typename BoxOf>
  int64_t without_grid(int64_t r, const BoxOf& box_of, T threshold, int64_t owner) {
    const int64_t by = listed_.suppressor_or_keep(r, box_of, threshold, owner);
    compared_ += by < 0 ? owner : by;  // the place in the list is the owner
    if (r % kWindow == kWindow - 1) {
      if (compared_ > kWindow * kMany && n_ - r > kLeft) make_grid(r, box_of, threshold);
      compared_ = 0;
    }
    return by;
  }

  // Stores the candidates after r in the grid.
  template <typename BoxOf>
  void make_grid(int64_t r, const BoxOf& box_of, T threshold) {
    grid_.build(r + 1, n_, threshold, box_of);
    has_grid_ = true;
    first_listed_ = kUnclaimed;
    listed_.remove_if(r, [&](const Box<T>& box, T area, int64_t owner) {
      if (grid_.claim(r, box, area, threshold, owner)) return true;
      first_listed_ = std::min(first_listed_, owner);
      return false;
    });
  }

  int64_t with_grid(int64_t r, const Box<T>& box, T threshold, int64_t owner, int64_t claimed_by) {
    const T area = box.area();
    if (first_listed_ != kUnclaimed) {
      const int64_t by = listed_.suppressor(r, box, area, threshold);
      if (by >= 0) return std::min(by, claimed_by);
    }
    if (claimed_by != kUnclaimed) return claimed_by;
    if (!grid_.claim(r, box, area, threshold, owner)) {
      listed_.keep(r, box, area, owner);
      first_listed_ = std::min(first_listed_, owner);
    }
    return -1;
  }

  KeptBoxes<T> listed_;
  CandidateGrid<T> grid_;
  bool has_grid_ = false;
  int64_t n_ = 0, compared_ = 0;
  int64_t first_listed_ = kUnclaimed;  // owner
};

}  // namespace mlc::cpu
