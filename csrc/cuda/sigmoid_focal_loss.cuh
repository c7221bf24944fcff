// Sigmoid focal loss and its gradient. Each thread takes packs of 16 bytes of logits, in a grid-stride loop. With 40 to
// 50 instructions an entry, float32 is about balanced between arithmetic and memory; the forward pass of half types is
// limited by arithmetic.
#pragma once

#include <climits>

#include "../sigmoid_focal_loss.h"
#include "boxes.cuh"
#include "sum.cuh"

namespace mlc::cuda {

template <typename scalar_t>
constexpr int kPackSize = kVectorBytes / static_cast<int>(sizeof(scalar_t));

template <typename scalar_t>
struct alignas(kVectorBytes) Pack {
  scalar_t v[kPackSize<scalar_t>];
};

template <typename T, typename scalar_t>
struct FocalInputs {
  const scalar_t* __restrict__ logits;  // aligned for packs
  const int64_t* __restrict__ labels;
  const T* __restrict__ weights;  // or null
  int64_t numel;
  int columns;
  T negative, positive, gamma;  // the factors of a row of weight 1

  __device__ __forceinline__ FocalRow<T> row(int64_t r) const {
    return focal_row(labels[r], weights ? weights[r] : T(1), negative, positive);
  }
  // The column of the row's class; INT_MIN, which no column equals, if the row has no class or one above C.
  __device__ __forceinline__ int class_column(const FocalRow<T>& terms) const {
    return static_cast<uint64_t>(terms.hit) < static_cast<uint64_t>(columns) ? static_cast<int>(terms.hit) : INT_MIN;
  }
};

// Calls use(i, limit, z, factor) for each pack of this thread: entry i + j, j < limit, has the loss factor[j] *
// h(z[j]). Both are 0 in a row that is not read. kWhole: every row consists of whole packs.
template <bool kWhole, int kThreads, typename T, typename scalar_t, typename Use>
__device__ __forceinline__ void for_packs(const FocalInputs<T, scalar_t>& in, const Use& use) {
  constexpr int size = kPackSize<scalar_t>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * size;
  const int64_t stride_rows = stride / in.columns;
  const int stride_columns = static_cast<int>(stride % in.columns);
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * size;
  int64_t row = i / in.columns;
  int column = static_cast<int>(i % in.columns);
  while (i < in.numel) {
    const int limit = kWhole || in.numel - i >= size ? size : static_cast<int>(in.numel - i);
    FocalRow<T> terms = in.row(row);
    Pack<scalar_t> pack{};
    if (limit == size && (!kWhole || terms.counts)) pack = *reinterpret_cast<const Pack<scalar_t>*>(in.logits + i);
    if constexpr (!kWhole) {
#pragma unroll
      for (int j = 0; j < size; ++j) {
        if (limit < size && j < limit) pack.v[j] = in.logits[i + j];
      }
    }
    T z[size], factor[size];
    // counted from the pack's first entry; unsigned, because INT_MIN wraps
    int hit = static_cast<int>(static_cast<unsigned>(in.class_column(terms)) - static_cast<unsigned>(column));
    if constexpr (kWhole) {
#pragma unroll
      for (int j = 0; j < size; ++j) z[j] = static_cast<T>(pack.v[j]), factor[j] = terms.negative;
      if (static_cast<unsigned>(hit) < static_cast<unsigned>(size)) {  // rare: no selections for the other packs
#pragma unroll
        for (int j = 0; j < size; ++j) {
          if (j == hit) z[j] = -z[j], factor[j] = terms.positive;
        }
      }
    } else {
      int64_t r = row;
      int next = in.columns - column;  // where the next row begins
#pragma unroll
      for (int j = 0; j < size; ++j) {
        if (j == next && j < limit) {
          terms = in.row(++r);
          hit = in.class_column(terms) + j;
          next += in.columns;
        }
        const T x = terms.counts ? static_cast<T>(pack.v[j]) : T(0);
        z[j] = j == hit ? -x : x;
        factor[j] = j == hit ? terms.positive : terms.negative;
      }
    }
    use(i, limit, z, factor);
    i += stride;
    row += stride_rows;
    column += stride_columns;
    if (column >= in.columns) {
      column -= in.columns;
      ++row;
    }
  }
}

// partial [gridDim.x]: the sums of the blocks.
template <bool kWhole, bool kSquare, int kThreads, typename T, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    sum_focal_loss(const FocalInputs<T, scalar_t> in, double* __restrict__ partial) {
  constexpr int size = kPackSize<scalar_t>;
  double sum = 0;
  for_packs<kWhole, kThreads>(in, [&](int64_t, int limit, const T(&z)[size], const T(&factor)[size]) {
    T of_pack = 0;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      if (kWhole || j < limit) of_pack = multiply_add(factor[j], focal_value<kSquare>(z[j], in.gamma), of_pack);
    }
    sum += static_cast<double>(of_pack);
  });
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// grad: of the sum. out is aligned for packs.
template <bool kWhole, bool kSquare, int kThreads, typename T, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    focal_gradient(FocalInputs<T, scalar_t> in, const T* __restrict__ grad, scalar_t* __restrict__ out) {
  constexpr int size = kPackSize<scalar_t>;
  in.negative *= *grad;
  in.positive *= -*grad;
  for_packs<kWhole, kThreads>(in, [&](int64_t i, int limit, const T(&z)[size], const T(&factor)[size]) {
    Pack<scalar_t> pack;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      pack.v[j] = static_cast<scalar_t>(factor[j] * focal_slope<kSquare>(z[j], in.gamma));
    }
    if (kWhole || limit == size) {
      *reinterpret_cast<Pack<scalar_t>*>(out + i) = pack;
    } else {
#pragma unroll
      for (int j = 0; j < size; ++j) {
        if (j < limit) out[i + j] = pack.v[j];
      }
    }
  });
}

}  // namespace mlc::cuda
