#!/usr/bin/env bash
# Fetches nvcc 13.0 from PyPI into .cuda/, where build.rs finds it. Needs python3 with pip; no CUDA install, no GPU.
#
#   tools/cuda.sh            the compiler
#   tools/cuda.sh --tools    and the disassemblers, for tools/kernels.py
#
# Keep 13.0: drivers of the 580 series refuse the PTX of a newer version.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
[[ ${1:-} == --tools ]] && packages+=(nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37)

# Fetched into a folder that is then renamed: an interrupted fetch leaves nothing that looks complete.
aside=.cuda.new
rm -rf "$aside"
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$aside" "${packages[@]}"
rm -rf .cuda
mv "$aside" .cuda
touch build.rs # the next build looks for nvcc again
.cuda/nvidia/cu13/bin/nvcc --version | tail -n 1
