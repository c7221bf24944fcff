// The focal loss through the shim.
#include "cuda_shim.h"

#include "../../csrc/cuda/sigmoid_focal_loss.cuh"

using namespace mlc::cuda;

namespace {

constexpr int kThreads = 64;

template <bool kWhole, bool kSquare, typename T>
void focal(const FocalInputs<T, T>& in, unsigned blocks, const T* grad, double* partial, T* sum, T* gradient) {
  cuda_shim::launch(blocks, kThreads, [&] { sum_focal_loss<kWhole, kSquare, kThreads>(in, partial); });
  cuda_shim::launch(1, kSumThreads, [&] { add_partial_sums(partial, static_cast<int>(blocks), sum); });
  cuda_shim::launch(blocks, kThreads, [&] { focal_gradient<kWhole, kSquare, kThreads>(in, grad, gradient); });
}

template <typename T>
void focal_of_kind(const T* logits, const int64_t* labels, const T* weights, int64_t rows, int64_t columns,
                   double alpha, double gamma, int64_t blocks, const T* grad, double* partial, T* sum, T* gradient) {
  const FocalInputs<T, T> in{logits,
                             labels,
                             weights,
                             rows * columns,
                             static_cast<int>(columns),
                             static_cast<T>(1 - alpha),
                             static_cast<T>(alpha),
                             static_cast<T>(gamma)};
  const bool whole = columns % kPackSize<T> == 0, square = gamma == 2;
  const auto run = whole ? (square ? &focal<true, true, T> : &focal<true, false, T>)
                         : (square ? &focal<false, true, T> : &focal<false, false, T>);
  run(in, static_cast<unsigned>(blocks), grad, partial, sum, gradient);
}

}  // namespace

extern "C" {

void shim_focal_float(const float* logits, const int64_t* labels, const float* weights, int64_t rows, int64_t columns,
                      double alpha, double gamma, int64_t blocks, const float* grad, double* partial, float* sum,
                      float* gradient) {
  focal_of_kind(logits, labels, weights, rows, columns, alpha, gamma, blocks, grad, partial, sum, gradient);
}

void shim_focal_double(const double* logits, const int64_t* labels, const double* weights, int64_t rows,
                       int64_t columns, double alpha, double gamma, int64_t blocks, const double* grad, double* partial,
                       double* sum, double* gradient) {
  focal_of_kind(logits, labels, weights, rows, columns, alpha, gamma, blocks, grad, partial, sum, gradient);
}
}
