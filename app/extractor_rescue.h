// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "retrieval/types.h"

namespace lectern::app {

// Sends the finished pages when the next one never ends or brings the reader down: by the time limit of a page, the
// processor or memory limit of the process, or a crash. There is one at a time, for the life of the process.
class PageRescue {
 public:
  // `pageTime` is processor time for each page. Installs signal handlers; call before the process is confined.
  explicit PageRescue(std::chrono::milliseconds pageTime);
  PageRescue(const PageRescue&) = delete;
  PageRescue& operator=(const PageRescue&) = delete;
  ~PageRescue();

  void addPage(const retrieval::ExtractedPage& page, std::size_t pageCount);

  // The document is complete: failures from here on are failures.
  void finish();

 private:
  void startClock() const;

  std::chrono::milliseconds m_pageTime;
  std::size_t m_done = 0;
  std::string m_head;
  std::string m_pages;
};

}  // namespace lectern::app
