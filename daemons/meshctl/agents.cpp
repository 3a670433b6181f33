#include "meshctl/agents.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <tuple>

#include "serve/status/http_get.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kTimeout{5000};
constexpr std::chrono::milliseconds kLongTimeout{60'000};
constexpr std::size_t kMaxAnswer = std::size_t{256} << 20;

std::string where(const AgentSocket& agent) {
    return agent.node.empty() ? agent.path : fmt::format("{} ({})", agent.node, agent.path);
}

/// What an agent says of a request that it refuses.
std::string reason_in(const serve::HttpReply& reply, std::string otherwise) {
    boost::system::error_code error;
    const json::value document = json::parse(reply.body, error);
    if (error || !document.is_object()) return otherwise;
    const std::string text = text_of(document.get_object(), "error");
    return text.empty() ? otherwise : text;
}

using FrontendKey = std::tuple<std::string, std::int64_t, std::string>;
FrontendKey key_of(const json::object& frontend) {
    return {text_of(frontend, "address"), integer_of(frontend, "port"),
            text_of(frontend, "protocol")};
}
using BackendKey = std::tuple<std::string, std::int64_t, std::string>;
BackendKey backend_key(const json::object& backend) {
    return {text_of(backend, "address"), integer_of(backend, "port"), text_of(backend, "cluster")};
}

template <class Key>
json::object* find_by(json::array& list, const Key& key, Key (*of)(const json::object&)) {
    for (json::value& item : list) {
        if (item.is_object() && of(item.get_object()) == key) return &item.get_object();
    }
    return nullptr;
}

void deselect(json::object& backend, const std::string& reason) {
    if (!flag_of(backend, "selected")) return;
    backend["selected"] = false;
    backend["reason"] = reason;
}

// Takes another node's view into the merged one.
void merge_frontend(json::object& merged, const json::object& other, const std::string& node) {
    if (!merged["backends"].is_array()) merged["backends"] = json::array();
    json::array theirs = list_of(other, "backends");
    json::array& backends = merged["backends"].get_array();
    for (json::value& item : backends) {
        if (!item.is_object()) continue;
        const json::object* same =
            find_by<BackendKey>(theirs, backend_key(item.get_object()), backend_key);
        if (same == nullptr) {
            deselect(item.get_object(), fmt::format("not known on {}", node));
        } else if (!flag_of(*same, "selected")) {
            deselect(item.get_object(), fmt::format("{} (on {})", text_of(*same, "reason"), node));
        }
    }
    for (json::value& item : theirs) {
        if (!item.is_object() ||
            find_by<BackendKey>(backends, backend_key(item.get_object()), backend_key) != nullptr) {
            continue;
        }
        deselect(item.get_object(), fmt::format("known on {} only", node));
        backends.push_back(item);
    }
}

}  // namespace

Result<json::value> ask(const AgentSocket& agent, std::string_view target, std::string_view body) {
    // What comes with a body is work.
    const auto timeout = body.empty() ? kTimeout : kLongTimeout;
    auto reply = serve::http_get(agent.path, target, timeout, kMaxAnswer, body);
    if (!reply) {
        return unavailable(
            fmt::format("{} at {}: {}", agent.program, where(agent), reply.error().detail()));
    }
    if (reply->status == 404) {
        return not_found(reason_in(*reply, fmt::format("{}: no such object", target)));
    }
    if (reply->status == 400) {
        return invalid_argument(reason_in(*reply, fmt::format("{}: refused", target)));
    }
    if (reply->status != 200) {
        return unavailable(fmt::format("{} at {}: {} answered with {}", agent.program, where(agent),
                                       target, reply->status));
    }
    boost::system::error_code error;
    json::value document = json::parse(reply->body, error);
    if (error) {
        return Error(Errc::kCorrupt, fmt::format("{} at {}: {} is not JSON: {}", agent.program,
                                                 where(agent), target, error.message()));
    }
    return document;
}

std::string query_text(std::string_view value) {
    std::string out;
    for (const char c : value) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '/';
        if (plain) {
            out += c;
        } else {
            out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
        }
    }
    return out;
}

std::string text_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || value->is_null()) return {};
    return value->is_string() ? std::string(value->get_string()) : json::serialize(*value);
}

std::int64_t integer_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr) return 0;
    boost::system::error_code error;
    const auto number = value->to_number<std::int64_t>(error);
    if (!error) return number;
    return value->is_double() ? static_cast<std::int64_t>(value->get_double()) : 0;
}

bool flag_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_bool() && value->get_bool();
}

const json::object& object_of(const json::object& object, std::string_view key) {
    static const json::object none;
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_object() ? value->get_object() : none;
}

const json::array& list_of(const json::object& object, std::string_view key) {
    static const json::array none;
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_array() ? value->get_array() : none;
}

std::string joined_texts(const json::array& list) {
    std::string out;
    for (const json::value& item : list) {
        if (!item.is_string()) continue;
        if (!out.empty()) out += ",";
        out += std::string_view(item.get_string());
    }
    return out;
}

std::vector<std::string> not_ready_reasons(const std::vector<AgentStatus>& agents,
                                           const std::vector<std::string>& expected) {
    std::vector<std::string> reasons;
    if (agents.empty()) reasons.emplace_back("no agents");
    for (const AgentStatus& agent : agents) {
        const std::string node = agent.node.empty() ? agent.socket : agent.node;
        const std::size_t before = reasons.size();
        if (!agent.status) {
            reasons.push_back(fmt::format("{}: {}", node, agent.error));
            continue;
        }
        const json::value* local = agent.status->if_contains("local");
        if (local == nullptr || !local->is_object() || !flag_of(local->get_object(), "ready")) {
            reasons.push_back(fmt::format("{}: own cluster is {}", node,
                                          local != nullptr && local->is_object()
                                              ? text_of(local->get_object(), "state")
                                              : "unknown"));
        }
        for (const json::value& item : list_of(*agent.status, "config_errors")) {
            if (!item.is_object()) continue;
            reasons.push_back(fmt::format("{}: {}", node, text_of(item.get_object(), "error")));
        }
        std::vector<std::string> missing = expected;
        for (const json::value& item : list_of(*agent.status, "remotes")) {
            if (!item.is_object()) continue;
            const std::string name = text_of(item.get_object(), "name");
            std::erase(missing, name);
            if (flag_of(item.get_object(), "ready")) continue;
            const std::string failure = text_of(item.get_object(), "last_failure");
            reasons.push_back(fmt::format("{}: {} is {}{}", node, name,
                                          text_of(item.get_object(), "state"),
                                          failure.empty() ? "" : ", last failure: " + failure));
        }
        for (const std::string& name : missing) {
            reasons.push_back(fmt::format("{}: {} is configured but not seen yet", node, name));
        }
        if (const json::value* datapath = agent.status->if_contains("datapath");
            datapath != nullptr && datapath->is_object()) {
            const json::object& its = datapath->get_object();
            if (const std::string error = text_of(its, "last_error"); !error.empty()) {
                reasons.push_back(fmt::format("{}: datapath: {}", node, error));
            }
            for (const json::value& item : list_of(its, "route_failures")) {
                if (!item.is_string()) continue;
                reasons.push_back(fmt::format("{}: {}", node, std::string_view(item.get_string())));
            }
        }
        // What this version does not know how to explain.
        const json::value* ready = agent.status->if_contains("ready");
        if (ready != nullptr && *ready == false && reasons.size() == before) {
            reasons.push_back(fmt::format("{}: not ready", node));
        }
    }
    return reasons;
}

std::vector<std::string> capacity_warnings(const std::vector<AgentStatus>& agents) {
    std::vector<std::string> warnings;
    for (const AgentStatus& agent : agents) {
        if (!agent.status) continue;
        const auto warn = [&](const json::object& from, std::string_view table,
                              std::int64_t left_out, std::string_view most, std::string_view flag) {
            if (left_out == 0) return;
            warnings.push_back(
                fmt::format("{}: {} found no room for {} entries, it has room for {} ({})",
                            agent.node, table, left_out, integer_of(from, most), flag));
        };
        if (const json::value* pods = agent.status->if_contains("pods");
            pods != nullptr && pods->is_object()) {
            const json::object& its = pods->get_object();
            warn(its, "ipcache", integer_of(its, "ipcache_refused"), "max_ipcache",
                 "--ipcache-entries");
            warn(its, "nodes", integer_of(its, "nodes_refused"), "max_nodes", "--node-entries");
        }
        if (const json::value* datapath = agent.status->if_contains("datapath");
            datapath != nullptr && datapath->is_object()) {
            const json::object& its = datapath->get_object();
            const auto rejected = static_cast<std::int64_t>(list_of(its, "rejected").size());
            std::int64_t left_out = 0;
            for (const json::value& item : list_of(its, "truncated")) {
                if (item.is_object()) left_out += integer_of(item.get_object(), "left_out");
            }
            warn(its, "services", rejected, "max_services", "--service-entries");
            warn(its, "backends", left_out, "max_backends", "--backend-entries");
        }
    }
    return warnings;
}

json::object merge_service(const std::vector<std::pair<std::string, json::object>>& by_node) {
    json::object merged = by_node.front().second;
    if (!merged["frontends"].is_array()) merged["frontends"] = json::array();
    for (auto it = by_node.begin() + 1; it != by_node.end(); ++it) {
        json::array others = list_of(it->second, "frontends");
        for (json::value& item : merged["frontends"].get_array()) {
            // A node port is at one node's address: the others have nothing to say of it.
            if (!item.is_object() || flag_of(item.get_object(), "node_port")) continue;
            const json::object* same =
                find_by<FrontendKey>(others, key_of(item.get_object()), key_of);
            merge_frontend(item.get_object(), same != nullptr ? *same : json::object(), it->first);
        }
        for (json::value& item : others) {
            if (item.is_object() && flag_of(item.get_object(), "node_port")) {
                merged["frontends"].get_array().push_back(std::move(item));
            }
        }
    }
    return merged;
}

}  // namespace mesh::ctl
