#include "../match_boxes.h"

#include <vector>

#include "../checks.h"
#include "box_columns.h"

namespace mlc::cpu {
namespace {

constexpr int64_t kBlock = 512;  // priors judged together: their columns and results stay in the first-level cache

// Updates best and best_gt with the IoUs of one gt; returns the largest of these IoUs. n is a multiple of kLanes. gts
// come in ascending order of their index. Without __restrict the compiler compares the pointers in every iteration.
template <typename T>
MLC_SIMD_CLONES T raise_best(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t n, Box<T> gt,
                             T gt_area, int32_t index, T* __restrict best, int32_t* __restrict best_gt) {
  T highest[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const T iou = iou_of(Box<T>{x1[i + j], y1[i + j], x2[i + j], y2[i + j]}, area[i + j], gt, gt_area);
      highest[j] = iou > highest[j] ? iou : highest[j];
      best_gt[i + j] = max_of(best_gt[i + j], iou > best[i + j] ? index : -1);  // no store under a condition
      best[i + j] = iou > best[i + j] ? iou : best[i + j];
    }
  }
  return *std::max_element(highest, highest + kLanes);
}

// Sets forced to the gt's index where the IoU with it equals `target`, the gt's largest. gts come in ascending order of
// their index.
template <typename T>
MLC_SIMD_CLONES void mark_forced(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t n,
                                 Box<T> gt, T gt_area, T target, int32_t index, int32_t* __restrict forced) {
  for (int64_t i = 0; i < n; ++i) {
    const T iou = iou_of(Box<T>{x1[i], y1[i], x2[i], y2[i]}, area[i], gt, gt_area);
    forced[i] = max_of(forced[i], iou == target ? index : -1);
  }
}

template <typename scalar_t>
class Matcher {
 public:
  using T = compute_t<scalar_t>;

  Matcher(const scalar_t* priors, int64_t num_priors, const scalar_t* gts, const int64_t* offsets, int64_t batch,
          const bool* crowd, MatchRule<T> rule)
      : columns_(num_priors),
        num_priors_(num_priors),
        gts_(gts),
        offsets_(offsets),
        batch_(batch),
        crowd_(crowd),
        rule_(rule),
        num_blocks_((num_priors + kBlock - 1) / kBlock),
        hulls_(static_cast<size_t>(num_blocks_)) {
    for_chunks(num_blocks_, num_chunks(num_priors, 16384), [&](int64_t, int64_t from, int64_t to) {
      for (int64_t block = from; block < to; ++block) load(priors, block);
    });
  }

  void run(int8_t* labels, int64_t* matched, scalar_t* ious) {
    auto best = buffer<T>(num_blocks_ * kBlock);
    auto best_gt = buffer<int32_t>(num_blocks_ * kBlock);
    for (int64_t b = 0; b < batch_; ++b) {
      const int64_t first = offsets_[b], count = offsets_[b + 1] - first;
      auto block_best = buffer<T>(num_blocks_ * count);  // the best IoU of each gt in each block
      const int64_t chunks = num_chunks(num_priors_ * (count + 4), 65536);
      for_chunks(num_blocks_, std::min(chunks, num_blocks_), [&](int64_t, int64_t from, int64_t to) {
        for (int64_t block = from; block < to; ++block) {
          judge(block, first, count, best.get(), best_gt.get(), block_best.get() + block * count);
        }
      });
      std::vector<T> gt_best(static_cast<size_t>(count), T(0));
      for (int64_t block = 0; block < num_blocks_; ++block) {
        for (int64_t g = 0; g < count; ++g) gt_best[g] = max_of(gt_best[g], block_best[block * count + g]);
      }
      for_chunks(num_blocks_, std::min(chunks, num_blocks_), [&](int64_t, int64_t from, int64_t to) {
        std::vector<int32_t> forced(kBlock);
        for (int64_t block = from; block < to; ++block) {
          force(block, first, count, gt_best.data(), block_best.get() + block * count, forced.data());
          const int64_t at = b * num_priors_;
          decide(block, first, count, best.get(), best_gt.get(), forced.data(), labels + at, matched + at, ious + at);
        }
      });
    }
  }

 private:
  int64_t begin(int64_t block) const { return block * kBlock; }
  int64_t end(int64_t block) const { return std::min(num_priors_, begin(block) + kBlock); }
  int64_t padded_size(int64_t block) const { return (end(block) - begin(block) + kLanes - 1) / kLanes * kLanes; }
  Box<T> gt(int64_t k) const { return box_at<T>(gts_, k); }
  bool is_crowd(int64_t k) const { return crowd_ != nullptr && crowd_[k]; }

  void load(const scalar_t* priors, int64_t block) {
    const int64_t at = begin(block), n = padded_size(block);
    for (int64_t i = at; i < at + n; ++i) columns_.set(i, box_at<T>(priors, std::min(i, num_priors_ - 1)));
    hulls_[block] = hull_of_columns(columns_.x1 + at, columns_.y1 + at, columns_.x2 + at, columns_.y2 + at, n);
  }

  // The best gt of a block's priors, and the best IoU of every gt in it.
  void judge(int64_t block, int64_t first, int64_t count, T* best, int32_t* best_gt, T* block_best) const {
    const int64_t at = begin(block), n = padded_size(block);
    std::fill_n(best + at, n, T(0));
    std::fill_n(best_gt + at, n, -1);
    for (int64_t g = 0; g < count; ++g) {
      block_best[g] = T(0);
      const Box<T> box = gt(first + g);
      if (is_crowd(first + g) || !meets_hull(box, hulls_[block])) continue;
      block_best[g] =
          raise_best(columns_.x1 + at, columns_.y1 + at, columns_.x2 + at, columns_.y2 + at, columns_.area + at, n, box,
                     box.area(), static_cast<int32_t>(g), best + at, best_gt + at);
    }
  }

  // The gts that a block's priors are forced to; a gt is looked at only where it reaches its best IoU.
  void force(int64_t block, int64_t first, int64_t count, const T* gt_best, const T* block_best,
             int32_t* forced) const {
    std::fill_n(forced, kBlock, -1);
    for (int64_t g = 0; g < count; ++g) {
      if (block_best[g] != gt_best[g] || !rule_.forces(gt_best[g])) continue;
      const Box<T> box = gt(first + g);
      const int64_t at = begin(block);
      mark_forced(columns_.x1 + at, columns_.y1 + at, columns_.x2 + at, columns_.y2 + at, columns_.area + at,
                  padded_size(block), box, box.area(), gt_best[g], static_cast<int32_t>(g), forced);
    }
  }

  void decide(int64_t block, int64_t first, int64_t count, const T* best, const int32_t* best_gt, const int32_t* forced,
              int8_t* labels, int64_t* matched, scalar_t* ious) const {
    for (int64_t i = begin(block); i < end(block); ++i) {
      const int32_t forcing = forced[i - begin(block)];
      labels[i] = rule_.label(best[i], forcing >= 0, false);
      const int gt = rule_.candidate_gt(best[i], best_gt[i], forcing);
      matched[i] = gt >= 0 ? first + gt : -1;
      ious[i] = static_cast<scalar_t>(best[i]);
    }
    if (crowd_ == nullptr) return;
    for (int64_t g = 0; g < count; ++g) {
      const Box<T> box = gt(first + g);
      if (!is_crowd(first + g) || !meets_hull(box, hulls_[block])) continue;
      for (int64_t i = begin(block); i < end(block); ++i) {
        if (labels[i] == 0 && rule_.on_crowd(columns_.box(i), box)) labels[i] = -1;
      }
    }
  }

  BoxColumns<T> columns_;
  int64_t num_priors_;
  const scalar_t* gts_;
  const int64_t* offsets_;
  int64_t batch_;
  const bool* crowd_;
  MatchRule<T> rule_;
  int64_t num_blocks_;
  std::vector<Box<T>> hulls_;
};

std::tuple<Tensor, Tensor, Tensor> match_boxes(const Tensor& priors, const Tensor& gt_boxes, const Tensor& gt_offsets,
                                               const std::optional<Tensor>& crowd, double high, double low,
                                               int64_t forced, double min_forced_iou, double crowd_iof) {
  constexpr const char* op = "match_boxes";
  check_match_boxes(op, priors, gt_boxes, gt_offsets, crowd, high, low, forced, min_forced_iou, crowd_iof);
  Tensor priors_c = torch::stable::contiguous(priors), gts_c = torch::stable::contiguous(gt_boxes);
  Tensor offsets_c = torch::stable::contiguous(gt_offsets);
  std::optional<Tensor> crowd_c;
  if (crowd.has_value()) crowd_c = torch::stable::contiguous(*crowd);
  const int64_t batch = offsets_c.size(0) - 1, num_priors = priors_c.size(0), num_gts = gts_c.size(0);
  const int64_t* offsets = offsets_c.const_data_ptr<int64_t>();
  for (int64_t b = 0; b <= batch; ++b) {
    const int64_t expected_low = b == 0 ? 0 : offsets[b - 1];
    MLC_CHECK_VALUE(offsets[b] >= expected_low && offsets[b] <= num_gts && (b != 0 || offsets[0] == 0) &&
                        (b != batch || offsets[b] == num_gts),
                    op, "gt_offsets must rise from 0 to ", num_gts, ", but gt_offsets[", b, "] is ", offsets[b]);
  }
  Tensor labels = new_empty(priors, {batch, num_priors}, ScalarType::Char);
  Tensor matched = new_empty(priors, {batch, num_priors}, ScalarType::Long);
  Tensor ious = new_empty(priors, {batch, num_priors}, priors.scalar_type());
  dispatch_floating(priors.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const MatchRule<T> rule{static_cast<T>(high), static_cast<T>(low), static_cast<T>(min_forced_iou),
                            static_cast<T>(crowd_iof), static_cast<Forced>(forced)};
    Matcher<scalar_t> matcher(priors_c.const_data_ptr<scalar_t>(), num_priors, gts_c.const_data_ptr<scalar_t>(),
                              offsets, batch, crowd_c.has_value() ? crowd_c->const_data_ptr<bool>() : nullptr, rule);
    matcher.run(labels.mutable_data_ptr<int8_t>(), matched.mutable_data_ptr<int64_t>(),
                ious.mutable_data_ptr<scalar_t>());
  });
  return {labels, matched, ious};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("match_boxes", TORCH_BOX(&mlc::cpu::match_boxes)); }
