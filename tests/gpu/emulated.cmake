# SPDX-License-Identifier: GPL-3.0-or-later
# gpu_bench over the emulation: its figures mean nothing, its logic is the same.
if(NOT TARGET emulated_cuda_test)
  return()
endif()
find_package(Boost CONFIG QUIET REQUIRED COMPONENTS context)

set(gpu_folder ${CMAKE_CURRENT_LIST_DIR})
set(gpu_kernels ${gpu_folder}/device_rates.cu ${gpu_folder}/gpu.cu ${gpu_folder}/observed_backend.cu
  ${gpu_folder}/synthetic_weights.cu)
set_source_files_properties(${gpu_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-O2;-Wno-unknown-pragmas")
add_executable(emulated_gpu_bench
  $<FILTER:$<TARGET_OBJECTS:emulated_cuda_test>,INCLUDE,/cuda/|/cuda_emulation/>
  ${gpu_kernels}
  ${gpu_folder}/decoding.cpp
  ${gpu_folder}/dense_products.cpp
  ${gpu_folder}/gpu_bench.cpp
  ${gpu_folder}/operations.cpp
  ${gpu_folder}/options.cpp
  ${gpu_folder}/prefill.cpp
  ${gpu_folder}/subject.cpp
  ${gpu_folder}/synthetic_model.cpp)
target_compile_definitions(emulated_gpu_bench PRIVATE LECTERN_EMULATED_CUDA)
target_link_libraries(emulated_gpu_bench PRIVATE build_flags engine_private Boost::context)
target_include_directories(emulated_gpu_bench PRIVATE ${gpu_folder}/.. ${gpu_folder})
add_test(NAME emulated_gpu_bench
  COMMAND emulated_gpu_bench --shape=tiny --format=fp8 --contexts= --prefill= --passes=2 --chunk=32)
