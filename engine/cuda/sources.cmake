# SPDX-License-Identifier: Apache-2.0
# What nvcc compiles for the engine, and the C++ compiler for the emulation in tests.
set(LECTERN_CUDA_SOURCES
  attention.cu
  causal_conv.cu
  choose_tokens.cu
  cublas.cu
  cuda_backend.cu
  cuda_devices.cu
  cuda_plan.cu
  cuda_rates.cu
  delta_chunks.cu
  delta_net.cu
  delta_scan.cu
  dense.cu
  device_memory.cu
  expert_groups.cu
  expert_slots.cu
  expert_tiles.cu
  experts.cu
  flash_attention.cu
  formed_products.cu
  handover.cu
  head_rows.cu
  host_experts.cu
  kv_cache.cu
  library_products.cu
  locked_memory.cu
  pass_graphs.cu
  pass_values.cu
  pointwise.cu
  routing.cu
  sampling.cu
  small_batch_attention.cu
  weights.cu)
list(TRANSFORM LECTERN_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
