// match_boxes through the shim: blocks of two warps.
#include "cuda_shim.h"

#include "../../csrc/cuda/match_boxes.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace {

template <typename T>
void match(const T* priors, int64_t num_priors, const T* gts, const int64_t* offsets, int64_t batch, int64_t num_gts,
           const bool* crowd, MatchRule<T> rule, int8_t* labels, int64_t* matched, T* ious) {
  constexpr int threads = 64;
  const int64_t num_warps = (num_priors + 31) / 32;
  std::vector<iou_bits_t<T>> of_gt(static_cast<size_t>(num_gts) + 1, 0),
      of_warp(static_cast<size_t>(batch * num_warps));
  std::vector<Four<T>> hull_of_warp(static_cast<size_t>(num_warps));
  const MatchBests<T> bests{of_gt.data(), of_warp.data(), hull_of_warp.data()->v};
  // one row of blocks for two images: the stride over images runs too
  const dim3 grid(static_cast<unsigned>((num_priors + threads - 1) / threads), batch > 1 ? 2 : 1);
  cuda_shim::launch(grid, threads, [&] {
    match_best_kernel<T, threads>(priors, num_priors, gts, offsets, batch, num_gts, crowd, rule, bests, labels, matched,
                                  ious);
  });
  if (rule.forced == Forced::kNone || num_gts == 0) return;
  cuda_shim::launch(grid, threads, [&] {
    match_force_kernel<T, threads>(priors, num_priors, gts, offsets, batch, num_gts, crowd, rule, bests, labels,
                                   matched);
  });
}

}  // namespace

extern "C" {

void shim_match_boxes_float(const float* priors, int64_t num_priors, const float* gts, const int64_t* offsets,
                            int64_t batch, int64_t num_gts, const bool* crowd, double high, double low, int64_t forced,
                            double min_forced_iou, double crowd_iof, int8_t* labels, int64_t* matched, float* ious) {
  const MatchRule<float> rule{static_cast<float>(high), static_cast<float>(low), static_cast<float>(min_forced_iou),
                              static_cast<float>(crowd_iof), static_cast<Forced>(forced)};
  match<float>(priors, num_priors, gts, offsets, batch, num_gts, crowd, rule, labels, matched, ious);
}

void shim_match_boxes_double(const double* priors, int64_t num_priors, const double* gts, const int64_t* offsets,
                             int64_t batch, int64_t num_gts, const bool* crowd, double high, double low, int64_t forced,
                             double min_forced_iou, double crowd_iof, int8_t* labels, int64_t* matched, double* ious) {
  match<double>(priors, num_priors, gts, offsets, batch, num_gts, crowd,
                {high, low, min_forced_iou, crowd_iof, static_cast<Forced>(forced)}, labels, matched, ious);
}
}
