// Dot products of rows by one warp.
//
// Which lane adds which columns, and in which order, depends on the width alone; alignment only decides how they are
// loaded. So a pair's product has the same bits in every tile, block and launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace tracinwe {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

template <class T>
using sum_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
constexpr int kVector = 16 / sizeof(T);  // elements of one load of 16 bytes

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Columns k:k + kVector of a row, zeros beyond its end.
template <bool ALIGNED, class T>
__device__ inline void load(sum_t<T>* out, const T* row, int64_t k, int64_t width) {
  if (ALIGNED && k + kVector<T> <= width) {
    const uint4 bits = *reinterpret_cast<const uint4*>(row + k);
    T elements[kVector<T>];
    static_assert(sizeof elements == sizeof bits, "one load");
    memcpy(elements, &bits, sizeof bits);
#pragma unroll
    for (int v = 0; v < kVector<T>; ++v) out[v] = widen(elements[v]);
    return;
  }
#pragma unroll
  for (int v = 0; v < kVector<T>; ++v) out[v] = k + v < width ? widen(row[k + v]) : sum_t<T>(0);
}

// out[t][s] = ⟨row t of a, row s of b⟩, in every lane of the warp.
template <bool ALIGNED, int NA, int NB, class T>
__device__ inline void tile(
    const T* const (&a)[NA], const T* const (&b)[NB], int64_t width, int lane, sum_t<T> (&out)[NA][NB]) {
  using S = sum_t<T>;
  constexpr int vector = kVector<T>;
#pragma unroll
  for (int t = 0; t < NA; ++t)
#pragma unroll
    for (int s = 0; s < NB; ++s) out[t][s] = S(0);
  for (int64_t k = static_cast<int64_t>(lane) * vector; k < width; k += kWarpSize * vector) {
    S columns_b[NB][vector];
#pragma unroll
    for (int s = 0; s < NB; ++s) load<ALIGNED>(columns_b[s], b[s], k, width);
#pragma unroll
    for (int t = 0; t < NA; ++t) {
      S columns_a[vector];
      load<ALIGNED>(columns_a, a[t], k, width);
#pragma unroll
      for (int s = 0; s < NB; ++s)
#pragma unroll
        for (int v = 0; v < vector; ++v) out[t][s] += columns_a[v] * columns_b[s][v];
    }
  }
#pragma unroll
  for (int t = 0; t < NA; ++t)
#pragma unroll
    for (int s = 0; s < NB; ++s)
#pragma unroll
      for (int distance = kWarpSize / 2; distance; distance /= 2)
        out[t][s] += __shfl_xor_sync(kAllLanes, out[t][s], distance);
}

}  // namespace
}  // namespace tracinwe
