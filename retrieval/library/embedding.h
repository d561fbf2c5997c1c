// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "library/ingest.h"

namespace lectern::retrieval {

// Gives every chunk that lacks one a vector of tools.embedder's model, in committed batches, so that it goes on where
// it was stopped. A failing embedder is noted in the report; the error is the store's.
Result<void> embed_missing(const IngestTools& tools, IngestProgress& progress, IngestReport& report);

}  // namespace lectern::retrieval
