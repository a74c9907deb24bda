// As much of CUDA as the kernels use, on emulated threads. Stands in for the toolkit's header of this name.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "../emulator.h"
#include "../memory.h"
#include "../streams.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define threadIdx emulated::thread_index()
#define blockIdx emulated::block_index()
#define blockDim emulated::block_size()
#define gridDim emulated::grid_size()

struct uint4 {
  unsigned x, y, z, w;
};

inline void __syncthreads() { emulated::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emulated::warp_barrier(mask); }

// The emulator's own memory, which is none of the device's: not for the watch over accesses.
#define TRACINWE_UNWATCHED __attribute__((no_sanitize("thread")))

// What is exchanged by value, with the lane that it comes from chosen by `source`.
template <class X>
TRACINWE_UNWATCHED inline X emulated_shuffle(unsigned mask, X mine, int source) {
  const unsigned char* all = emulated::exchange(mask, &mine, sizeof mine);
  if (!(mask >> (source & 31) & 1)) emulated::fault("a shuffle from a lane that is not in the mask");
  X theirs;
  __builtin_memcpy(&theirs, all + emulated::kSlot * static_cast<size_t>(source & 31), sizeof theirs);
  return theirs;
}
template <class X>
inline X __shfl_xor_sync(unsigned mask, X mine, int distance) {
  return emulated_shuffle(mask, mine, emulated::lane() ^ distance);
}
template <class X>
inline X __shfl_sync(unsigned mask, X mine, int lane) {
  return emulated_shuffle(mask, mine, lane);
}
template <class X>
inline X __shfl_up_sync(unsigned mask, X mine, unsigned distance) {
  const int lane = emulated::lane(), from = lane - static_cast<int>(distance);
  return emulated_shuffle(mask, mine, from < 0 ? lane : from);
}
TRACINWE_UNWATCHED inline unsigned __ballot_sync(unsigned mask, bool mine) {
  const unsigned char* all = emulated::exchange(mask, &mine, sizeof mine);
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) votes |= static_cast<unsigned>(all[emulated::kSlot * static_cast<size_t>(l)] & 1) << l;
  return votes;
}

inline float fma(float x, float y, float sum) { return __builtin_fmaf(x, y, sum); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

// The watch would take them for plain accesses: they tell it themselves.
#define TRACINWE_ATOMIC template <class X> TRACINWE_UNWATCHED inline X
template <class X>
TRACINWE_UNWATCHED inline X emulated_swap(X* at, X now) {
  const X before = *at;
  *at = now;
  return before;
}
inline void emulated_atomic(const void* at, size_t bytes) {
  emulated::turn_may_end();
  emulated::note_access(at, bytes, emulated::Access::atomic);
}
TRACINWE_ATOMIC atomicAdd(X* at, std::common_type_t<X> more) {
  return emulated_atomic(at, sizeof(X)), emulated_swap<X>(at, *at + more);
}
TRACINWE_ATOMIC atomicOr(X* at, std::common_type_t<X> more) {
  return emulated_atomic(at, sizeof(X)), emulated_swap<X>(at, *at | more);
}
TRACINWE_ATOMIC atomicMin(X* at, std::common_type_t<X> other) {
  return emulated_atomic(at, sizeof(X)), emulated_swap<X>(at, *at < other ? *at : other);
}
TRACINWE_ATOMIC atomicCAS(X* at, std::common_type_t<X> expected, std::common_type_t<X> wanted) {
  return emulated_atomic(at, sizeof(X)), emulated_swap<X>(at, *at == expected ? wanted : *at);
}
#undef TRACINWE_ATOMIC
