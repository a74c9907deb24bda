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

// Tensor cores: mma.sync.m16n8k16, c += x · yᵀ. Lane 4 g + i holds of x (16 rows) rows g and g + 8, of y (8 rows) row g,
// columns 2 i, 2 i + 1 and the same 8 further on; of c rows g and g + 8, columns 2 i, 2 i + 1.
template <class T>
TRACINWE_UNWATCHED inline void emulated_mma(float (&c)[4], const uint32_t (&x)[4], const uint32_t (&y)[2]) {
  struct Given {
    uint32_t x[4], y[2];
  };
  const Given mine{{x[0], x[1], x[2], x[3]}, {y[0], y[1]}};
  const unsigned char* all = emulated::exchange(0xFFFFFFFFu, &mine, sizeof mine);
  const auto value = [&](bool of_x, int row, int column) {
    Given theirs;
    __builtin_memcpy(&theirs, all + emulated::kSlot * static_cast<size_t>(row % 8 * 4 + column % 8 / 2), sizeof theirs);
    const uint32_t word = of_x ? theirs.x[row / 8 + column / 8 * 2] : theirs.y[column / 8];
    const T element{static_cast<uint16_t>(column % 2 ? word >> 16 : word)};
    if constexpr (std::is_same_v<T, __half>)
      return __half2float(element);
    else
      return __bfloat162float(element);
  };
  const int group = emulated::lane() / 4, within = emulated::lane() % 4;
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 16; ++k)
      c[e] += value(true, group + e / 2 * 8, k) * value(false, 2 * within + e % 2, k);
}
