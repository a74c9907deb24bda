// Half precision as the kernels read it: its bits, and the way to float.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, rest = x.bits & 1023;
  uint32_t bits = sign | (exponent + 112) << 23 | rest << 13;
  if (exponent == 31) bits = sign | 0x7F800000u | rest << 13;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  if (exponent == 0) value = (sign ? -1.0f : 1.0f) * static_cast<float>(rest) * 0x1p-24f;
  return value;
}
