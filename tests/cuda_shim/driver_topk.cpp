// topk_alignment through the shim: blocks of two warps.
#include "cuda_shim.h"

#include "../../csrc/cuda/topk_alignment.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace {

template <typename T>
void find(const T* boxes, int64_t batch, int64_t num_priors, const T* gts, int64_t num_gts, const int64_t* gt_image,
          const T* logits, const int64_t* columns, int64_t num_classes, int64_t k, double alpha, double beta,
          T* metrics, int64_t* priors) {
  constexpr int threads = 64;
  cuda_shim::launch(static_cast<unsigned>(num_gts), threads, [&] {
    topk_alignment_kernel<T, threads>(boxes, batch, num_priors, gts, gt_image, logits, columns, num_classes,
                                      static_cast<int>(k), AlignmentRule<T>::of(alpha, beta), metrics, priors);
  });
}

}  // namespace

extern "C" {

void shim_topk_alignment_float(const float* boxes, int64_t batch, int64_t num_priors, const float* gts, int64_t num_gts,
                               const int64_t* gt_image, const float* logits, const int64_t* columns,
                               int64_t num_classes, int64_t k, double alpha, double beta, float* metrics,
                               int64_t* priors) {
  find<float>(boxes, batch, num_priors, gts, num_gts, gt_image, logits, columns, num_classes, k, alpha, beta, metrics,
              priors);
}

void shim_topk_alignment_double(const double* boxes, int64_t batch, int64_t num_priors, const double* gts,
                                int64_t num_gts, const int64_t* gt_image, const double* logits, const int64_t* columns,
                                int64_t num_classes, int64_t k, double alpha, double beta, double* metrics,
                                int64_t* priors) {
  find<double>(boxes, batch, num_priors, gts, num_gts, gt_image, logits, columns, num_classes, k, alpha, beta, metrics,
               priors);
}
}
