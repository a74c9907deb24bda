// All that runs below the kernels, in one piece, so that the compiler can put its small functions into each other.
#include "emulator.cpp"
#include "memory.cpp"
#include "streams.cpp"
#ifdef EMULATED_WATCH
#include "watch.cpp"
#endif
