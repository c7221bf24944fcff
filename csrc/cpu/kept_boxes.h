// Boxes kept so far by a suppression, class by class, as coordinate columns: a region per class, so that one vector
// instruction judges many of them. Regions are padded with empty boxes, which overlap nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../box_iou.h"

namespace mlc::cpu {

constexpr int kKeptLanes = 16;

template <typename T>
struct KeptColumns {
  const T *x1, *y1, *x2, *y2, *area;
  MLC_HOST_DEVICE KeptColumns(const T* first, int64_t stride)
      : x1(first), y1(x1 + stride), x2(y1 + stride), y2(x2 + stride), area(y2 + stride) {}

  // Which of the boxes i, i + 1, ... i + lanes - 1 is the first that overlaps `box`; `lanes` if none does.
  template <int kLanes>
  MLC_HOST_DEVICE int first_of_lanes(int64_t i, const Box<T>& box, T box_area, T threshold) const {
    int first = kLanes;
    for (int j = 0; j < kLanes; ++j) {
      const Box<T> kept{x1[i + j], y1[i + j], x2[i + j], y2[i + j]};
      const int here = overlaps_more_than(kept, area[i + j], box, box_area, threshold) ? j : kLanes;
      first = here < first ? here : first;
    }
    return first;
  }
};

// The first of n boxes, whole lanes, that overlaps `box` by more than the threshold, or -1. Their x1 stand at
// columns[0..], the other columns each `stride` further (few arguments: most calls compare with one box or two). To
// draw one answer from a vector costs almost as much as to fill it: after the first few boxes, four vectors share one.
template <typename T>
MLC_SIMD_CLONES int64_t first_overlap(const T* columns, int64_t stride, int64_t n, Box<T> box, T box_area,
                                      T threshold) {
  const KeptColumns<T> kept(columns, stride);
  constexpr int narrow = kKeptLanes, wide = 4 * kKeptLanes;
  for (int64_t i = 0; i < n;) {
    const bool many = i >= wide && i + wide <= n;
    const int lanes = many ? wide : narrow;
    const int first = many ? kept.template first_of_lanes<wide>(i, box, box_area, threshold)
                           : kept.template first_of_lanes<narrow>(i, box, box_area, threshold);
    if (first < lanes) return i + first;
    i += lanes;
  }
  return -1;
}

template <typename T>
class KeptBoxes {
 public:
  // Room for the candidates 0..n - 1 of the labels that label(r) gives; labels may be any int64.
  template <typename Label>
  void reset(int64_t n, const Label& label) {
    class_of_.resize(static_cast<size_t>(n));
    sizes_.clear();
    int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
    for (int64_t r = 0; r < n; ++r) {
      low = std::min(low, label(r));
      high = std::max(high, label(r));
    }
    const uint64_t span = n > 0 ? static_cast<uint64_t>(high) - static_cast<uint64_t>(low) : 0;
    if (span < static_cast<uint64_t>(4 * n + 1024)) {
      sizes_.assign(static_cast<size_t>(span) + 1, 0);
      for (int64_t r = 0; r < n; ++r) ++sizes_[class_of_[r] = label(r) - low];
    } else {  // far-flung labels: their rank among the distinct ones
      distinct_.clear();
      for (int64_t r = 0; r < n; ++r) distinct_.push_back(label(r));
      std::sort(distinct_.begin(), distinct_.end());
      distinct_.erase(std::unique(distinct_.begin(), distinct_.end()), distinct_.end());
      sizes_.assign(distinct_.size(), 0);
      for (int64_t r = 0; r < n; ++r) {
        class_of_[r] = std::lower_bound(distinct_.begin(), distinct_.end(), label(r)) - distinct_.begin();
        ++sizes_[class_of_[r]];
      }
    }
    regions_.clear();
    int64_t begin = 0;
    for (int64_t size : sizes_) {
      regions_.push_back({begin, 0});
      begin += (size + kKeptLanes - 1) / kKeptLanes * kKeptLanes;
    }
    stride_ = begin;
    columns_.assign(static_cast<size_t>(5 * stride_), T(0));
    slot_owner_.resize(static_cast<size_t>(begin));
  }

  // The owner of the first kept box of candidate r's class that suppresses it; -1 if none does, and then r is kept
  // with that owner.
  template <typename BoxOf>
  int64_t suppressor_or_keep(int64_t r, const BoxOf& box_of, T threshold, int64_t owner) {
    const Box<T> box = box_of(r);
    const T area = box.area();
    const int64_t by = suppressor(r, box, area, threshold);
    if (by < 0) keep(r, box, area, owner);
    return by;
  }
  bool claimed(int64_t) const { return false; }

  // The two halves of suppressor_or_keep.
  int64_t suppressor(int64_t r, const Box<T>& box, T area, T threshold) const {
    const Region& region = regions_[class_of_[r]];
    const int64_t at = region.begin, lanes = (region.kept + kKeptLanes - 1) / kKeptLanes * kKeptLanes;
    const int64_t slot = first_overlap(columns_.data() + at, stride_, lanes, box, area, threshold);
    return slot < 0 ? -1 : slot_owner_[at + slot];
  }
  void keep(int64_t r, const Box<T>& box, T area, int64_t owner) {
    Region& region = regions_[class_of_[r]];
    put(region.begin + region.kept++, box, area, owner);
  }

  // Takes the boxes of candidate r's class out for which remove(box, area, owner).
  template <typename Remove>
  void remove_if(int64_t r, const Remove& remove) {
    Region& region = regions_[class_of_[r]];
    const int64_t end = region.begin + region.kept;
    region.kept = 0;
    for (int64_t slot = region.begin; slot < end; ++slot) {
      const T* at = columns_.data() + slot;
      const Box<T> box{at[0], at[stride_], at[2 * stride_], at[3 * stride_]};
      const T area = at[4 * stride_];
      const int64_t owner = slot_owner_[slot];
      put(slot, {}, T(0), 0);
      if (!remove(box, area, owner)) keep(r, box, area, owner);
    }
  }

 private:
  struct Region {
    int64_t begin, kept;
  };
  void put(int64_t slot, const Box<T>& box, T area, int64_t owner) {
    T* to = columns_.data() + slot;
    for (T value : {box.x1, box.y1, box.x2, box.y2, area}) *to = value, to += stride_;
    slot_owner_[slot] = owner;
  }
  int64_t stride_ = 0;
  std::vector<T> columns_;
  std::vector<int64_t> slot_owner_, class_of_, sizes_, distinct_;
  std::vector<Region> regions_;
};

}  // namespace mlc::cpu
