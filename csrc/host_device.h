// What lets one rule serve both sides: the same inline functions compile for the CPU kernels and for nvcc.
//
// Floating point is kept identical on both: the build passes -ffp-contract=off (CPU) and -fmad=false (CUDA), so a
// multiply and an add are never fused on one side only. The exception, with bounds of its own, is logistic.h.
#pragma once

#if defined(__CUDACC__)
#define MLC_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// forced: a rule left standing as a function would be scalar code of the plainest instruction set in every clone below
#define MLC_HOST_DEVICE inline __attribute__((always_inline))
#else
#define MLC_HOST_DEVICE inline
#endif

// Hot CPU loops are compiled for several instruction sets and chosen at load time, so one wheel is fast everywhere.
// Sanitizers cannot instrument the resolver, and clang's support is partial: there the plain version is used.
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && !defined(__CUDACC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(MLC_NO_SIMD_CLONES)
#define MLC_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MLC_SIMD_CLONES
#endif

#if defined(__CUDACC__)
namespace mlc {

// 1 / x to 1 ulp, for a normal x. One instruction, which no intrinsic gives alone.
__device__ __forceinline__ float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace mlc
#endif
