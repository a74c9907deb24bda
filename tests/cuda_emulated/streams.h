// Launches and copies on a stream, which may hold work back until somebody waits; any call can be made to fail.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#include "emulator.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorUnknown = 999 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = void*;

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace emulated {

// Whether work is done when it is asked for, or only when somebody waits.
void hold_back(bool until_waited_for);
// The n-th call from now on fails; 0: none does.
void fail_call(int n);
bool failed();
int waits();  // host waits since the last hold_back

void enqueue(std::function<void()> work, bool a_launch);

template <class... Parameters, class... Given>
void launch(void (*kernel)(Parameters...), Index grid, Index block, size_t shared, cudaStream_t, Given&&... given) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  };
  const std::shared_ptr<Call> call(new Call{kernel, std::tuple<Parameters...>(std::forward<Given>(given)...)});
  const Launch launch{
      [](const void* given) {
        const auto* call = static_cast<const Call*>(given);
        std::apply(call->kernel, call->arguments);
      },
      call.get(), sizeof(Call), grid, block, shared};
  enqueue(
      [launch, call] {
        run(launch);
        (void)call;  // lives as long as this
      },
      true);
}

}  // namespace emulated
