#include "state/clusters/ip_rows.hpp"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

namespace mesh::state {

IpName IpName::of(const model::IpIdentityPair& pair) {
    if (!pair.prefix_length) return {pair.ip, kNoLength};
    return {pair.ip, std::min<std::uint8_t>(*pair.prefix_length, pair.ip.is_v4() ? 32 : 128)};
}

std::optional<IpName> IpName::parse(std::string_view tail) {
    const auto slash = tail.find('/');
    IpName name;
    if (!model::IpAddress::parse_into(tail.substr(0, slash), name.ip)) return std::nullopt;
    std::string written = name.ip.to_string();
    if (slash != std::string_view::npos) {
        const std::string_view digits = tail.substr(slash + 1);
        const char* const end = digits.data() + digits.size();
        const auto [stop, failure] = std::from_chars(digits.data(), end, name.length);
        if (failure != std::errc{} || stop != end || name.length > (name.ip.is_v4() ? 32 : 128)) {
            return std::nullopt;
        }
        written.append("/").append(std::to_string(name.length));
    }
    return written == tail ? std::optional(name) : std::nullopt;
}

IpName IpName::plain(const model::IpPrefix& row) {
    return {row.address(), row.is_host() ? kNoLength : row.length()};
}

model::IpPrefix IpName::row() const {
    return {ip, length};  // kNoLength is cut to the family's
}

void IpRows::put(const IpName& name, model::IpIdentityPair&& pair, bool plain_held,
                 std::vector<ClusterChange>& out) {
    const model::IpPrefix row = name.row();
    if (name == IpName::plain(row)) {
        out.push_back(IpUpsert{std::move(pair)});
        return;
    }
    auto& others = others_[row];
    others.insert_or_assign(name, pair);
    if (!plain_held && others.begin()->first == name) out.push_back(IpUpsert{std::move(pair)});
}

void IpRows::erase(const IpName& name, bool plain_held, std::vector<ClusterChange>& out) {
    const model::IpPrefix row = name.row();
    const auto at = others_.find(row);
    bool was_row = name == IpName::plain(row);
    if (!was_row) {
        was_row = !plain_held && at->second.begin()->first == name;
        at->second.erase(name);
    }
    if (at == others_.end() || at->second.empty()) {
        if (was_row) out.push_back(IpDelete{row});
        if (at != others_.end()) others_.erase(at);
    } else if (was_row) {
        out.push_back(IpUpsert{at->second.begin()->second});
    }
}

}  // namespace mesh::state
