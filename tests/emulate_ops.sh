#!/usr/bin/env bash
# Run the ops' own tests on the CUDA kernels, on emulated threads and CPU tensors: several minutes, no GPU.
# PYTHON names the interpreter that has torch, pytest and hypothesis; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/captum_tracinwe/rows"
# The ops, under a package that imports nothing else; the kernels registered where CPU tensors find them.
cp -r captum_tracinwe/rows/{ops.py,postings.py,kernels} "$copy/captum_tracinwe/rows/"
rm -f "$copy"/captum_tracinwe/rows/kernels/_native*
echo "from captum_tracinwe.rows import ops as ops" >"$copy/captum_tracinwe/__init__.py"
touch "$copy/captum_tracinwe/rows/__init__.py"
cp tests/op_cases.py tests/test_ops.py tests/test_ops_refusals.py "$copy/"
sed -i 's/(captum_tracinwe, CUDA, m)/(captum_tracinwe, CPU, m)/' "$copy"/captum_tracinwe/rows/kernels/*/cuda.cu

torch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
emulated=tests/cuda_emulated
common=(-w -std=c++17 -fPIC -fvisibility=hidden -DCUDA_EMULATED -DTORCH_TARGET_VERSION=0x020a000000000000
  -I "$emulated/torch_itself" -I "$emulated/cuda" -I captum_tracinwe/rows/kernels/csrc -isystem "$torch/include")
for op in row_dot posting_dot row_dot_terms; do
  "${CXX:-g++}" -x c++ -O1 "${common[@]}" -c "$copy/captum_tracinwe/rows/kernels/$op/cuda.cu" -o "$copy/$op.o"
done
"${CXX:-g++}" -O3 "${common[@]}" -DEMULATED_FOREIGN -c "$emulated/runtime.cpp" -o "$copy/runtime.o"
"${CXX:-g++}" -shared "$copy"/*.o -o "$copy/captum_tracinwe/rows/kernels/_native.so" \
  -L"$torch/lib" -ltorch -ltorch_cpu -Wl,-rpath,"$torch/lib"

cd "$copy"
"$python" -m pytest -q -p no:cacheprovider --deselect test_ops.py::test_the_library_needs_no_symbol_of_torch_outside_its_stable_abi \
  --deselect test_ops.py::test_every_instruction_set_passes_the_tests_of_widths_and_bits test_ops.py test_ops_refusals.py "$@"
