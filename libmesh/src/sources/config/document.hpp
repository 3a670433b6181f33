// YAML and JSON text as one tree with line numbers, so that whoever reads typed fields from it can
// name the line of a mistake. Scalars keep the text they were written with.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::sources::config {

struct DocumentField;

/// A node of the tree. @thread any thread (a plain value)
struct DocumentValue {
    enum class Kind : std::uint8_t { kNull, kBool, kNumber, kString, kList, kMap };
    Kind kind = Kind::kNull;
    std::uint32_t line = 0;  ///< from 1
    /// Of a scalar; "true" or "false" of a boolean however it was spelt.
    std::string text;
    std::vector<DocumentValue> items;   ///< of a list
    std::vector<DocumentField> fields;  ///< of a map, as written

    /// The field of a map, or nullptr.
    [[nodiscard]] const DocumentValue* find(std::string_view name) const noexcept;
};

/// A member of a map.
struct DocumentField {
    std::string name;
    DocumentValue value;
};

struct Document {
    std::uint32_t number = 0;  ///< from 1; empty documents count
    DocumentValue root;
};

/// Parses all documents of a file; empty ones are left out. Text whose first character is "{" is a
/// sequence of JSON values, all other is YAML (parted by "---"; anchors and aliases, no merge
/// keys). Plain YAML scalars are booleans, numbers and null as kubectl reads them (yes, no, on, off
/// included); quoted ones are strings.
/// Bounds: nesting of 64, a million values per file (aliases counted as often as they are used).
/// @param file for errors
/// @errors kInvalidArgument "<file>: document <n>: line <n>: ..."; a key that comes twice is one
[[nodiscard]] Result<std::vector<Document>> parse_documents(std::string_view text,
                                                            std::string_view file);

/// "a string", "a list", ... for error texts.
[[nodiscard]] std::string_view describe(DocumentValue::Kind kind) noexcept;

}  // namespace mesh::sources::config
