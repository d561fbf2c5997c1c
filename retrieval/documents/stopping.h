// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <stop_token>

namespace lectern::retrieval {

// Leaves the steps of chunk_document, which catches it.
struct ChunkingStopped {};

inline void throw_if_stopped(const std::stop_token& stop) {
  if (stop.stop_requested()) throw ChunkingStopped();
}

}  // namespace lectern::retrieval
