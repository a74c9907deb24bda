// Device and shared memory, and a watch over who reads and writes it: races, bounds, what was never written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulated {

enum class Space { device, shared };
enum class Access { read, write, atomic };

// Memory of its own, as large as asked for and not a byte more; what it holds at first is noise.
class Allocation {
 public:
  Allocation(size_t bytes, Space space);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  unsigned char* bytes() const { return bytes_; }

 private:
  unsigned char* bytes_;
};

// Set by watch.cpp: only where it sees every access is known who wrote what. Bounds are checked in any build.
extern bool sees_all;

// What device code (or a copy by the runtime) does with memory. Called for each access in the build that watches.
void note_access(const void* at, size_t bytes, Access access);
// Host code read or wrote: it may not where the memory is the device's.
void note_host_access(const void* at, size_t bytes);
// Copies and fills by the runtime: bounds, and from now on it is written.
void note_filled(const void* at, size_t bytes);
void note_copied_out(const void* at, size_t bytes);

}  // namespace emulated
