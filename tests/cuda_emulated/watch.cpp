// The calls that -fsanitize=thread puts before every access, led to the watch over memory instead of to its own library.
#include "emulator.h"
#include "memory.h"

namespace {

extern "C" char __executable_start, _end;

const bool on = emulated::sees_all = true;

void seen(void* at, size_t bytes, bool write) {
  using namespace emulated;
  if (!on || on_a_stack(at)) return;
  if (!in_kernel()) return note_host_access(at, bytes);
  const char* byte = static_cast<const char*>(at);
  if (!write && (is_argument(at) || (byte >= &__executable_start && byte < &_end))) return;  // arguments and constants
  note_access(at, bytes, write ? Access::write : Access::read);
  turn_may_end();
}

}  // namespace

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
#define TRACINWE_HOOKS(bytes)                                          \
  void __tsan_read##bytes(void* at) { seen(at, bytes, false); }        \
  void __tsan_write##bytes(void* at) { seen(at, bytes, true); }        \
  void __tsan_unaligned_read##bytes(void* at) { seen(at, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* at) { seen(at, bytes, true); }
TRACINWE_HOOKS(1)
TRACINWE_HOOKS(2)
TRACINWE_HOOKS(4)
TRACINWE_HOOKS(8)
TRACINWE_HOOKS(16)
int __tsan_atomic32_fetch_add(volatile int* at, int more, int) { return __atomic_fetch_add(at, more, __ATOMIC_SEQ_CST); }
void __tsan_read_range(void* at, unsigned long bytes) { seen(at, bytes, false); }
void __tsan_write_range(void* at, unsigned long bytes) { seen(at, bytes, true); }
}
