# SPDX-License-Identifier: Apache-2.0
# Sets gpus_of_this_machine to the CUDA architectures of its GPUs, or to 80, whose intermediate code later GPUs can
# translate when the program starts.
set(gpus_of_this_machine "")
find_program(NVIDIA_SMI nvidia-smi)
if(NVIDIA_SMI)
  execute_process(COMMAND ${NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE compute_capabilities ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" compute_capabilities "${compute_capabilities}")
  foreach(capability IN LISTS compute_capabilities)
    string(REPLACE "." "" architecture ${capability})
    if(architecture GREATER_EQUAL 80)
      if(architecture EQUAL 90)
        set(architecture 90a)
      endif()
      list(APPEND gpus_of_this_machine ${architecture})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES gpus_of_this_machine)
endif()
if(NOT gpus_of_this_machine)
  set(gpus_of_this_machine 80)
endif()
