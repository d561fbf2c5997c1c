// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"
#include "ops/backend.h"
#include "quant/formats.h"
#include "support/oracle.h"

namespace lectern::engine::support {

using oracle::Matrix;

inline constexpr std::size_t kGuard = 24;  // numbers on each side of an array that must stay as they are
inline constexpr float kGuardValue = -12345.678F;

// Numbers between guards; outputs start as NaN so that one left out shows.
class Numbers {
 public:
  explicit Numbers(const Matrix& matrix) : Numbers(matrix.rows, matrix.cols) {
    for (std::size_t i = 0; i < matrix.values.size(); ++i) {
      memory_[kGuard + i] = static_cast<float>(matrix.values[i]);
    }
    original_ = memory_;
  }
  Numbers(std::int64_t rows, std::int64_t cols)
      : rows_(rows), cols_(cols), memory_(static_cast<std::size_t>(rows * cols) + 2 * kGuard, kGuardValue) {
    std::fill(memory_.begin() + kGuard, memory_.end() - kGuard, std::numeric_limits<float>::quiet_NaN());
  }

  Tensor tensor() { return {data(), rows_, cols_}; }
  float* data() { return memory_.data() + kGuard; }
  float operator[](std::size_t index) const { return memory_[kGuard + index]; }

  void expect_unchanged() const {
    EXPECT_EQ(0, std::memcmp(memory_.data(), original_.data(), memory_.size() * sizeof(float)));
  }

  void expect(const Matrix& expected, double tolerance) const {
    double largest = 1e-30;
    double worst = 0;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(memory_[kGuard + i])) << "at " << i;
      largest = std::max(largest, std::abs(expected.values[i]));
      worst = std::max(worst, std::abs(memory_[kGuard + i] - expected.values[i]));
    }
    EXPECT_LE(worst / largest, tolerance);
    for (std::size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(memory_[i], kGuardValue) << "written before the array";
      ASSERT_EQ(memory_[memory_.size() - 1 - i], kGuardValue) << "written behind the array";
    }
  }

 private:
  std::int64_t rows_;
  std::int64_t cols_;
  std::vector<float> memory_;
  std::vector<float> original_;
};

// A weight with the host memory it was made of.
struct HeldWeight {
  std::vector<std::byte> memory;
  std::vector<float> scales;  // of kF8E4M3
  WeightHandle handle;
  Matrix values;  // as stored
};

using BackendParameters = std::tuple<std::size_t, int>;  // kernels, threads

// The body of a test runs on every kind of kernels that this machine has, with
// one thread and with two.
class BackendTest : public ::testing::TestWithParam<BackendParameters> {
 protected:
  BackendTest()
      : backend_(std::make_unique<cpu::CpuBackend>(std::get<1>(GetParam()),
                                                   *cpu::usable_kernels()[std::get<0>(GetParam())])) {}

  // Random numbers that a float holds exactly.
  Matrix random(std::int64_t rows, std::int64_t cols, double scale = 1.0) {
    Matrix matrix(rows, cols);
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    for (double& value : matrix.values) value = static_cast<float>(scale) * uniform(random_);
    return matrix;
  }

  std::vector<double> random_list(std::int64_t count, double scale, double offset) {
    std::vector<double> list = random(1, count, scale).values;
    for (double& value : list) value = static_cast<float>(value + offset);
    return list;
  }

  // The nearest numbers to `matrix` that the type can hold; cols are whole
  // blocks.
  HeldWeight weight(const Matrix& matrix, DType type) {
    HeldWeight held;
    held.memory.resize(static_cast<std::size_t>(bytes_of(type, matrix.rows * matrix.cols)));
    const std::vector<float> numbers = floats(matrix.values);
    if (type == DType::kF8E4M3) {
      fill_f8(numbers, matrix.cols, held);
    } else {
      quantize(type, numbers.data(), matrix.rows * matrix.cols, held.memory.data());
    }
    const HostMatrix host = {type, held.memory.data(), matrix.rows, matrix.cols,
                             held.scales.empty() ? nullptr : held.scales.data()};
    held.values = Matrix(matrix.rows, matrix.cols);
    std::vector<float> row(static_cast<std::size_t>(matrix.cols));
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      read_row(host, r, row.data());
      std::copy(row.begin(), row.end(), held.values.values.begin() + r * matrix.cols);
    }
    auto taken = backend_->take_weight(host);
    EXPECT_TRUE(taken.ok());
    held.handle = std::move(taken).value();
    return held;
  }

  // The nearest codes, with random scales. Codes 0 to 126 are the positive numbers in order, 127 is none.
  void fill_f8(std::span<const float> numbers, std::int64_t cols, HeldWeight& held) {
    std::vector<float> positive;
    for (int code = 0; code < 127; ++code) positive.push_back(f8_e4m3_to_float(static_cast<std::uint8_t>(code)));
    const std::int64_t rows = static_cast<std::int64_t>(numbers.size()) / cols;
    const std::int64_t across = (cols + 127) / 128;
    std::uniform_real_distribution<float> uniform(0.5F, 2.0F);
    held.scales.resize(static_cast<std::size_t>((rows + 127) / 128 * across));
    for (float& scale : held.scales) scale = uniform(random_) / 256;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t block = at / cols / 128 * across + at % cols / 128;
      const float magnitude = std::abs(numbers[i]) / held.scales[static_cast<std::size_t>(block)];
      auto above = std::lower_bound(positive.begin() + 1, positive.end() - 1, magnitude);
      if (magnitude - *(above - 1) < *above - magnitude) --above;
      held.memory[i] = static_cast<std::byte>((above - positive.begin()) | (numbers[i] < 0 ? 128 : 0));
    }
  }

  HeldWeight random_weight(std::int64_t rows, std::int64_t cols, DType type) {
    return weight(random(rows, cols, std::sqrt(3.0 / static_cast<double>(cols))), type);
  }

  // Some kernels round to BF16 what meets 16 or 8 bits.
  static double attention_tolerance(KvType type) {
#if defined(__x86_64__)
    const cpu::Kernels& kernels = *cpu::usable_kernels()[std::get<0>(GetParam())];
    const bool rounds = kernels.multiply_panels == cpu::avx512_bf16::multiply_panels;
    if (rounds && type != KvType::kF32) return oracle::kRoundedAttention;
#endif
    return oracle::kAttention;
  }

  static std::vector<float> floats(std::span<const double> list) { return {list.begin(), list.end()}; }

  std::unique_ptr<Backend> backend_;
  std::mt19937 random_{17};
};

inline std::string backend_name(const ::testing::TestParamInfo<BackendParameters>& info) {
  return std::string(cpu::usable_kernels()[std::get<0>(info.param)]->name) + "_" +
         std::to_string(std::get<1>(info.param)) + "threads";
}

inline auto all_backends() {
  return ::testing::Combine(::testing::Range<std::size_t>(0, cpu::usable_kernels().size()), ::testing::Values(1, 2));
}

}  // namespace lectern::engine::support
