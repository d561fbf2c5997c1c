// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <stop_token>
#include <string>
#include <string_view>

#include "retrieval/extract.h"

namespace lectern::retrieval {

// Reads a PDF; `shown_name` starts each error. Poppler keeps a pointer into `bytes` only during the call.
Result<ExtractedDocument> extract_pdf(const std::string& shown_name, std::string_view bytes,
                                      const ExtractLimits& limits, std::stop_token stop, const PageObserver& on_page);

// Makes Poppler open every file it needs for ordinary text.
void preload_pdf();

}  // namespace lectern::retrieval
