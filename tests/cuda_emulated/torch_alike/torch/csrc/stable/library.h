// Registration: the name of an op leads to its function.
#pragma once

#include <map>
#include <string>

namespace emulated {

using Function = void (*)();
std::map<std::string, Function>& registry();
struct Registry {
  template <class F>
  void impl(const char* name, F* function) {
    registry()[name] = reinterpret_cast<Function>(function);
  }
};

}  // namespace emulated

#define TORCH_BOX(function) (function)
#define STABLE_TORCH_LIBRARY_IMPL(library, key, m)        \
  static void emulated_register(emulated::Registry& m);   \
  static const bool emulated_registered = [] {            \
    emulated::Registry registry;                          \
    return emulated_register(registry), true;             \
  }();                                                    \
  static void emulated_register(emulated::Registry& m)
