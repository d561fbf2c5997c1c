// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <new>
#include <string>

#include "engine/result.h"

namespace lectern::engine {

// The boundary of the module: runs `action`, whose exceptions become errors.
template <class Action>
auto without_exceptions(const Action& action) -> decltype(action()) {
  try {
    return action();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kOutOfMemory, "There is not enough memory; use a smaller context or a smaller model."};
  } catch (const std::exception& failure) {
    return Error{ErrorCode::kIo, std::string("The engine met an unexpected failure: ") + failure.what() + "."};
  }
}

}  // namespace lectern::engine
