// SPDX-License-Identifier: GPL-3.0-or-later
// Finding an answer's words in a document although the two are not spelt byte for byte alike.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lectern::retrieval {

using ByteRange = std::pair<std::size_t, std::size_t>;  // [begin, end)

// Text reduced to what counts as the same words: white space is one space and none before closing punctuation, dashes,
// quotation marks and ligatures have one form, square brackets are round (pack.h), soft hyphens and Markdown's
// emphasis are gone, and ASCII letters are small unless `keep_case`.
class FoldedText {
 public:
  FoldedText(std::string_view text, bool keep_case);

  const std::string& text() const { return text_; }
  // The bytes of the original from which [begin, end) of text() was made.
  ByteRange source(std::size_t begin, std::size_t end) const;

 private:
  std::string text_;
  std::vector<ByteRange> sources_;  // per byte of text_
};

// Without punctuation and spaces at both ends.
std::string_view trimmed(std::string_view folded);

// Where `needle` stands in `haystack` as whole words. Needles that prove nothing ("yes", "no.") are not found.
std::optional<ByteRange> find_words(std::string_view needle, const FoldedText& haystack);

// What stands between pairs of quotation marks; folded.
std::vector<std::string> quoted_spans(const FoldedText& text);

// The range of `candidates` whose words overlap most with those of `claim`; nothing when hardly any do.
std::optional<ByteRange> most_similar(std::string_view claim, std::string_view text,
                                      const std::vector<ByteRange>& candidates);

// Whether one text is mostly the other: at least 8 in 10 of the shorter one's word triples are in both.
bool nearly_equal(std::string_view a, std::string_view b);

}  // namespace lectern::retrieval
