#include "serve/etcd/denial_log.hpp"

#include <fmt/format.h>

#include <iterator>

#include "base/log_fields.hpp"

namespace mesh::serve {

namespace {

constexpr Duration kPause = std::chrono::minutes(1);
constexpr std::string_view kOthers = "others";

}  // namespace

std::string_view describe(DenialReason reason) noexcept {
    switch (reason) {
        case DenialReason::kNoRole:
            return "no role is for its certificate";
        case DenialReason::kListener:
            return "its role does not count on this listener";
        case DenialReason::kMethod:
            return "its role may not make such calls";
        case DenialReason::kKey:
            return "its role may not use such keys";
        case DenialReason::kMirror:
            return "nobody writes to a mirrored etcd here";
        case DenialReason::kRevoked:
            return "its role has lost the right to a call that ran, which was ended";
        case DenialReason::kStreams:
            return "it has as many streams as its role's limits allow";
        case DenialReason::kWatches:
            return "it has as many watches as its role's limits allow";
        case DenialReason::kRequests:
            return "as many of its requests wait for their turn as its role's limits allow";
    }
    return "?";
}

std::string_view address_of(const rpc::Peer& peer) noexcept {
    std::string_view text = peer.address;
    text = text.substr(0, text.rfind(':'));
    if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
    return text;
}

const std::string& name_of(const rpc::Peer& peer) noexcept {
    static const std::string none;
    if (!peer.verified) return none;
    if (!peer.common_name.empty()) return peer.common_name;
    if (!peer.uris.empty()) return peer.uris.front();
    return peer.dns_names.empty() ? none : peer.dns_names.front();
}

std::string printable(std::string_view text, std::size_t most) {
    std::string out;
    for (const char c : text.substr(0, most)) {
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            out += c;
        else
            fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(c));
    }
    if (text.size() > most) out += "...";
    return out;
}

std::int64_t DenialLog::may_tell(const std::string& client, TimePoint now) {
    auto place = told_.find(client);
    if (place == told_.end()) {
        if (told_.size() >= kMostClients)
            std::erase_if(told_, [&](const auto& one) { return now - one.second.at >= kPause; });
        if (told_.size() >= kMostClients) {
            ++others_.suppressed;
            return -1;
        }
        told_.emplace(client, Told{.at = now});
        return 0;
    }
    Told& told = place->second;
    if (now - told.at < kPause) {
        ++told.suppressed;
        return -1;
    }
    told.at = now;
    return static_cast<std::int64_t>(std::exchange(told.suppressed, 0));
}

void DenialLog::add(const AccessRequest& request, DenialReason reason, std::string_view why) {
    const std::string& name = name_of(request.peer);
    const std::string client = fmt::format("{} {}", name, address_of(request.peer));
    const TimePoint now = clock_.now();
    std::int64_t suppressed = 0;
    std::uint64_t of_others = 0;
    {
        const std::lock_guard lock(mutex_);
        auto place = counts_.find(name);
        if (place == counts_.end()) {
            const bool room = counts_.size() < kMostNames;
            place = counts_.try_emplace(room ? name : std::string(kOthers)).first;
        }
        ++place->second.at(static_cast<std::size_t>(reason));
        suppressed = may_tell(client, now);
        if (others_.suppressed != 0 && now - others_.at >= kPause) {
            others_.at = now;
            of_others = std::exchange(others_.suppressed, 0);
        }
    }
    if (of_others != 0)
        log_.warn("denied: {} calls of clients beyond the {} that are told one by one", of_others,
                  kMostClients);
    if (suppressed < 0) return;
    const std::string key =
        request.range.key.empty() ? "" : fmt::format(" of \"{}\"", printable(request.range.key));
    const std::string more =
        suppressed == 0 ? "" : fmt::format("; {} more denials of it were not told", suppressed);
    const LogFields fields({{"client", printable(name, 128)},
                            {"address", std::string(address_of(request.peer))},
                            {"listener", std::string(request.listener)},
                            {"method", printable(request.method, 128)},
                            {"key", printable(request.range.key)},
                            {"reason", std::string(to_string(reason))}});
    log_.warn("denied: {} at {} (listener {}): {}{}: {}{}",
              name.empty() ? "a client without a certificate"
                           : fmt::format("\"{}\"", printable(name, 128)),
              address_of(request.peer), request.listener, printable(request.method, 128), key, why,
              more);
}

std::vector<DenialCount> DenialLog::counts() const {
    const std::lock_guard lock(mutex_);
    std::vector<DenialCount> out;
    for (const auto& [name, by_reason] : counts_)
        for (std::size_t i = 0; i < by_reason.size(); ++i)
            if (by_reason[i] != 0)
                out.push_back({name, static_cast<DenialReason>(i), by_reason[i]});
    return out;
}

}  // namespace mesh::serve
