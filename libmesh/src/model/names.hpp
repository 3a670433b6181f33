// Kubernetes' rules for names and labels, for all that reads objects from text.
#pragma once

#include <cstddef>
#include <string_view>

namespace mesh::model {

[[nodiscard]] constexpr bool is_lower_alnum(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
[[nodiscard]] constexpr bool is_alnum(char c) noexcept {
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

/// RFC 1123: labels of lower-case alphanumerics and '-', parted by dots in a subdomain.
[[nodiscard]] bool is_dns_name(std::string_view name, std::size_t limit, bool dots);
/// At most 63 of alphanumerics, '-', '_' and '.', alphanumeric at both ends; or nothing.
[[nodiscard]] bool is_label_text(std::string_view text);
/// [<subdomain>/]<label text>.
[[nodiscard]] bool is_qualified_name(std::string_view name);
/// RFC 6335: at most 15 of letters, digits and single inner '-', one letter at least.
[[nodiscard]] bool is_port_name(std::string_view name);

}  // namespace mesh::model
