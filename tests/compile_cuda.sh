#!/usr/bin/env bash
# Compile the CUDA kernels where there is no GPU, and run the joins that they share with the CPU on the host.
# Needs nvcc and any build of torch >= 2.10, a CPU build included. PYTHON names the interpreter that has torch.
set -euo pipefail
cd "$(dirname "$0")/.."
kernels=$PWD/captum_tracinwe/rows/kernels
csrc=$kernels/csrc
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cat >"$out/rows_test.cpp" <<'CPP'
// The host side of csrc/rows.h against plain loops over random rows.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "postings.h"
#include "rows.h"

using namespace tracinwe;
#define REQUIRE(holds) \
  if (!(holds)) return std::printf("line %d: %s\n", __LINE__, #holds), 1

int main() {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    const int64_t examples = static_cast<int64_t>(random() % 9), scale = random() % 2 ? 1 : int64_t{1} << 40;
    std::vector<int64_t> ptr{0}, ids;
    for (int64_t i = 0; i < examples; ++i) {
      for (int64_t id = 0; id < 12; ++id)
        if (random() % 3 == 0) ids.push_back(id * scale);
      ptr.push_back(static_cast<int64_t>(ids.size()));
    }
    const Rows rows{ptr.data(), ids.data(), examples};
    for (int64_t i = 0; i < examples; ++i) REQUIRE(ptr_fault(ptr.data(), i) == kSound && ids_fault(rows, i) == kSound);
    // Lists of the first half; every row of all examples finds its list, by search and by lookup.
    const Postings postings(rows, 0, examples / 2);
    const Lookup lookup(postings.ids);
    for (const int64_t id : ids) {
      const int64_t list = find(postings.ids.data(), postings.lists(), id);
      REQUIRE(list == (lookup.direct() ? lookup.table()(id) : lookup.in_hash(id)));
      REQUIRE(list < 0 || postings.ids[list] == id);
    }
    for (int64_t blocks = 1; blocks <= examples; ++blocks)
      REQUIRE(block_start(examples, blocks, 0) == 0 && block_start(examples, blocks, blocks) == examples);
  }
  return std::puts("rows.h, postings.h: sound"), 0;
}
CPP
"${CXX:-g++}" -std=c++17 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all -I"$csrc" \
  "$out/rows_test.cpp" -o "$out/rows_test"
"$out/rows_test"

if ! command -v nvcc >/dev/null; then
  echo "no nvcc: the CUDA kernels were not compiled"
  exit 0
fi
include=$("${PYTHON:-python}" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent / "include")')
# Turing has no tensor cores for these types and no copies that run by themselves: the code before Ampere.
architectures=()
for arch in 75 80 90 100; do architectures+=(-gencode "arch=compute_$arch,code=sm_$arch"); done
for source in "$kernels"/*/cuda.cu; do
  nvcc -c -O3 -std=c++17 --threads 2 -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000 "${architectures[@]}" \
    -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror -I"$csrc" -isystem "$include" "$source" -o "$out/kernel.o"
  # Undefined symbols of torch: C shims only.
  if nm -uC "$out/kernel.o" | grep -E '\b(at|c10|torch|caffe2)::'; then
    echo "$source needs symbols outside torch's stable ABI"
    exit 1
  fi
  echo "$(basename "$(dirname "$source")"), sm_75 to sm_100: compiled"
done
