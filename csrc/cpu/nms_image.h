// Rescored NMS and IoU-NMS of one image; the rules are csrc/rescored_nms.h and csrc/iou_nms.h.
//
// Candidates are ranked once for all classes. In rank order each is compared only with the kept boxes of its own class.
// Many candidates without classes go the other way round: claiming_boxes.h.
#pragma once

#include <cmath>
#include <vector>

#include "claiming_boxes.h"
#include "kept_boxes.h"
#include "ranking.h"

namespace mlc::cpu {

template <typename scalar_t>
struct NmsImageInput {
  const scalar_t* boxes;    // [N, 4]
  const scalar_t* scores;   // [N]
  const scalar_t* quality;  // [N] or null
  const int64_t* labels;    // [N] or null
  int64_t n;
};

template <typename T>
struct NmsLimits {
  T iou_threshold;
  T score_threshold;
  int64_t top_k;           // negative: all
  int64_t max_detections;  // room in the output
};

template <typename scalar_t, typename T>
class NmsImage {
 public:
  using Input = NmsImageInput<scalar_t>;
  using Limits = NmsLimits<T>;

  // Rescored NMS. Writes keep and scores and returns how many; -1 - i if candidate i holds a NaN.
  int64_t rescored(const Input& in, const Limits& limits, int64_t* keep, scalar_t* scores) {
    const auto product = [&](int64_t i) { return score(in, i) * quality(in, i); };
    if (int64_t bad = collect(in, limits, product); bad >= 0) return -1 - bad;
    ranking_.keep_first(limits.top_k);
    ranking_.sort();
    int64_t kept = 0;
    with_kept_boxes(in, limits.iou_threshold, limits.max_detections, [&](auto& boxes, const auto& box_of) {
      for (int64_t r = 0; r < ranking_.size() && kept < limits.max_detections; ++r) {
        if (boxes.claimed(r)) continue;
        const int64_t i = ranking_[r];
        if (boxes.suppressor_or_keep(r, box_of, limits.iou_threshold, kept) >= 0) continue;
        keep[kept] = i;
        scores[kept++] = static_cast<scalar_t>(product(i));
      }
    });
    return kept;
  }

  // IoU-NMS, likewise. Clusters are numbered as they are found: few, they stay in the cache.
  int64_t by_quality(const Input& in, const Limits& limits, int64_t* keep, scalar_t* scores) {
    if (int64_t bad = rank_by_quality(in, limits); bad >= 0) return -1 - bad;
    cluster_score_.clear();
    chosen_.clear();  // the kept
    with_kept_boxes(in, limits.iou_threshold, in.n, [&](auto& boxes, const auto& box_of) {
      for (int64_t r = 0; r < ranking_.size(); ++r) {
        const int64_t i = ranking_[r];
        const int64_t cluster =
            boxes.suppressor_or_keep(r, box_of, limits.iou_threshold, static_cast<int64_t>(chosen_.size()));
        if (cluster < 0) {
          chosen_.push_back(i);
          cluster_score_.push_back(score(in, i));
        } else {
          cluster_score_[cluster] = max_of(cluster_score_[cluster], score(in, i));
        }
      }
    });
    ranking_.clear();
    for (size_t k = 0; k < chosen_.size(); ++k) ranking_.add(cluster_score_[k], chosen_[k]);
    ranking_.keep_first(limits.max_detections);
    ranking_.sort();
    for (int64_t k = 0; k < ranking_.size(); ++k) {
      keep[k] = ranking_[k];
      scores[k] = static_cast<scalar_t>(ranking_.value(k));
    }
    return ranking_.size();
  }

 private:
  static T score(const Input& in, int64_t i) { return static_cast<T>(in.scores[i]); }
  static T quality(const Input& in, int64_t i) { return in.quality ? static_cast<T>(in.quality[i]) : T(1); }
  static Box<T> load(const Input& in, int64_t i) {
    const scalar_t* p = in.boxes + 4 * i;
    return {static_cast<T>(p[0]), static_cast<T>(p[1]), static_cast<T>(p[2]), static_cast<T>(p[3])};
  }

  // Fills ranking_ with value(i) of every candidate; returns the first one with a NaN, or -1.
  template <typename Value>
  int64_t collect(const Input& in, const Limits& limits, const Value& value) {
    ranking_.clear();
    for (int64_t i = 0; i < in.n; ++i) {
      if (std::isnan(score(in, i))) return i;
      if (!is_nms_candidate(score(in, i), limits.score_threshold)) continue;
      const Box<T> box = load(in, i);
      // one sum is NaN if any coordinate is; opposite infinities are rare enough to look again
      const T sum = box.x1 + box.y1 + box.x2 + box.y2 + value(i) + quality(in, i);
      if (std::isnan(sum) && (std::isnan(box.x1) || std::isnan(box.y1) || std::isnan(box.x2) || std::isnan(box.y2) ||
                              std::isnan(value(i)) || std::isnan(quality(in, i)))) {
        return i;
      }
      ranking_.add(value(i), i);
    }
    return -1;
  }

  // Ranks the candidates that stay by their quality; returns as collect does.
  int64_t rank_by_quality(const Input& in, const Limits& limits) {
    if (limits.top_k < 0 || limits.top_k >= in.n) {
      const int64_t bad = collect(in, limits, [&](int64_t i) { return quality(in, i); });
      if (bad < 0) ranking_.sort();
      return bad;
    }
    if (int64_t bad = collect(in, limits, [&](int64_t i) { return score(in, i); }); bad >= 0) return bad;
    ranking_.keep_first(limits.top_k);
    chosen_.clear();
    for (int64_t r = 0; r < ranking_.size(); ++r) chosen_.push_back(ranking_[r]);
    ranking_.clear();
    for (int64_t i : chosen_) ranking_.add(quality(in, i), i);
    ranking_.sort();
    return -1;
  }

  // fn(boxes, box_of) with kept boxes that have room for the candidates, and what gives a candidate's box.
  template <typename Fn>
  void with_kept_boxes(const Input& in, T iou_threshold, int64_t most_kept, const Fn& fn) {
    constexpr int64_t few = 1024;
    constexpr T low = T(0.1);  // boxes that overlap by so little need not be near each other
    const int64_t n = ranking_.size();
    const auto box_of = [&](int64_t r) { return load(in, ranking_[r]); };
    if (in.labels == nullptr && std::min(n, most_kept) > few && n < (1 << 30) && iou_threshold >= low) {
      claiming_.reset(n);
      fn(claiming_, box_of);
    } else {
      kept_.reset(n, [&](int64_t r) { return in.labels ? in.labels[ranking_[r]] : int64_t{0}; });
      fn(kept_, box_of);
    }
  }

  Ranking<T> ranking_;
  KeptBoxes<T> kept_;
  ClaimingBoxes<T> claiming_;
  std::vector<T> cluster_score_;
  std::vector<int64_t> chosen_;
};

}  // namespace mlc::cpu
