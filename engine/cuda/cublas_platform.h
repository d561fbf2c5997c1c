// SPDX-License-Identifier: Apache-2.0
#pragma once

// The types of cuBLASLt and where its functions come from: the toolkit's header and a library that is loaded when the
// program runs, so that the program starts without it; or their emulation in tests. Some installations have neither
// header nor library.
#include "cuda/platform.h"
#if defined(LECTERN_EMULATED_CUDA)
#include "support/cuda_emulation/cublas_lt.h"
#define LECTERN_HAS_CUBLAS 1
#elif __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>
#define LECTERN_HAS_CUBLAS 1
#else
#define LECTERN_HAS_CUBLAS 0
#endif

#if LECTERN_HAS_CUBLAS
namespace lectern::engine::cuda {

// Null: there is none. What is opened stays: it has threads and a context of its own.
inline void* open_library(const char* name) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::open_library(name);
#else
  return dlopen(name, RTLD_NOW | RTLD_LOCAL);
#endif
}

inline void* library_function(void* library, const char* name) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::library_function(library, name);
#else
  return dlsym(library, name);
#endif
}

}  // namespace lectern::engine::cuda
#endif
