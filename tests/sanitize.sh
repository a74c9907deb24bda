#!/usr/bin/env bash
# Run the ops' tests on CPU kernels built with the address and undefined-behaviour sanitizers.
# PYTHON names the interpreter that has torch, pytest and hypothesis; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/captum_tracinwe/rows"
# The ops, under a package that imports nothing else: what is tested is the kernels.
cp -r captum_tracinwe/rows/{ops.py,postings.py,kernels} "$copy/captum_tracinwe/rows/"
rm -f "$copy"/captum_tracinwe/rows/kernels/_native*
echo "from captum_tracinwe.rows import ops as ops" >"$copy/captum_tracinwe/__init__.py"
touch "$copy/captum_tracinwe/rows/__init__.py"
cp tests/op_cases.py tests/test_ops.py tests/test_ops_refusals.py "$copy/"

torch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
"${CXX:-g++}" -O1 -g -std=c++17 -fPIC -shared -fvisibility=hidden -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=undefined -DTORCH_TARGET_VERSION=0x020a000000000000 \
  -I captum_tracinwe/rows/kernels/csrc -isystem "$torch/include" captum_tracinwe/rows/kernels/*/cpu.cpp \
  -o "$copy/captum_tracinwe/rows/kernels/_native.so" \
  -L"$torch/lib" -ltorch -ltorch_cpu -Wl,-rpath,"$torch/lib"

cd "$copy"
# The interpreter is not instrumented: the runtime is loaded first, and leaks of the interpreter are not ours.
runtime=$("${CXX:-g++}" -print-file-name=libasan.so)
stdcxx=$("${CXX:-g++}" -print-file-name=libstdc++.so)
LD_PRELOAD="$runtime $stdcxx" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
  "$python" -m pytest -q -p no:cacheprovider --deselect test_ops.py::test_the_library_needs_no_symbol_of_torch_outside_its_stable_abi \
  test_ops.py test_ops_refusals.py "$@"
