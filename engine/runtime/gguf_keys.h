// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "engine/result.h"
#include "model/gguf_writer.h"
#include "model/model_files.h"
#include "model/tensor_plan.h"
#include "quant/mix.h"

namespace lectern::engine {

// The keys of a GGUF file that holds this model: its configuration and its tokenizer, or, out of another GGUF file, all
// that it says about both. Errors: kUnsupported (something that no key of the format can say), and what reading the
// tokenizer gives.
Result<void> add_keys(const std::filesystem::path& source, const ModelFiles& files, const ModelPlan& plan,
                      const Mix& mix, GgufHeader& header);

}  // namespace lectern::engine
