// The k largest score^alpha * IoU^beta of each gt: a block a gt. The rule is csrc/topk_alignment.h.
//
// A thread has every kThreads-th prior, and keeps the best of them. In each of k rounds the block finds the best of its
// threads; then the thread that had it looks for its next best.
#pragma once

#include "../topk_alignment.h"
#include "block.cuh"
#include "boxes.cuh"

namespace mlc::cuda {

struct FirstOfTwo {
  template <typename T>
  __device__ __forceinline__ RankedPrior<T> operator()(const RankedPrior<T>& a, const RankedPrior<T>& b) const {
    return b.precedes(a) ? b : a;
  }
};

// The priors of a gt's image.
template <typename T, typename scalar_t, typename logit_t>
struct PriorsOfGt {
  const scalar_t* boxes;  // of the image
  const logit_t* logits;  // of the image, in the gt's column; null for scores of 1
  int64_t num_priors, num_classes;
  Box<T> gt;
  T area;
  AlignmentRule<T> rule;

  __device__ __forceinline__ T metric(int64_t prior) const {
    const Box<T> box = load_box<T>(boxes, prior);
    if (!(intersection(box, gt) > T(0))) return T(0);
    const T most = rule.largest(iou_of(box, box.area(), gt, area));
    return logits == nullptr ? most : rule.score(static_cast<T>(logits[prior * num_classes])) * most;
  }

  // The first prior of a thread that follows `last` in the order; with kAll the first of all.
  template <bool kAll>
  __device__ __forceinline__ RankedPrior<T> next(int first, int step, const RankedPrior<T>& last) const {
    RankedPrior<T> best = no_prior<T>();
    for (int64_t prior = first; prior < num_priors; prior += step) {
      const RankedPrior<T> found{metric(prior), prior};
      // priors come in ascending order: of equal metrics the first stays
      if (found.metric > best.metric && (kAll || last.precedes(found))) best = found;
    }
    return best;
  }
};

template <typename T, int kThreads, typename scalar_t, typename logit_t>
__global__ void __launch_bounds__(kThreads)
    topk_alignment_kernel(const scalar_t* __restrict__ boxes, int64_t batch, int64_t num_priors,
                          const scalar_t* __restrict__ gts, const int64_t* __restrict__ gt_image,
                          const logit_t* __restrict__ logits, const int64_t* __restrict__ columns, int64_t num_classes,
                          int k, AlignmentRule<T> rule, scalar_t* __restrict__ metrics, int64_t* __restrict__ priors) {
  const int64_t g = blockIdx.x, image = gt_image[g];
  const int64_t column = columns == nullptr ? 0 : columns[g];
  const bool in_range = image >= 0 && image < batch && (columns == nullptr || (column >= 0 && column < num_classes));
  const int64_t row = in_range ? image * num_priors : 0;
  const logit_t* of_class = logits == nullptr || !in_range ? nullptr : logits + row * num_classes + column;
  const Box<T> gt = load_box<T>(gts, g);
  const PriorsOfGt<T, scalar_t, logit_t> mine{boxes + 4 * row, of_class, in_range ? num_priors : 0, num_classes, gt,
                                              gt.area(),       rule};
  const int thread = static_cast<int>(threadIdx.x);
  RankedPrior<T> best = mine.template next<true>(thread, kThreads, no_prior<T>());
  for (int i = 0; i < k; ++i) {
    const RankedPrior<T> first = block_reduce<kThreads>(best, FirstOfTwo{});
    if (first.prior < 0) {  // none is left
      for (int rest = i + thread; rest < k; rest += kThreads) {
        metrics[g * k + rest] = static_cast<scalar_t>(T(0));
        priors[g * k + rest] = -1;
      }
      return;
    }
    if (thread == 0) {
      metrics[g * k + i] = static_cast<scalar_t>(first.metric);
      priors[g * k + i] = first.prior;
    }
    if (best.prior == first.prior) best = mine.template next<false>(thread, kThreads, first);
  }
}

}  // namespace mlc::cuda
