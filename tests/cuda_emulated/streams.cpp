// The one stream: a queue, worked off at once or at the next wait.
#include "streams.h"

#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "memory.h"

namespace emulated {
namespace {

std::deque<std::function<void()>> queue;
bool held_back = false, launch_failed = false, did_fail = false;
int until_failure = 0, waited = 0;

bool fails() {
  if (until_failure == 0 || --until_failure) return false;
  return did_fail = true;
}

void work_off() {
  while (!queue.empty()) {
    auto work = std::move(queue.front());
    queue.pop_front();
    work();
  }
}

void add(std::function<void()> work) {
  queue.push_back(std::move(work));
  if (!held_back) work_off();
}

}  // namespace

void hold_back(bool until_waited_for) {
  work_off();
  held_back = until_waited_for;
  waited = 0;
}

void fail_call(int n) {
  until_failure = n;
  did_fail = launch_failed = false;
}
bool failed() { return did_fail; }
int waits() { return waited; }

void enqueue(std::function<void()> work, bool a_launch) {
  if (a_launch && fails()) {
    launch_failed = true;
    return;
  }
  add(std::move(work));
}

}  // namespace emulated

using namespace emulated;

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (fails()) return cudaErrorUnknown;
  if (kind == cudaMemcpyHostToDevice) {  // pageable: taken over before the call returns
    auto taken = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    add([=] { note_filled(to, bytes), std::memcpy(to, taken->data(), bytes); });
  } else {
    add([=] {
      note_copied_out(from, bytes);
      if (kind == cudaMemcpyDeviceToDevice) note_filled(to, bytes);
      std::memcpy(to, from, bytes);
    });
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  if (fails()) return cudaErrorUnknown;
  add([=] { note_filled(at, bytes), std::memset(at, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++waited;
  if (fails()) return cudaErrorUnknown;
  work_off();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  if (!launch_failed) return cudaSuccess;
  launch_failed = false;
  return cudaErrorUnknown;
}

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "made to fail"; }
