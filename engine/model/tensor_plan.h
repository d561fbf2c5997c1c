// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "engine/result.h"
#include "model/model_files.h"

namespace lectern::engine {

// One tensor as a GGUF file holds it, and the stored rows that it is made of.
struct TensorPlan {
  std::string name;                 // in GGUF files
  std::string stored_name;          // of the first part
  std::vector<std::int64_t> shape;  // outermost first; the last is the length of a row
  std::vector<HostMatrix> parts;    // of equal shape, one below another
  std::vector<std::int64_t> order;  // row i is stored row order[i]; empty: as they stand
  float offset = 0;                 // added to every number
  bool is_decay = false;            // becomes -exp(x)

  std::int64_t cols() const { return shape.back(); }
  std::int64_t rows() const;
  std::int64_t numbers() const { return rows() * cols(); }
  // Where row `row` is stored.
  const HostMatrix& part_of(std::int64_t row, std::int64_t& row_of_part) const;
  // The stored type if rows can be taken over as they are, byte for byte.
  bool is_plain(DType type) const;
  void read(std::int64_t row, float* values) const;
};

// A model as a list of GGUF tensors, in the order in which files hold them: embedding, layers, norm and head, and the
// MTP module as one more layer. Points into the files.
struct ModelPlan {
  std::vector<TensorPlan> tensors;
  std::list<std::vector<float>> scales;  // of F8 matrices
  std::int64_t blocks = 0;               // the MTP module among them
  bool has_mtp = false;
};

// Binds every stored tensor by name and shape. Without `keep_mtp` the MTP module is left out. Errors: kCorrupt (a
// tensor is missing or of a wrong shape), kUnsupported (types that cannot be read, tensors that belong to no part of
// the model).
Result<ModelPlan> plan_model(const ModelFiles& files, bool keep_mtp);

}  // namespace lectern::engine
