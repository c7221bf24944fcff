// Boxes kept so far by a suppression, class by class, as coordinate columns: a region per class, so that one vector
// instruction judges many of them. Regions are padded with empty boxes, which overlap nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../box_iou.h"

namespace mlc::cpu {

constexpr int64_t kKeptLanes = 16;

// The first of the boxes [0, blocks * lanes) that overlaps `box` by more than the threshold, or -1.
template <typename T>
MLC_SIMD_CLONES int64_t first_overlap(const T* x1, const T* y1, const T* x2, const T* y2, const T* area,
                                      int64_t blocks, Box<T> box, T box_area, T threshold) {
  for (int64_t b = 0; b < blocks; ++b) {
    int hits[kKeptLanes], any = 0;
    for (int64_t j = 0; j < kKeptLanes; ++j) {
      const int64_t i = b * kKeptLanes + j;
      hits[j] = overlaps_more_than(Box<T>{x1[i], y1[i], x2[i], y2[i]}, area[i], box, box_area, threshold) ? 1 : 0;
      any |= hits[j];
    }
    if (!any) continue;
    for (int64_t j = 0; j < kKeptLanes; ++j) {
      if (hits[j]) return b * kKeptLanes + j;
    }
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
    for (auto* column : {&x1_, &y1_, &x2_, &y2_, &area_}) column->assign(static_cast<size_t>(begin), T(0));
    slot_owner_.resize(static_cast<size_t>(begin));
  }

  // The owner of the first kept box of candidate r's class that suppresses it; -1 if none does, and then r is kept
  // with that owner.
  int64_t suppressor_or_keep(int64_t r, const Box<T>& box, T threshold, int64_t owner) {
    Region& region = regions_[class_of_[r]];
    const T area = box.area();
    const int64_t at = region.begin, blocks = (region.kept + kKeptLanes - 1) / kKeptLanes;
    const int64_t slot = first_overlap(x1_.data() + at, y1_.data() + at, x2_.data() + at, y2_.data() + at,
                                       area_.data() + at, blocks, box, area, threshold);
    if (slot >= 0) return slot_owner_[at + slot];
    const int64_t to = at + region.kept++;
    x1_[to] = box.x1, y1_[to] = box.y1, x2_[to] = box.x2, y2_[to] = box.y2, area_[to] = area;
    slot_owner_[to] = owner;
    return -1;
  }

 private:
  struct Region {
    int64_t begin, kept;
  };
  std::vector<T> x1_, y1_, x2_, y2_, area_;
  std::vector<int64_t> slot_owner_, class_of_, sizes_, distinct_;
  std::vector<Region> regions_;
};

}  // namespace mlc::cpu
