// SPDX-License-Identifier: GPL-3.0-or-later
// The backend's tests on a real GPU.
#include "support/backend_kind.h"
#include "support/cuda_backend_kind.h"

namespace lectern::engine::support {

std::vector<BackendKind> backend_kinds() { return {cuda_kind("gpu")}; }

}  // namespace lectern::engine::support
