// The loops worth vector instructions, compiled for each instruction set worth having, and the choice at run time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#if !defined(__GNUC__)
#error "The kernels need the vector extensions of GCC or Clang; build with CAPTUM_TRACINWE_NATIVE=0."
#endif
#define TRACINWE_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tracinwe {
namespace {  // a copy for each source file: the linker must never merge code of two instruction sets

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

struct Order {
  int64_t steps_down;  // how many ids are not above the one before
  bool negative;       // whether one is below zero
};

// What products are accumulated in, and the type of the scores.
template <class T>
using sum_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Rows next:end will be read, in this order, and have not been asked for; `most` of them may be on their way at once.
template <class T>
struct Ahead {
  const T* const* next;
  const T* const* end;
  int64_t most;

  // How many rows may be asked for before `now` is read.
  int64_t room(const T* const* now) {
    if (next < now) next = now < end ? now : end;
    return std::min(end - next, now + most - next);
  }
};

#define TRACINWE_ISA base
#define TRACINWE_BYTES 16
#define TRACINWE_TILE_A 2
#define TRACINWE_F16C 0
#include "simd_isa.h"
#undef TRACINWE_ISA
#undef TRACINWE_BYTES
#undef TRACINWE_TILE_A
#undef TRACINWE_F16C

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define TRACINWE_ISA avx2
#define TRACINWE_BYTES 32
#define TRACINWE_TILE_A 2
#define TRACINWE_F16C 1
#include "simd_isa.h"
#undef TRACINWE_ISA
#undef TRACINWE_BYTES
#undef TRACINWE_TILE_A
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define TRACINWE_ISA avx512
#define TRACINWE_BYTES 64
#define TRACINWE_TILE_A 4
#include "simd_isa.h"
#undef TRACINWE_ISA
#undef TRACINWE_BYTES
#undef TRACINWE_TILE_A
#undef TRACINWE_F16C
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

enum class Isa { base, avx2, avx512 };

// CAPTUM_TRACINWE_ISA=base or avx2 keeps to less than the machine has, so that all of them can be tested on one.
inline Isa best_isa() {
#if defined(__x86_64__)
  static const Isa best = [] {
    const char* given = std::getenv("CAPTUM_TRACINWE_ISA");
    const std::string limit = given ? given : "";
    __builtin_cpu_init();
    if (limit == "base" || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::base;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide && limit != "avx2" ? Isa::avx512 : Isa::avx2;
  }();
  return best;
#else
  return Isa::base;
#endif
}

#if defined(__x86_64__)
#define TRACINWE_BEST(call)            \
  switch (best_isa()) {                \
    case Isa::avx512:                  \
      return avx512::call;             \
    case Isa::avx2:                    \
      return avx2::call;               \
    default:                           \
      return base::call;               \
  }
#else
#define TRACINWE_BEST(call) return base::call;
#endif

// Rows that have one token: see `list` in simd_isa.h.
template <class S, class T>
void add_list(
    const S* packed, int64_t pitch, const int32_t* examples_a, int64_t length, const T* const* b, int64_t count,
    Ahead<T>& ahead, S* const* cells, int64_t width) {
  TRACINWE_BEST(list(packed, pitch, examples_a, length, b, count, ahead, cells, width))
}

// Rows one after another that have one token, against the only test row that has it: see `run` in simd_isa.h.
template <class S, class T>
void add_run(
    const S* a, const T* b, int64_t stride, const int64_t* examples, int64_t begin, int64_t count, S* scores,
    int64_t pitch, int64_t width) {
  TRACINWE_BEST(run(a, b, stride, examples, begin, count, scores, pitch, width))
}

// Rows that share nothing: see `pairs` in simd_isa.h.
template <class S, class TA, class TB>
void add_pairs(
    const TA* const* a, const TB* const* b, int64_t count, int64_t distance, S* const* cells, int64_t width) {
  TRACINWE_BEST(pairs(a, b, count, distance, cells, width))
}

// Whether ids ascend: see `scan_order` in simd_isa.h.
inline Order scan_order(const int64_t* ids, int64_t count) {
  TRACINWE_BEST(scan_order(ids, count))
}

#undef TRACINWE_BEST

// Packed rows are padded to whole vectors of the widest instruction set.
template <class S>
constexpr int64_t kPad = 64 / sizeof(S);

}  // namespace
}  // namespace tracinwe
