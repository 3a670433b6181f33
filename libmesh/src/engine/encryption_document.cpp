// What of encryption the status API shows.
#include <boost/json/array.hpp>
#include <chrono>

#include "engine/encryption.hpp"

namespace mesh::engine {
namespace {

namespace json = boost::json;

json::array texts(const std::vector<std::string>& list) {
    return json::array(list.begin(), list.end());
}

json::array names(const std::vector<compile::EncryptionNode>& nodes) {
    json::array all;
    for (const auto& node : nodes) {
        all.push_back(json::object{{"cluster", node.cluster.name}, {"node", node.name}});
    }
    return all;
}

std::string text_of(const datapath::WireguardEndpoint& endpoint) {
    const std::string address = endpoint.address.to_string();
    const std::string host = endpoint.address.is_v4() ? address : "[" + address + "]";
    return host + ":" + std::to_string(endpoint.port);
}

}  // namespace

json::object Encryption::summary() const {
    const auto keyless = compiler_.without_key();
    std::string error = error_;
    if (error.empty() && !up_) error = "not known yet: the own node's record, or the device";
    return {{"kind", "wireguard"},
            {"up", up_},
            {"strict", context_.options.strict},
            {"public_key", public_key_.to_string()},
            {"published", published_ == public_key_.to_string()},
            {"peers", peers_.size()},
            {"nodes_without_key", keyless.size()},
            {"device_starts", device_starts_},
            {"error", std::move(error)}};
}

json::object Encryption::document() {
    json::object all = summary();
    all["port"] = context_.options.port;
    all["published_key"] = published_;
    all["nodes_without_key"] = names(compiler_.without_key());
    all["conflicts"] = texts(compiler_.conflicts());
    all["skipped"] = texts(compiler_.skipped());
    datapath::WireguardState state;
    if (table_) {
        all["device"] = table_->device().name();
        all["backend"] = to_string(table_->device().backend());
        auto asked = table_->device().state();
        if (asked) {
            state = *std::move(asked);
        } else {
            all["device_error"] = asked.error().message();
        }
    }
    json::array peers;
    for (const auto& [key, peer] : peers_) {
        json::object entry{{"cluster", peer.node.cluster.name},
                           {"node", peer.node.name},
                           {"public_key", key.to_string()},
                           {"allowed_ips", peer.allowed_ips.size()}};
        if (const auto held = state.peers.find(key); held != state.peers.end()) {
            const auto& of = held->second;
            entry["endpoint"] = of.endpoint ? json::value(text_of(*of.endpoint)) : nullptr;
            // Seconds since 1970; 0 = never.
            entry["last_handshake"] =
                std::chrono::duration_cast<std::chrono::seconds>(of.last_handshake).count();
            entry["received_bytes"] = of.received_bytes;
            entry["sent_bytes"] = of.sent_bytes;
        }
        peers.push_back(std::move(entry));
    }
    all["peers"] = std::move(peers);
    return all;
}

}  // namespace mesh::engine
