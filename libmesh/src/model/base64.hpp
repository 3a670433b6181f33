// Standard base64 with padding (RFC 4648 §4), as Go's base64.StdEncoding: line breaks are ignored,
// the unused bits of the last character may be set.
#pragma once

#include <string>
#include <string_view>

namespace mesh::model {

/// Appends the bytes. @return false if the text is not base64; `out` is then of no use
[[nodiscard]] bool decode_base64(std::string_view text, std::string& out);
/// Appends the text.
void encode_base64(std::string_view bytes, std::string& out);

}  // namespace mesh::model
