// For a build with torch's own headers: the current device and stream, which a torch for the CPU does not know.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/version.h>
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include <memory>

namespace torch::stable::accelerator {

using DeviceIndex = int32_t;
struct DeviceGuard {
  explicit DeviceGuard(DeviceIndex) {}
  ~DeviceGuard() {}
};

}  // namespace torch::stable::accelerator

static inline int emulated_current_stream(int32_t, void** stream) { return *stream = nullptr, 0; }
#define aoti_torch_get_current_cuda_stream emulated_current_stream
