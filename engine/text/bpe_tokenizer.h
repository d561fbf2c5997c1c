// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/tokenizer.h"
#include "text/tokenizer_definition.h"

namespace lectern::engine {

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerDefinition definition);

}  // namespace lectern::engine
