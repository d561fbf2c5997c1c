// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace lectern::app {

struct Finished {
  int code = -1;  // exit code, or 128 + signal
  std::string out;
  std::string err;

  nlohmann::json json() const;  // of `out`; discarded (a failed expectation) when it is not JSON
  std::size_t errorLines() const;
};

enum class Privilege {
  kOwn,
  kNoOverride,  // even root must respect file permissions
};

// The lectern-cli program, with its data in a folder of the test.
class Cli {
 public:
  explicit Cli(const std::filesystem::path& data) : m_data(data) {}

  Finished run(const std::vector<std::string>& arguments, Privilege privilege = Privilege::kOwn) const;

  // Starts it; finish() waits. `outputTo` replaces stdout by a file.
  class Running;
  Running start(const std::vector<std::string>& arguments, Privilege privilege = Privilege::kOwn,
                const std::string& outputTo = "") const;

 private:
  std::filesystem::path m_data;
};

class Cli::Running {
 public:
  Running(pid_t process, int out, int err) : m_process(process), m_out(out), m_err(err) {}
  ~Running();
  Running(Running&& other) noexcept;
  Running& operator=(Running&&) = delete;

  // Reads until stdout holds `text`; false when the program ends first.
  bool waitForOutput(const std::string& text);
  void signal(int number) const;
  void closeOutput();
  Finished finish();

 private:
  bool readMore();

  pid_t m_process;
  int m_out;
  int m_err;
  Finished m_result;
};

std::string readFile(const std::filesystem::path& path);

// True when this process can start children that respect file permissions.
bool canDropOverride();

}  // namespace lectern::app
