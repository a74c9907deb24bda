// Products of rows whose shares lie in shared memory.
//
// A product is one chain of fused multiply-adds over the columns, ascending; for rows of two bytes, of tensor cores' sums
// over 64 columns each. It does not depend on where in a tile the rows lie: the same bits in every tile, block and launch.
#pragma once

#include "columns.h"

namespace tracinwe {
namespace {

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ inline void read_piece(sum_t<T> (&out)[kVector<T>], const unsigned char* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  T elements[kVector<T>];
  static_assert(sizeof elements == sizeof bits, "one load");
  memcpy(elements, &bits, sizeof bits);
#pragma unroll
  for (int v = 0; v < kVector<T>; ++v) out[v] = widen(elements[v]);
}

// Sixteen threads side by side have the test rows, eight groups of them the training rows: (8 × TESTS / 16) a thread.
template <int TESTS, class T>
struct Chains {
  static constexpr int kA = TESTS / 16, kB = 8;
  using S = sum_t<T>;
  S sums[kB][kA];
  const int slices;  // of eight training rows, that there are: of a rare token's tile most are not

  __device__ explicit Chains(int rows) : slices((rows + 7) / 8) {
#pragma unroll
    for (int s = 0; s < kB; ++s)
#pragma unroll
      for (int t = 0; t < kA; ++t) sums[s][t] = S(0);
  }

  __device__ void operator()(const unsigned char* rows_b, const unsigned char* rows_a) {
    const unsigned char* const b = rows_b + threadIdx.x / 16 * kPitch;
    const unsigned char* const a = rows_a + threadIdx.x % 16 * kPitch;
#pragma unroll 2
    for (int piece = 0; piece < kPieces; ++piece) {
      S of_a[kA][kVector<T>];
#pragma unroll
      for (int t = 0; t < kA; ++t) read_piece<T>(of_a[t], a + t * 16 * kPitch + piece * kPiece);
#pragma unroll
      for (int s = 0; s < kB; ++s) {
        if (s >= slices) break;
        S of_b[kVector<T>];
        read_piece<T>(of_b, b + s * 8 * kPitch + piece * kPiece);
#pragma unroll
        for (int t = 0; t < kA; ++t)
#pragma unroll
          for (int v = 0; v < kVector<T>; ++v) sums[s][t] = fma(of_b[v], of_a[t][v], sums[s][t]);
      }
    }
  }

  // give(row of b, row of a, product) for each.
  template <class Give>
  __device__ void for_each(const Give& give) const {
#pragma unroll
    for (int s = 0; s < kB; ++s)
#pragma unroll
      for (int t = 0; t < kA; ++t)
        give(static_cast<int>(threadIdx.x) / 16 + s * 8, static_cast<int>(threadIdx.x) % 16 + t * 16, sums[s][t]);
  }
};

// Row r of b with row r of a only: half the threads have one chain each.
template <class T>
struct Diagonal {
  using S = sum_t<T>;
  S sum = S(0);

  __device__ explicit Diagonal(int) {}
  __device__ void operator()(const unsigned char* rows_b, const unsigned char* rows_a) {
    if (threadIdx.x >= 64) return;
    for (int piece = 0; piece < kPieces; ++piece) {
      S a[kVector<T>], b[kVector<T>];
      read_piece<T>(a, rows_a + threadIdx.x * kPitch + piece * kPiece);
      read_piece<T>(b, rows_b + threadIdx.x * kPitch + piece * kPiece);
#pragma unroll
      for (int v = 0; v < kVector<T>; ++v) sum = fma(b[v], a[v], sum);
    }
  }
  template <class Give>
  __device__ void for_each(const Give& give) const {
    if (threadIdx.x < 64) give(static_cast<int>(threadIdx.x), sum);
  }
};

#if TRACINWE_AMPERE
// c += b · aᵀ for 16 training rows, 8 test rows and 16 columns, spread over a warp as the instruction wants it.
template <class T>
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&b)[4], const uint32_t (&a)[2]) {
#ifdef CUDA_EMULATED
  emulated_mma<T>(c, b, a);
#else
  if constexpr (std::is_same_v<T, __half>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(a[0]), "r"(a[1]));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(a[0]), "r"(a[1]));
#endif
}

// A warp's 16 training rows with TESTS test rows. Tensor cores cut off what float32 rounds: within 64 columns they add, and
// float32 adds those sums, so that the error stays that of a few additions.
template <int TESTS, class T>
struct TensorSums {
  static constexpr int kA = TESTS / 8;
  float sums[kA][4];
  const int rows;  // training rows that there are

  __device__ explicit TensorSums(int rows_) : rows(rows_) {
#pragma unroll
    for (int t = 0; t < kA; ++t)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[t][c] = 0.0f;
  }

  // What lane 4 g + i holds: rows g and g + 8, columns 2 i, 2 i + 1 and the same 8 further on.
  __device__ static int group() { return lane_index() / 4; }
  __device__ static int within() { return lane_index() % 4; }
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / kWarpSize * 16; }

  // skip(t): test rows that this warp has no use for.
  template <class Skip>
  __device__ void add(const unsigned char* rows_b, const unsigned char* rows_a, const Skip& skip) {
    if (first_row() >= rows) return;
    float part[kA][4] = {};
    const auto word = [](const unsigned char* row, int column) {
      return *reinterpret_cast<const uint32_t*>(row + 2 * column);
    };
    const unsigned char* const upper = rows_b + (first_row() + group()) * kPitch;
    const unsigned char* const lower = upper + 8 * kPitch;
#pragma unroll
    for (int k = 0; k < 64; k += 16) {
      const int column = k + 2 * within();
      const uint32_t b[4] = {word(upper, column), word(lower, column), word(upper, column + 8), word(lower, column + 8)};
#pragma unroll
      for (int t = 0; t < kA; ++t) {
        if (skip(t)) continue;
        const unsigned char* const row = rows_a + (t * 8 + group()) * kPitch;
        const uint32_t a[2] = {word(row, column), word(row, column + 8)};
        multiply_add<T>(part[t], b, a);
      }
    }
#pragma unroll
    for (int t = 0; t < kA; ++t)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[t][c] += part[t][c];
  }

  __device__ void operator()(const unsigned char* rows_b, const unsigned char* rows_a) {
    add(rows_b, rows_a, [](int) { return false; });
  }

  template <class Give>
  __device__ void for_each(const Give& give) const {
#pragma unroll
    for (int t = 0; t < kA; ++t)
#pragma unroll
      for (int c = 0; c < 4; ++c) give(first_row() + group() + c / 2 * 8, t * 8 + 2 * within() + c % 2, sums[t][c]);
  }
};

// Row r of b with row r of a: each warp multiplies its 16 rows with the same 16, and keeps the diagonal.
template <class T>
struct TensorDiagonal : TensorSums<64, T> {
  using Whole = TensorSums<64, T>;
  using Whole::Whole;
  __device__ void operator()(const unsigned char* rows_b, const unsigned char* rows_a) {
    Whole::add(rows_b, rows_a, [](int t) { return t / 2 != static_cast<int>(threadIdx.x) / kWarpSize; });
  }
  template <class Give>
  __device__ void for_each(const Give& give) const {
    Whole::for_each([&](int row_b, int row_a, float product) {
      if (row_b == row_a) give(row_b, product);
    });
  }
};

template <class T>
constexpr bool kTensor = sizeof(T) == 2;
#else
template <class T>
constexpr bool kTensor = false;
template <int TESTS, class T>
struct TensorSums;
template <class T>
struct TensorDiagonal;
#endif

template <int TESTS, class T>
using Tile = std::conditional_t<kTensor<T>, TensorSums<TESTS, T>, Chains<TESTS, T>>;
template <class T>
using DiagonalTile = std::conditional_t<kTensor<T>, TensorDiagonal<T>, Diagonal<T>>;

// Whether every row starts at a multiple of 16 bytes.
template <class T>
bool aligned_rows(const Side& side) {
  const auto address = reinterpret_cast<uintptr_t>(side.values.const_data_ptr());
  return address % kPiece == 0 && side.stride() * static_cast<int64_t>(sizeof(T)) % kPiece == 0;
}

}  // namespace
}  // namespace tracinwe
