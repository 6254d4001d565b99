// Stands in for NVIDIA's driver, cuBLASLt and NCCL: the program itself, `--device cuda` and all, on a machine without a GPU.
//
//   g++ -std=c++17 -O2 -shared -fPIC library.cpp -o libcuda.so, and links to it named libcublasLt.so and libnccl.so
//
// Settings, all environment variables: STAND_IN_KERNELS (a file: which of the program's fatbins is which library of the emulator),
// STAND_IN_SEED (order of what may run in any order), STAND_IN_DEVICES, STAND_IN_MEMORY (bytes of each), STAND_IN_LEFT (bytes it
// reports as free), STAND_IN_VERSION (of CUDA, as the driver counts it), STAND_IN_CAPABILITY (80, 90), STAND_IN_FAILS (which
// launch of the last device fails), STAND_IN_MEETINGS (a folder where ranks meet), STAND_IN_STUCK (1: a rank that joins never
// arrives), STAND_IN_FORGETS (1: streams do not wait for events, which the tests must notice).
#include "cublaslt.h"
#include "cuda.h"
#include "graphs.h"
#include "kernels.h"
#include "nccl.h"
