// Rescored NMS of one image; the rule is csrc/rescored_nms.h.
//
// Candidates are ranked once for all classes. In rank order each is compared only with the kept boxes of its own
// class, which lie in coordinate arrays, a region per class, so that one vector instruction judges many of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../rescored_nms.h"

namespace mlc::cpu {

// Boxes kept so far, as coordinate arrays. Regions are padded with empty boxes, which overlap nothing.
template <typename T>
struct KeptBoxes {
  static constexpr int64_t kLanes = 16;
  std::vector<T> x1, y1, x2, y2, area;

  void reset(int64_t size) {
    for (auto* column : {&x1, &y1, &x2, &y2, &area}) column->assign(static_cast<size_t>(size), T(0));
  }
  void set(int64_t at, const Box<T>& box) {
    x1[at] = box.x1, y1[at] = box.y1, x2[at] = box.x2, y2[at] = box.y2, area[at] = box.area();
  }
};

// Whether any of the boxes [0, blocks * kLanes) overlaps `box` by more than the threshold.
template <typename T>
MLC_SIMD_CLONES bool any_overlap(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t blocks,
                                 Box<T> box, T box_area, T threshold) {
  constexpr int64_t lanes = KeptBoxes<T>::kLanes;
  for (int64_t b = 0; b < blocks; ++b) {
    int hit = 0;
    for (int64_t j = b * lanes; j < (b + 1) * lanes; ++j) {
      hit |= overlaps_more_than(Box<T>{x1[j], y1[j], x2[j], y2[j]}, area[j], box, box_area, threshold) ? 1 : 0;
    }
    if (hit) return true;
  }
  return false;
}

template <typename scalar_t, typename T>
class NmsImage {
 public:
  struct Input {
    const scalar_t* boxes;    // [N, 4]
    const scalar_t* scores;   // [N]
    const scalar_t* quality;  // [N] or null
    const int64_t* labels;    // [N] or null
    int64_t n;
  };
  struct Limits {
    T iou_threshold;
    T score_threshold;
    int64_t top_k;           // negative: all
    int64_t max_detections;  // of the output
  };

  // Writes keep and scores (both max_detections long, or scores null) and returns how many; -1 - i if candidate i
  // holds a NaN.
  int64_t operator()(const Input& in, const Limits& limits, int64_t* keep, scalar_t* scores) {
    if (int64_t bad = rank(in, limits); bad >= 0) return -1 - bad;
    bucket(in);
    int64_t kept = 0;
    for (int64_t r = 0; r < static_cast<int64_t>(ranked_.size()) && kept < limits.max_detections; ++r) {
      const int64_t i = ranked_[r].index;
      const Box<T> box = load(in.boxes + 4 * i);
      const T area = box.area();
      Bucket& mine = buckets_[class_of_[r]];
      const int64_t at = mine.begin, blocks = (mine.kept + KeptBoxes<T>::kLanes - 1) / KeptBoxes<T>::kLanes;
      if (any_overlap(&boxes_.x1[at], &boxes_.y1[at], &boxes_.x2[at], &boxes_.y2[at], &boxes_.area[at], blocks, box,
                      area, limits.iou_threshold)) {
        continue;
      }
      boxes_.set(at + mine.kept++, box);
      keep[kept] = i;
      if (scores) scores[kept] = static_cast<scalar_t>(ranked_[r].product);
      ++kept;
    }
    return kept;
  }

 private:
  struct Ranked {
    T product;
    int64_t index;
    bool operator<(const Ranked& other) const {
      return product > other.product || (product == other.product && index < other.index);
    }
  };
  struct Bucket {
    int64_t begin, kept;
  };

  static Box<T> load(const scalar_t* p) {
    return {static_cast<T>(p[0]), static_cast<T>(p[1]), static_cast<T>(p[2]), static_cast<T>(p[3])};
  }

  // Fills ranked_; returns the first index with a NaN, or -1.
  int64_t rank(const Input& in, const Limits& limits) {
    ranked_.clear();
    for (int64_t i = 0; i < in.n; ++i) {
      const T score = static_cast<T>(in.scores[i]);
      if (std::isnan(score)) return i;
      if (!is_nms_candidate(score, limits.score_threshold)) continue;
      const T product = in.quality ? score * static_cast<T>(in.quality[i]) : score;
      const Box<T> box = load(in.boxes + 4 * i);
      if (std::isnan(product) || std::isnan(box.x1) || std::isnan(box.y1) || std::isnan(box.x2) || std::isnan(box.y2)) {
        return i;
      }
      ranked_.push_back({product, i});
    }
    if (limits.top_k >= 0 && limits.top_k < static_cast<int64_t>(ranked_.size())) {
      std::nth_element(ranked_.begin(), ranked_.begin() + limits.top_k, ranked_.end());
      ranked_.resize(static_cast<size_t>(limits.top_k));
    }
    std::sort(ranked_.begin(), ranked_.end());
    return -1;
  }

  // Gives every ranked candidate a dense class and every class a region of boxes_.
  void bucket(const Input& in) {
    const int64_t n = static_cast<int64_t>(ranked_.size());
    class_of_.resize(static_cast<size_t>(n));
    sizes_.clear();
    if (!in.labels) {
      std::fill(class_of_.begin(), class_of_.end(), 0);
      sizes_.push_back(n);
    } else if (n > 0) {
      int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
      for (const Ranked& r : ranked_) {
        low = std::min(low, in.labels[r.index]);
        high = std::max(high, in.labels[r.index]);
      }
      const uint64_t span = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
      if (span < static_cast<uint64_t>(4 * n + 1024)) {
        sizes_.assign(static_cast<size_t>(span) + 1, 0);
        for (int64_t r = 0; r < n; ++r) ++sizes_[class_of_[r] = in.labels[ranked_[r].index] - low];
      } else {  // far-flung labels: their rank among the distinct ones
        distinct_.clear();
        for (const Ranked& r : ranked_) distinct_.push_back(in.labels[r.index]);
        std::sort(distinct_.begin(), distinct_.end());
        distinct_.erase(std::unique(distinct_.begin(), distinct_.end()), distinct_.end());
        sizes_.assign(distinct_.size(), 0);
        for (int64_t r = 0; r < n; ++r) {
          class_of_[r] = std::lower_bound(distinct_.begin(), distinct_.end(), in.labels[ranked_[r].index]) -
                         distinct_.begin();
          ++sizes_[class_of_[r]];
        }
      }
    }
    constexpr int64_t lanes = KeptBoxes<T>::kLanes;
    buckets_.clear();
    int64_t begin = 0;
    for (int64_t size : sizes_) {
      buckets_.push_back({begin, 0});
      begin += (size + lanes - 1) / lanes * lanes;
    }
    boxes_.reset(begin + lanes);
  }

  std::vector<Ranked> ranked_;
  std::vector<int64_t> class_of_, sizes_, distinct_;
  std::vector<Bucket> buckets_;
  KeptBoxes<T> boxes_;
};

}  // namespace mlc::cpu
