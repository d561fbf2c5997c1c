# SPDX-License-Identifier: Apache-2.0
# One interface target with language level, warnings and hardening; every target of ours links it privately.
if(TARGET build_flags)
  return()
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(build_flags INTERFACE)
target_compile_options(build_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
  -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Woverloaded-virtual -Werror
  -fstack-protector-strong>)
# GCC 12 warns wrongly about concatenated strings (its bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(build_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
target_compile_definitions(build_flags INTERFACE _GLIBCXX_ASSERTIONS)

if(LECTERN_SANITIZE)
  add_compile_options(-fsanitize=${LECTERN_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${LECTERN_SANITIZE})
  # Instrumented code makes GCC see uninitialised values where there are none (its manual says so), in <regex> for one.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(build_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()
