// bfloat16 as the kernels read it: the upper half of a float.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Sixteen columns of a row that four lanes hold: words first and first + step of each.
template <class T>
TRACINWE_UNWATCHED inline void emulated_row(float (&row)[16], const unsigned char* all, int lanes, int first, int step) {
  for (int word = 0; word < 8; ++word) {
    uint32_t two;
    const int at = static_cast<int>(emulated::kSlot) * (4 * lanes + word % 4) + 4 * (first + word / 4 * step);
    __builtin_memcpy(&two, all + at, sizeof two);
    for (int part = 0; part < 2; ++part) {
      const T element{static_cast<uint16_t>(two >> 16 * part)};
      if constexpr (std::is_same_v<T, __half>)
        row[2 * word + part] = __half2float(element);
      else
        row[2 * word + part] = __bfloat162float(element);
    }
  }
}

// Tensor cores: mma.sync.m16n8k16, c += x · yᵀ. Lane 4 g + i holds of x (16 rows) rows g and g + 8, of y (8 rows) row g,
// columns 2 i, 2 i + 1 and the same 8 further on; of c rows g and g + 8, columns 2 i, 2 i + 1.
template <class T>
TRACINWE_UNWATCHED inline void emulated_mma(float (&c)[4], const uint32_t (&x)[4], const uint32_t (&y)[2]) {
  const uint32_t mine[6] = {x[0], x[1], x[2], x[3], y[0], y[1]};
  const unsigned char* all = emulated::exchange(0xFFFFFFFFu, mine, sizeof mine);
  const int group = emulated::lane() / 4, within = emulated::lane() % 4;
  float rows_x[2][16], rows_y[2][16];
  for (int r = 0; r < 2; ++r) {
    emulated_row<T>(rows_x[r], all, group, r, 2);
    emulated_row<T>(rows_y[r], all, 2 * within + r, 4, 1);
  }
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 16; ++k) c[e] += rows_x[e / 2][k] * rows_y[e % 2][k];
}
