// The current device and stream: there is one of each.
#pragma once

#include <cstdint>

namespace torch::stable::accelerator {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
  ~DeviceGuard() {}
};

}  // namespace torch::stable::accelerator

#define STABLE_TORCH_ERROR_CODE_CHECK(call) (call)
inline int aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = nullptr, 0; }
