#include "cases.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <fstream>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/validate.hpp"
#include "sources/config/etcd_yaml.hpp"

namespace mesh::interop {

using namespace state;

std::string text(const json::value& value) {
    return std::string(value.as_string());
}

std::string text_of(const Event& event) {
    return fmt::format("{}{} {} {}", event.deleted ? "-" : "+", event.kind, event.key,
                       event.deleted ? "" : json::serialize(event.object).substr(0, 400));
}

std::vector<json::object> read_cases() {
    std::ifstream in(MESH_SOURCE_DIR "/tests/golden/samples/interop-cases.jsonl");
    std::vector<json::object> cases;
    for (std::string line; std::getline(in, line);) {
        cases.push_back(json::parse(line).as_object());
    }
    return cases;
}

std::string put_value(const json::object& put) {
    if (const auto* value = put.if_contains("value")) return text(*value);
    if (const auto* value = put.if_contains("value_b64")) {
        const std::string coded = text(*value);
        std::string bytes(coded.size(), '\0');
        const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                         reinterpret_cast<const unsigned char*>(coded.data()),
                                         static_cast<int>(coded.size()));
        bytes.resize(static_cast<std::size_t>(size));
        // The decoder counts the padding's zero bytes as well.
        const auto padding = std::count(coded.end() - 2, coded.end(), '=');
        bytes.resize(bytes.size() - static_cast<std::size_t>(padding));
        return bytes;
    }
    const auto& repeat = put.at("value_repeat").as_object();
    std::string out = text(repeat.at("prefix"));
    for (std::int64_t i = 0; i < repeat.at("count").as_int64(); ++i) out += text(repeat.at("unit"));
    return out + text(repeat.at("suffix"));
}

bool matches(const json::value& ours, const json::value& recorded) {
    if (ours.is_string() && recorded.is_object() && recorded.as_object().contains("$sha256")) {
        return sources::config::sha256_hex(text(ours)) == text(recorded.at("$sha256"));
    }
    if (ours.is_object() && recorded.is_object()) {
        const auto& a = ours.as_object();
        const auto& b = recorded.as_object();
        return a.size() == b.size() && std::ranges::all_of(a, [&](const auto& entry) {
                   const auto* other = b.if_contains(entry.key());
                   return other != nullptr && matches(entry.value(), *other);
               });
    }
    if (ours.is_array() && recorded.is_array()) {
        return std::ranges::equal(ours.as_array(), recorded.as_array(), matches);
    }
    if (ours.is_number() && recorded.is_number()) {
        return ours.to_number<std::uint64_t>() == recorded.to_number<std::uint64_t>();
    }
    return ours == recorded;
}

namespace {

/// As Go's path.Join: empty parts vanish.
std::string join(std::initializer_list<std::string_view> parts) {
    std::string out;
    for (const auto part : parts) {
        if (part.empty()) continue;
        if (!out.empty()) out += '/';
        out += part;
    }
    return out;
}

json::value ip_object(const model::IpIdentityPair& pair) {
    json::object object{{"ip", model::ip_key_tail(pair)},
                        {"hostIP", pair.host_ip ? pair.host_ip->to_string() : ""},
                        {"key", pair.key},
                        {"id", model::number(pair.id)}};
    if (!pair.k8s_namespace.empty() || !pair.k8s_pod_name.empty() || !pair.named_ports.empty()) {
        object["ns"] = pair.k8s_namespace.str();
        object["pod"] = pair.k8s_pod_name.str();
        json::object ports;
        for (const auto& port : model::usable_named_ports(pair)) {
            const int protocol = port.protocol == "TCP" ? 6 : port.protocol == "UDP" ? 17 : 132;
            ports[port.name.str()] = json::object{{"port", port.port}, {"proto", protocol}};
        }
        object["namedPorts"] = std::move(ports);
    }
    return object;
}

}  // namespace

std::vector<Event> Recorder::take(const ClusterBatch& batch) {
    std::vector<Event> out;
    const std::string& c = batch.cluster.name;
    const auto upsert = [&](std::string kind, const std::string& ours, std::string key,
                            json::value object) {
        names_[c + " " + kind + " " + ours] = key;
        out.push_back({std::move(kind), std::move(key), false, std::move(object)});
    };
    const auto erase = [&](std::string kind, const std::string& ours) {
        const auto at = names_.find(c + " " + kind + " " + ours);
        out.push_back(
            {std::move(kind), at == names_.end() ? "unknown: " + ours : at->second, true, {}});
    };
    for (const auto& change : batch.changes) {
        if (const auto* u = std::get_if<NodeUpsert>(&change)) {
            upsert("node", u->node.name, join({u->node.cluster, u->node.name}),
                   json::parse(model::encode(u->node)));
        } else if (const auto* d = std::get_if<NodeDelete>(&change)) {
            erase("node", d->name);
        } else if (const auto* s = std::get_if<ServiceUpsert>(&change)) {
            json::value object = json::parse(model::encode(s->service));
            if (!keep_zones_) {
                object.as_object().erase("zones");
                object.as_object().erase("hostnames");
            }
            upsert("service", s->service.namespace_.str() + "/" + s->service.name.str(),
                   join({s->service.cluster, s->service.namespace_, s->service.name}),
                   std::move(object));
        } else if (const auto* sd = std::get_if<ServiceDelete>(&change)) {
            erase("service", sd->name.namespace_ + "/" + sd->name.name);
        } else if (const auto* i = std::get_if<IpUpsert>(&change)) {
            const model::IpPrefix prefix(
                i->pair.ip, i->pair.prefix_length.value_or(i->pair.ip.is_v4() ? 32 : 128));
            upsert("ip", prefix.to_string(), model::ip_key_tail(i->pair), ip_object(i->pair));
        } else if (const auto* id = std::get_if<IpDelete>(&change)) {
            erase("ip", id->prefix.to_string());
        } else if (const auto* n = std::get_if<IdentityUpsert>(&change)) {
            const std::string number = std::to_string(model::number(n->identity.id));
            upsert("identity", number, number,
                   json::object{{"labels", model::encode(n->identity)}});
        } else if (const auto* nd = std::get_if<IdentityDelete>(&change)) {
            erase("identity", std::to_string(model::number(nd->id)));
        }
    }
    return out;
}

std::vector<Event> Effects::effective(const std::vector<Event>& events) {
    std::vector<Event> out;
    for (const Event& event : events) {
        const std::string key = event.kind + " " + event.key;
        const auto at = held_.find(key);
        if (event.deleted) {
            if (at == held_.end()) continue;
            held_.erase(at);
        } else {
            if (at != held_.end() && matches(event.object, at->second)) continue;
            held_[key] = event.object;
        }
        out.push_back(event);
    }
    std::stable_sort(out.begin(), out.end(), [](const Event& a, const Event& b) {
        return std::tie(a.kind, a.key) < std::tie(b.kind, b.key);
    });
    return out;
}

}  // namespace mesh::interop
