#include "../topk_alignment.h"

#include <algorithm>
#include <vector>

#include "../checks.h"
#include "box_columns.h"

namespace mlc::cpu {
namespace {

constexpr int64_t kBlock = 64;  // priors whose IoUs are computed together, where the gt overlaps their hull

// IoUs of n (whole lanes) boxes with a gt; returns the largest.
template <typename T>
MLC_SIMD_CLONES T ious_of_block(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t n, Box<T> gt,
                                T gt_area, T* __restrict ious) {
  T highest[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const T iou = iou_of(Box<T>{x1[i + j], y1[i + j], x2[i + j], y2[i + j]}, area[i + j], gt, gt_area);
      highest[j] = iou > highest[j] ? iou : highest[j];
      ious[i + j] = iou;
    }
  }
  return *std::max_element(highest, highest + kLanes);
}

template <typename T>
MLC_SIMD_CLONES void scores_of(const T* logits, int64_t n, AlignmentRule<T> rule, T* __restrict scores) {
  for (int64_t i = 0; i < n; ++i) scores[i] = rule.score(logits[i]);
}

// The k best priors so far, as a heap with the worst of them on top.
template <typename T>
class BestPriors {
 public:
  explicit BestPriors(int64_t k) : k_(static_cast<size_t>(k)) {}

  // The metric that another prior must exceed, if priors are added in ascending order.
  T bound() const { return heap_.size() < k_ ? T(0) : heap_.front().metric; }

  // metric > bound()
  void add(T metric, int64_t prior) {
    if (heap_.size() == k_) {
      std::pop_heap(heap_.begin(), heap_.end(), Precedes{});
      heap_.back() = {metric, prior};
    } else {
      heap_.push_back({metric, prior});
    }
    std::push_heap(heap_.begin(), heap_.end(), Precedes{});
  }

  // Writes the k in order and leaves none.
  template <typename scalar_t>
  void take(scalar_t* metrics, int64_t* priors) {
    std::sort(heap_.begin(), heap_.end(), Precedes{});
    heap_.resize(k_, no_prior<T>());
    for (size_t i = 0; i < k_; ++i) {
      metrics[i] = static_cast<scalar_t>(heap_[i].metric);
      priors[i] = heap_[i].prior;
    }
    heap_.clear();
  }

 private:
  struct Precedes {
    bool operator()(const RankedPrior<T>& a, const RankedPrior<T>& b) const { return a.precedes(b); }
  };

  size_t k_;
  std::vector<RankedPrior<T>> heap_;
};

template <typename T>
struct Overlap {
  int64_t prior;
  T most;  // IoU^beta
};

// The boxes of every image as columns, each image's from a block of its own on.
template <typename T>
class Images {
 public:
  template <typename scalar_t>
  Images(const scalar_t* boxes, int64_t batch, int64_t num_priors)
      : num_priors_(num_priors),
        blocks_((num_priors + kBlock - 1) / kBlock),
        columns_(batch * blocks_ * kBlock),
        hulls_(static_cast<size_t>(batch * blocks_)) {
    for_chunks(batch * blocks_, num_chunks(batch * num_priors, 16384), [&](int64_t, int64_t from, int64_t to) {
      for (int64_t block = from; block < to; ++block) load(boxes, block);
    });
  }

  // fn(overlaps, count) of each block of an image where IoU^beta of some priors is above bound().
  template <typename Bound, typename Fn>
  void scan(int64_t image, const Box<T>& gt, const AlignmentRule<T>& rule, const Bound& bound, const Fn& fn) const {
    const T area = gt.area();
    T ious[kBlock];
    Overlap<T> overlaps[kBlock];
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t block = image * blocks_ + b, at = block * kBlock;
      if (!meets_hull(gt, hulls_[block])) continue;
      const int64_t count = std::min(kBlock, num_priors_ - b * kBlock), padded = (count + kLanes - 1) / kLanes * kLanes;
      const T highest = ious_of_block(columns_.x1 + at, columns_.y1 + at, columns_.x2 + at, columns_.y2 + at,
                                      columns_.area + at, padded, gt, area, ious);
      // std::pow may fall by an ulp where the IoU rises
      if (!(highest > T(0) && rule.largest(highest) >= bound() * T(0.999))) continue;
      int64_t found = 0;
      for (int64_t i = 0; i < count; ++i) {
        if (!(ious[i] > T(0))) continue;
        const T most = rule.largest(ious[i]);
        if (most > bound()) overlaps[found++] = {b * kBlock + i, most};
      }
      if (found > 0) fn(overlaps, found);
    }
  }

 private:
  template <typename scalar_t>
  void load(const scalar_t* boxes, int64_t block) {
    const int64_t first = block / blocks_ * num_priors_, at = block * kBlock, begin = block % blocks_ * kBlock;
    const int64_t last = num_priors_ - 1;
    for (int64_t i = 0; i < kBlock; ++i) columns_.set(at + i, box_at<T>(boxes, first + std::min(begin + i, last)));
    hulls_[block] = hull_of_columns(columns_.x1 + at, columns_.y1 + at, columns_.x2 + at, columns_.y2 + at, kBlock);
  }

  int64_t num_priors_, blocks_;
  BoxColumns<T> columns_;
  std::vector<Box<T>> hulls_;
};

// logits: null for scores of 1.
template <typename T, typename scalar_t, typename logit_t>
void find_best(const Images<T>& images, const scalar_t* gts, const int64_t* gt_image, int64_t num_gts,
               const logit_t* logits, const int64_t* columns, int64_t num_priors, int64_t num_classes, int64_t k,
               const AlignmentRule<T>& rule, scalar_t* metrics, int64_t* priors) {
  for_chunks(num_gts, num_chunks(num_gts * num_priors, 65536), [&](int64_t, int64_t from, int64_t to) {
    BestPriors<T> best(k);
    for (int64_t g = from; g < to; ++g) {
      const auto bound = [&] { return best.bound(); };
      const auto offer = [&](int64_t prior, T metric) {
        if (metric > bound()) best.add(metric, prior);
      };
      const auto consider = [&](const Overlap<T>* overlaps, int64_t count) {
        if (logits == nullptr) {
          for (int64_t i = 0; i < count; ++i) offer(overlaps[i].prior, overlaps[i].most);
          return;
        }
        // each is in another row of the logits: all are read before the first is used, so that the reads overlap
        const logit_t* image_logits = logits + gt_image[g] * num_priors * num_classes + columns[g];
        T read[kBlock], scores[kBlock];
        for (int64_t i = 0; i < count; ++i) read[i] = static_cast<T>(image_logits[overlaps[i].prior * num_classes]);
        scores_of(read, count, rule, scores);
        for (int64_t i = 0; i < count; ++i) offer(overlaps[i].prior, scores[i] * overlaps[i].most);
      };
      images.scan(gt_image[g], box_at<T>(gts, g), rule, bound, consider);
      best.take(metrics + g * k, priors + g * k);
    }
  });
}

std::tuple<Tensor, Tensor> topk_alignment(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& gt_image,
                                          const std::optional<Tensor>& logits, const std::optional<Tensor>& columns,
                                          int64_t k, double alpha, double beta) {
  constexpr const char* op = "topk_alignment";
  check_topk_alignment(op, boxes, gt_boxes, gt_image, logits, columns, k, alpha, beta);
  const Tensor boxes_c = torch::stable::contiguous(boxes), gts_c = torch::stable::contiguous(gt_boxes);
  const Tensor image_c = torch::stable::contiguous(gt_image);
  const std::optional<Tensor> logits_c = contiguous(logits), columns_c = contiguous(columns);
  const int64_t batch = boxes_c.size(0), num_priors = boxes_c.size(1), num_gts = gts_c.size(0);
  const int64_t num_classes = logits_c.has_value() ? logits_c->size(2) : 0;
  const int64_t* images = image_c.const_data_ptr<int64_t>();
  const int64_t* gt_columns = columns_c.has_value() ? columns_c->const_data_ptr<int64_t>() : nullptr;
  for (int64_t g = 0; g < num_gts; ++g) {
    MLC_CHECK_VALUE(images[g] >= 0 && images[g] < batch, op, "gt_image must be in [0, ", batch, "), but gt_image[", g,
                    "] is ", images[g]);
    MLC_CHECK_VALUE(gt_columns == nullptr || (gt_columns[g] >= 0 && gt_columns[g] < num_classes), op,
                    "columns must be in [0, ", num_classes, "), but columns[", g, "] is ", gt_columns[g]);
  }
  Tensor metrics = new_empty(boxes, {num_gts, k}, boxes.scalar_type());
  Tensor priors = new_empty(boxes, {num_gts, k}, ScalarType::Long);
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const Images<T> columns_of_boxes(boxes_c.const_data_ptr<scalar_t>(), batch, num_priors);
    const auto find = [&](const auto* logit) {
      find_best<T>(columns_of_boxes, gts_c.const_data_ptr<scalar_t>(), images, num_gts, logit, gt_columns, num_priors,
                   num_classes, k, AlignmentRule<T>::of(alpha, beta), metrics.mutable_data_ptr<scalar_t>(),
                   priors.mutable_data_ptr<int64_t>());
    };
    if (!logits_c.has_value()) return find(static_cast<const float*>(nullptr));
    dispatch_floating(logits_c->scalar_type(),
                      [&](auto logit_tag) { find(logits_c->const_data_ptr<decltype(logit_tag)>()); });
  });
  return {metrics, priors};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("topk_alignment", TORCH_BOX(&mlc::cpu::topk_alignment)); }
