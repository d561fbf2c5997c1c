// SPDX-License-Identifier: GPL-3.0-or-later
// Words that the FTS5 tokenizer cannot see: the parts of camelCase identifiers, and pairs of characters of scripts
// written without spaces. Indexed in a column of their own, and searched the same way.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

// "parseHttpHeader2" -> parse, Http, Header, 2; "HTTPServer" -> HTTP, Server; nothing for a word of one part.
std::vector<std::string_view> identifier_parts(std::string_view word);

// The words of any text: runs of ASCII letters, digits, '_' and all non-ASCII letters; in order, with repetitions.
std::vector<std::string_view> words_of(std::string_view text);

// "漢字入門" -> 漢字, 字入, 入門 for runs of at least two such characters inside `word`.
std::vector<std::string_view> character_pairs(std::string_view word);

// The `terms` column of a chunk.
std::string index_terms(std::string_view text);

}  // namespace lectern::retrieval
