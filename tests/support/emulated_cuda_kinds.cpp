// SPDX-License-Identifier: GPL-3.0-or-later
// The CUDA backend on the emulation, as orderly and as disorderly as a device may be.
#include "support/backend_kind.h"
#include "support/cuda_backend_kind.h"
#include "support/cuda_emulation/cuda_emulation.h"

namespace lectern::engine::support {
namespace {

namespace emulation = cuda::emulation;

BackendKind emulated(std::string name, emulation::ThreadOrder order, emulation::Timing timing) {
  BackendKind kind = cuda_kind(std::move(name));
  kind.make = [order, timing, make = kind.make] {
    emulation::reset();
    emulation::set_thread_order(order);
    emulation::set_timing(timing);
    return make();
  };
  kind.slow = true;
  kind.complaint = emulation::check_guards;
  return kind;
}

}  // namespace

std::vector<BackendKind> backend_kinds() {
  return {emulated("in_order", emulation::ThreadOrder::kForward, emulation::Timing::kAtOnce),
          emulated("shuffled", emulation::ThreadOrder::kShuffled, emulation::Timing::kLate)};
}

}  // namespace lectern::engine::support
