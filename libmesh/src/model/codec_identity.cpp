// Identities: label strings, not JSON (wire.md §7, §16).
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::string_view kReserved = "reserved";
constexpr std::string_view kUnspecified = "unspec";
constexpr std::string_view kReservedPrefix = "reserved.";

/// One piece between semicolons. The key is empty if the piece says nothing.
Label parse_label(std::string_view piece) {
    std::string_view source;
    std::string_view rest = piece;
    const auto colon = piece.find(':');
    if (piece.starts_with('$')) {
        source = kReserved;
        rest = piece.substr(1);
    } else if (colon != std::string_view::npos) {
        source = piece.substr(0, colon);
        rest = piece.substr(colon + 1);
    } else if (piece.starts_with(kReservedPrefix)) {
        source = kReserved;
        rest = piece.substr(kReservedPrefix.size());
    }
    Label label{source.empty() ? kUnspecified : source, {}, {}};
    const auto equals = rest.find('=');
    if (equals == std::string_view::npos) {
        label.key = rest;
    } else if (equals == 0 && source == kReserved) {
        label.key = rest.substr(1);
    } else {
        label.key = rest.substr(0, equals);
        label.value = rest.substr(equals + 1);
    }
    return label;
}

}  // namespace

std::vector<Label> parse_labels(std::string_view text) {
    std::vector<Label> labels;
    labels.reserve(static_cast<std::size_t>(std::ranges::count(text, ';')));
    while (!text.empty()) {
        const auto end = std::min(text.find(';'), text.size());
        if (end != 0) {
            Label label = parse_label(text.substr(0, end));
            if (!label.key.empty()) labels.push_back(std::move(label));
        }
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return labels;
}

Result<IdentityId> parse_identity_id(std::string_view key_or_tail) {
    const ParsedKey key = parse_key(key_or_tail);
    const std::string_view digits = key.kind == KeyKind::kIdentity ? key.tail : key_or_tail;
    std::uint32_t id = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, failure] = std::from_chars(digits.data(), end, id);
    if (failure == std::errc{} && stop == end && id != 0) return IdentityId{id};
    return invalid_argument(
        fmt::format("{}: expected an identity 1..4294967295 as the key's last part, got \"{}\"",
                    printable(key_or_tail, 256), printable(digits, 40)));
}

Result<Identity> parse_identity(std::string_view key, std::string_view value) {
    MESH_TRY(const IdentityId id, parse_identity_id(key));
    if (value.empty()) {
        return invalid_argument(
            fmt::format("{}: expected labels, got an empty value", printable(key, 256)));
    }
    return Identity{id, parse_labels(value)};
}

std::string encode_labels(const std::vector<Label>& labels) {
    std::string text;
    for (const Label& label : labels) {
        text.append(label.source).append(":").append(label.key);
        text.append("=").append(label.value).append(";");
    }
    return text;
}

std::string encode(const Identity& identity) {
    return encode_labels(identity.labels);
}

void sort_labels(std::vector<Label>& labels) {
    std::ranges::stable_sort(labels, {}, [](const Label& label) { return label.key.view(); });
}

}  // namespace mesh::model
