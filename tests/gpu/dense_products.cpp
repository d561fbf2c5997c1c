// SPDX-License-Identifier: GPL-3.0-or-later
#include "dense_products.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "cuda/library_products.h"
#include "random_bits.h"

namespace lectern::engine::bench {
namespace {

constexpr std::int64_t kFewestRows = 64;     // below, other kernels compute
constexpr std::int64_t kComparedRows = 16;   // the last
constexpr std::int64_t kRandomRows = 32;     // repeated
constexpr std::int64_t kEmulatedRows = 256;  // below, times mean nothing and one is enough

struct Product {
  const char* name;
  const Weight* weight;
};

std::vector<Product> large_products(const ModelWeights& weights) {
  std::vector<Product> products;
  for (const LayerWeights& layer : weights.layers) {
    if (layer.delta && products.empty()) {
      products = {{"qkv", layer.delta->qkv.get()}, {"z", layer.delta->z.get()}, {"out", layer.delta->out.get()}};
    }
    if (!layer.attention) continue;
    products.push_back({"query", layer.attention->query.get()});
    products.push_back({"attention out", layer.attention->out.get()});
    break;
  }
  return products;
}

class DenseProduct {
 public:
  DenseProduct(Backend& device, const Product& product, std::int64_t rows)
      : device_(device), product_(product), rows_(std::max(rows, kFewestRows)) {}

  Result<void> fill() {
    const std::int64_t inputs = product_.weight->cols();
    ENGINE_TRY(x_, device_.make_buffer(rows_ * inputs, MemoryUse::kState));
    ENGINE_TRY(y_, device_.make_buffer(rows_ * product_.weight->rows(), MemoryUse::kState));
    std::vector<float> some(static_cast<std::size_t>(kRandomRows * inputs));
    for (std::size_t i = 0; i < some.size(); ++i) some[i] = random_normal(i);
    device_.upload(some, x_->data());
    for (std::int64_t row = kRandomRows; row < rows_; row += kRandomRows) {
      device_.copy(x_->data(), x_->data() + row * inputs, std::min(kRandomRows, rows_ - row) * inputs);
    }
    return device_.status();
  }

  // Operations per second, after the first time.
  Result<double> rate() {
    // What is compared is that of other rows until it is computed.
    const std::int64_t outputs = product_.weight->rows();
    device_.copy(y_->data(), y_->data() + (rows_ - kComparedRows) * outputs, kComparedRows * outputs);
    multiply();
    ENGINE_CHECK(device_.status());
    const int repeats = rows_ < kEmulatedRows ? 1 : 10;
    const auto begin = Clock::now();
    for (int i = 0; i < repeats; ++i) multiply();
    ENGINE_CHECK(device_.status());
    const double one =
        static_cast<double>(2 * rows_ * product_.weight->rows()) * static_cast<double>(product_.weight->cols());
    return repeats * one / seconds_since(begin);
  }

  std::vector<float> last_results() const {
    const std::int64_t outputs = product_.weight->rows();
    std::vector<float> results(static_cast<std::size_t>(kComparedRows * outputs));
    device_.download(y_->data() + (rows_ - kComparedRows) * outputs, results);
    return results;
  }

  Json describe() const {
    Json json;
    json.add("weight", product_.name).add("rows", rows_);
    return json.add("outputs", product_.weight->rows()).add("depth", product_.weight->cols());
  }

 private:
  void multiply() {
    device_.linear({x_->data(), rows_, product_.weight->cols()}, *product_.weight, false,
                   {y_->data(), rows_, product_.weight->rows()});
  }

  Backend& device_;
  Product product_;
  std::int64_t rows_;
  std::unique_ptr<Buffer> x_;
  std::unique_ptr<Buffer> y_;
};

// The largest difference, relative to the largest number.
double difference(const std::vector<float>& one, const std::vector<float>& other) {
  double largest = 1e-30;
  double worst = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    largest = std::max(largest, std::abs(double{one[i]}));
    worst = std::max(worst, std::abs(double{one[i]} - other[i]));
  }
  return worst / largest;
}

Result<Json> measure_one(Backend& device, const Product& product, std::int64_t rows, double matrix_rate) {
  DenseProduct dense(device, product, rows);
  ENGINE_CHECK(dense.fill());
  Json json = dense.describe();
  use_own_products(device);
  ENGINE_TRY(const double own, dense.rate());
  const std::vector<float> own_results = dense.last_results();
  json.add("own_operations_per_second", own).add("own_share_of_matrix_rate", own / matrix_rate);
  if (!use_library_products(device, {.rows = 1, .numbers = 1})) return json;
  ENGINE_TRY(const double library, dense.rate());
  json.add("library", device.dense_products()).add("library_operations_per_second", library);
  json.add("library_share_of_matrix_rate", library / matrix_rate);
  return json.add("difference", difference(own_results, dense.last_results()));
}

}  // namespace

double dense_state_bytes(const ModelWeights& weights, std::int64_t rows) {
  double most = 0;
  for (const Product& product : large_products(weights)) {
    const auto numbers = static_cast<double>(product.weight->rows() + product.weight->cols());
    most = std::max(most, static_cast<double>(sizeof(float) * static_cast<std::size_t>(rows)) * numbers);
  }
  return most;
}

Result<Json> measure_dense(const Subject& subject, Backend& device, std::int64_t rows) {
  const bool by_library = device.dense_products().starts_with("cuBLASLt");
  Json list = Json::list();
  for (const Product& product : large_products(subject.model.weights())) {
    ENGINE_TRY(const Json one, measure_one(device, product, rows, subject.rates.bf16_operations));
    list.append(one);
  }
  if (by_library) {
    use_library_products(device);
  } else {
    use_own_products(device);
  }
  return Json().add("products", list);
}

}  // namespace lectern::engine::bench
