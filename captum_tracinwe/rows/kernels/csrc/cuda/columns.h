// Rows on their way through shared memory: 128 bytes of each at a time, the next ones under way while these are multiplied.
//
// A row's 128 bytes lie 144 apart: threads that read the same columns of eight rows meet all banks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "device.h"

// Copies that run by themselves, and tensor cores for rows of two bytes, came with Ampere. The tests run both ways.
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800) || (defined(CUDA_EMULATED) && !defined(CUDA_EMULATED_OLD))
#define TRACINWE_AMPERE 1
#else
#define TRACINWE_AMPERE 0
#endif

namespace tracinwe {
namespace {

template <class T>
using sum_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int kPiece = 16, kPieces = 8;  // bytes of one copy; copies to a row's share
constexpr int kPitch = kPiece * kPieces + kPiece;
template <class T>
constexpr int kVector = kPiece / sizeof(T);
template <class T>
constexpr int kColumns = kPieces * kVector<T>;

// `given` bytes and zeros behind them up to kPiece.
__device__ inline void copy_piece(unsigned char* to, const void* from, int given) {
#if defined(CUDA_EMULATED) && TRACINWE_AMPERE
  emulated::copy_later(to, from, static_cast<size_t>(given), kPiece);
#elif TRACINWE_AMPERE
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(given) : "memory");
#else
  for (int byte = 0; byte < kPiece; byte += 2)  // no dtype is smaller
    *reinterpret_cast<uint16_t*>(to + byte) =
        byte < given ? *reinterpret_cast<const uint16_t*>(static_cast<const unsigned char*>(from) + byte) : uint16_t{0};
#endif
}

__device__ inline void end_copies() {
#if defined(CUDA_EMULATED) && TRACINWE_AMPERE
  emulated::end_group();
#elif TRACINWE_AMPERE
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int BUT>
__device__ inline void wait_for_copies() {
#if defined(CUDA_EMULATED) && TRACINWE_AMPERE
  emulated::wait_for_groups(BUT);
#elif TRACINWE_AMPERE
  asm volatile("cp.async.wait_group %0;" ::"n"(BUT) : "memory");
#endif
}

template <class T>
using bits_t = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// Columns k:k + kVector of a row, zeros beyond its end and where there is no row (null).
template <bool ALIGNED, class T>
__device__ inline void load_piece(unsigned char* to, const T* row, const T* somewhere, int64_t k, int64_t width) {
  const int64_t left = row ? width - k : 0;
  const int columns = left >= kVector<T> ? kVector<T> : left > 0 ? static_cast<int>(left) : 0;
  if (ALIGNED) {
    copy_piece(to, columns ? row + k : somewhere, columns * static_cast<int>(sizeof(T)));
    return;
  }
  const auto* const from = reinterpret_cast<const bits_t<T>*>(row);
  auto* const at = reinterpret_cast<bits_t<T>*>(to);
#pragma unroll
  for (int v = 0; v < kVector<T>; ++v) at[v] = v < columns ? from[k + v] : bits_t<T>(0);
}

// Shares of 64 rows of b and ROWS_A rows of a, in turn through STAGES places; kThreads threads.
template <int ROWS_A>
constexpr int kStages = ROWS_A == 64 ? 2 : 3;
template <int ROWS_A>
constexpr int kStageBytes = (64 + ROWS_A) * kPitch;
constexpr size_t kSharedBytes = 3 * (64 + 32) * kPitch;  // the most: 41,472, so that five blocks fit beside each other

// Calls compute(rows of b, rows of a) for each share, its columns ascending. row_a and row_b say where rows begin; null: none.
template <bool ALIGNED, int ROWS_A, class T, class RowA, class RowB, class Compute>
__device__ inline void through_columns(
    const T* somewhere, int64_t width, const RowA& row_a, const RowB& row_b, Compute&& compute) {
  auto* const shared = shared_as<unsigned char>();
  constexpr int stages = kStages<ROWS_A>, at_once = kThreads / kPieces, of_a = ROWS_A / at_once, of_b = 64 / at_once;
  static_assert(stages * kStageBytes<ROWS_A> <= static_cast<int>(kSharedBytes));
  const int piece = static_cast<int>(threadIdx.x) % kPieces, row = static_cast<int>(threadIdx.x) / kPieces;
  const T *mine_a[of_a], *mine_b[of_b];
#pragma unroll
  for (int s = 0; s < of_a; ++s) mine_a[s] = row_a(row + s * at_once);
#pragma unroll
  for (int s = 0; s < of_b; ++s) mine_b[s] = row_b(row + s * at_once);
  const int64_t shares = ceil_div(width, kColumns<T>);
  const auto load = [&](int64_t share) {
    if (share < shares) {
      unsigned char* const to = shared + share % stages * kStageBytes<ROWS_A> + row * kPitch + piece * kPiece;
      const int64_t k = share * kColumns<T> + piece * kVector<T>;
#pragma unroll
      for (int s = 0; s < of_b; ++s) load_piece<ALIGNED>(to + s * at_once * kPitch, mine_b[s], somewhere, k, width);
#pragma unroll
      for (int s = 0; s < of_a; ++s) load_piece<ALIGNED>(to + (64 + s * at_once) * kPitch, mine_a[s], somewhere, k, width);
    }
    end_copies();  // also where nothing was loaded: the groups are counted
  };
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) load(s);
  for (int64_t share = 0; share < shares; ++share) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // this share is there for all, and all are done with the one before
    load(share + stages - 1);
    const unsigned char* const from = shared + share % stages * kStageBytes<ROWS_A>;
    compute(from, from + 64 * kPitch);
  }
  wait_for_copies<0>();
  __syncthreads();  // the next rows go to the same places
}

}  // namespace
}  // namespace tracinwe
