// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "engine/model_tools.h"
#include "model/model_files.h"
#include "model/tensor_plan.h"
#include "runtime/model_text.h"
#include "runtime/no_exceptions.h"
#include "runtime/task_clock.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kTaskNumbers = 64 << 10;
constexpr std::int64_t kTasksAtOnce = 256;  // between two looks at the stop request
constexpr double kLargestSane = 1e4;        // trained weights stay far below

// What was found in some rows of a tensor.
struct RowStatistics {
  std::int64_t not_finite = 0;
  std::int64_t zero_rows = 0;
  double largest = 0;
  double largest_signed = -HUGE_VAL;
  double square_sum = 0;

  void add(const std::vector<float>& values) {
    bool all_zero = true;
    for (const float value : values) {
      if (!std::isfinite(value)) {
        ++not_finite;
        continue;
      }
      const auto number = static_cast<double>(value);
      all_zero = all_zero && value == 0;
      largest = std::max(largest, std::abs(number));
      largest_signed = std::max(largest_signed, number);
      square_sum += number * number;
    }
    zero_rows += all_zero ? 1 : 0;
  }

  void add(const RowStatistics& other) {
    not_finite += other.not_finite;
    zero_rows += other.zero_rows;
    largest = std::max(largest, other.largest);
    largest_signed = std::max(largest_signed, other.largest_signed);
    square_sum += other.square_sum;
  }
};

class Verifier {
 public:
  Verifier(int threads, const TaskSink& progress, std::stop_token stop)
      : team_(threads), clock_(progress), stop_(std::move(stop)) {}

  Result<VerificationReport> verify(const std::filesystem::path& path) {
    ENGINE_TRY(const ModelFiles files, ModelFiles::open(path));
    ENGINE_TRY(const ModelPlan plan, plan_model(files, /*keep_mtp=*/true));
    for (const auto& [name, tensor] : files.tensors()) {
      report_.bytes += static_cast<std::int64_t>(tensor.bytes.size());
    }
    std::int64_t total = 0;
    for (const TensorPlan& tensor : plan.tensors) total += tensor.numbers();
    for (const TensorPlan& tensor : plan.tensors) {
      ENGINE_TRY(const RowStatistics found, read(tensor, total));
      judge(tensor, found);
    }
    check_tokenizer(path, files);
    report_.seconds = clock_.seconds();
    return std::move(report_);
  }

 private:
  void wrong(const std::string& item, std::string what) { report_.findings.push_back({true, item, std::move(what)}); }
  void strange(const std::string& item, std::string what) {
    report_.findings.push_back({false, item, std::move(what)});
  }

  Result<RowStatistics> read(const TensorPlan& tensor, std::int64_t total) {
    const std::int64_t rows = tensor.rows();
    const std::int64_t step = std::max<std::int64_t>(1, kTaskNumbers / tensor.cols());
    const std::int64_t tasks = (rows + step - 1) / step;
    RowStatistics all;
    std::mutex mutex;
    for (std::int64_t first = 0; first < tasks; first += kTasksAtOnce) {
      if (stop_.stop_requested()) return Error{ErrorCode::kCancelled, "The check was stopped before its end."};
      clock_.tell(tensor.name, report_.numbers + first * step * tensor.cols(), total);
      team_.parallel_for(std::min(kTasksAtOnce, tasks - first), [&](std::int64_t task) {
        RowStatistics some;
        std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
        const std::int64_t begin = (first + task) * step;
        for (std::int64_t row = begin; row < std::min(rows, begin + step); ++row) {
          tensor.read(row, values.data());
          some.add(values);
        }
        const std::lock_guard lock(mutex);
        all.add(some);
      });
    }
    ++report_.tensors;
    report_.numbers += tensor.numbers();
    return all;
  }

  void judge(const TensorPlan& tensor, const RowStatistics& found) {
    const std::string& name = tensor.stored_name;
    if (found.not_finite > 0) {
      return wrong(name, std::to_string(found.not_finite) + " of its numbers are infinite or none at all");
    }
    const bool mostly_empty = tensor.rows() > 1 && found.zero_rows > tensor.rows() / 2;
    if (mostly_empty) return wrong(name, "more than half of its rows are empty, as after a download with holes");
    if (found.largest > kLargestSane) {
      return wrong(name, "it holds numbers up to " + std::to_string(found.largest) + ", beyond all trained weights");
    }
    if (tensor.name.ends_with(".ssm_a") && found.largest_signed >= 0) {
      return wrong(name, "a state would grow without bound: not all its decay rates are negative");
    }
    const double root_mean_square = std::sqrt(found.square_sum / static_cast<double>(tensor.numbers()));
    if (found.largest > 1000 * root_mean_square) {
      strange(name, "its largest number is over a thousand times their usual size");
    }
    // Rows of the embedding that no text uses are often left empty.
    if (found.zero_rows > 0 && tensor.rows() > 1 && !tensor.name.starts_with("token_embd")) {
      strange(name, std::to_string(found.zero_rows) + " of its " + std::to_string(tensor.rows()) + " rows are empty");
    }
  }

  void check_tokenizer(const std::filesystem::path& path, const ModelFiles& files) {
    const Result<std::unique_ptr<Tokenizer>> loaded = load_tokenizer(path, files);
    if (!loaded.ok()) return wrong("tokenizer", loaded.error().message);
    const Tokenizer& tokenizer = **loaded;
    if (tokenizer.size() > files.config().vocabulary) {
      wrong("tokenizer", "it has " + std::to_string(tokenizer.size()) + " tokens, but the model only " +
                             std::to_string(files.config().vocabulary));
    }
    constexpr std::string_view kTexts[] = {"The quick brown fox jumps over 13 lazy dogs.\n\n  Twice!\t",
                                           "int main() { return x->y != 0xFF ? -1 : 0; }  // done",
                                           "Zwölf Boxkämpfer jagten Eva quer über den Sylter Deich.",
                                           "Съешь ещё этих мягких французских булок, да выпей чаю.",
                                           "いろはにほへと ちりぬるを 我が世誰ぞ",
                                           "天地玄黃 宇宙洪荒 日月盈昃",
                                           "نص عربي قصير 12345",
                                           "🦊🏳️‍🌈 emoji and \"quotes\" <|im_end|> inside"};
    for (const std::string_view text : kTexts) {
      const std::vector<TokenId> tokens = tokenizer.encode(text, Tokenizer::SpecialTokens::kIgnore);
      if (tokenizer.decode(tokens, false) != text) {
        wrong("tokenizer", "the text \"" + std::string(text) + "\" does not come back as it was");
      }
    }
    for (TokenId token = 0; token < tokenizer.size(); ++token) {
      if (tokenizer.token_bytes(token).empty())
        return wrong("tokenizer", "token " + std::to_string(token) + " is empty");
    }
  }

  ThreadTeam team_;
  TaskClock clock_;
  std::stop_token stop_;
  VerificationReport report_;
};

}  // namespace

bool VerificationReport::sound() const {
  return std::none_of(findings.begin(), findings.end(), [](const ModelFinding& finding) { return finding.wrong; });
}

Result<VerificationReport> verify_model(const std::filesystem::path& path, int threads, const TaskSink& progress,
                                        std::stop_token stop) {
  return without_exceptions([&] { return Verifier(threads, progress, std::move(stop)).verify(path); });
}

}  // namespace lectern::engine
