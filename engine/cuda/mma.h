// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/platform.h"

// Matrix units (mma.sync, from sm_80 on) and asynchronous copies into shared memory. Fragment layouts are those of the
// PTX manual, "Matrix Fragments for mma.m16n8k16" and "... .m16n8k32"; the emulation implements the same layouts.
// All 32 lanes of the warp must call these together.
namespace lectern::engine::cuda {

// d += a b^T for a [16, 16], b [8, 16] of BF16 pairs (the lower column in the lower half), d [16, 8] of float.
__device__ inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::mma_m16n8k16_bf16(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same for 8-bit signed integers: a [16, 32], b [8, 32], four to a register, d [16, 8] of 32-bit integers.
__device__ inline void mma_s8(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::mma_m16n8k32_s8(d, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// TF32 (float rounded to 10 bits): a [16, 8], b [8, 8], d [16, 8]; "Matrix Fragments for mma.m16n8k8", .tf32.
__device__ inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::mma_m16n8k8_tf32(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory; lane i gives the address of row i % 8 of matrix i / 8
// (ldmatrix.x4). Rows are 16 bytes, aligned to 16.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::ldmatrix_x4(to, row, false);
#else
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// The same, each matrix transposed (ldmatrix.x4.trans).
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::ldmatrix_x4(to, row, true);
#else
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// Starts copying 16 bytes, both sides aligned to 16; zeros where `valid` is false (then `from` is not read).
__device__ inline void copy_async(void* to_shared, const void* from_global, bool valid = true) {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::cp_async_16(to_shared, from_global, valid);
#else
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to_shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from_global), "r"(bytes) : "memory");
#endif
}

// Closes a group of copies that this thread has started.
__device__ inline void commit_copies() {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `Pending` of this thread's groups are under way. Other threads see the data after a barrier.
template <int Pending>
__device__ inline void wait_for_copies() {
#if defined(LECTERN_EMULATED_CUDA)
  emulation::cp_async_wait(Pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// Sum of four products of signed 8-bit integers, added to `sum`.
__device__ inline int dot_s8(std::uint32_t a, std::uint32_t b, int sum) {
#if defined(LECTERN_EMULATED_CUDA)
  return emulation::dp4a(a, b, sum);
#else
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
#endif
}

}  // namespace lectern::engine::cuda
