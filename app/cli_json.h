// SPDX-License-Identifier: GPL-3.0-or-later
// What --json prints. Names are stable: other programs read them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "retrieval/answer.h"
#include "retrieval/library.h"
#include "retrieval/result.h"
#include "retrieval/types.h"

namespace lectern::app {

using Json = nlohmann::ordered_json;

Json toJson(const retrieval::SearchHit& hit);
Json toJson(const retrieval::DocumentInfo& document);
Json toJson(const retrieval::IngestItem& item);
Json toJson(const retrieval::IngestReport& report);
Json toJson(const retrieval::LibraryStatus& status);
Json toJson(const retrieval::Answer& answer);
Json toJson(const retrieval::Error& error);

// ASCII only, so that no text in it can steer a terminal; bytes that are not UTF-8 become U+FFFD. Ends with '\n'.
std::string dump(const Json& json);

const char* name(retrieval::DocumentKind kind);
const char* name(retrieval::DocumentState state);
const char* name(retrieval::IngestOutcome outcome);
const char* name(retrieval::GenerateFinish finish);

}  // namespace lectern::app
