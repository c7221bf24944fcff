// The IoU losses through the shim.
#include "cuda_shim.h"

#include "../../csrc/cuda/iou_loss.cuh"

using namespace mlc::cuda;

extern "C" {

void shim_iou_loss(const float* boxes, const float* targets, const float* weights, int64_t n, int64_t kind, double eps,
                   int64_t blocks, const float* grad, double* partial, float* sum, float* gradient) {
  constexpr int threads = 64;
  const IouLossInputs<float, float> in{
      boxes, targets, weights, n, static_cast<mlc::IouLoss>(kind), static_cast<float>(eps)};
  const unsigned grid = static_cast<unsigned>(blocks);
  cuda_shim::launch(grid, threads, [&] { sum_iou_loss<threads>(in, partial); });
  cuda_shim::launch(1, kSumThreads, [&] { add_partial_sums(partial, static_cast<int>(blocks), sum); });
  cuda_shim::launch(grid, threads, [&] { iou_loss_gradient<threads>(in, grad, gradient); });
}
}
