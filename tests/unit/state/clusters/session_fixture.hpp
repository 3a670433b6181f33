// A session with its actions recorded, and a remote that answers when it is told to.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "model/codec.hpp"
#include "runtime/clock.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::state {

using Strings = std::vector<std::string>;
using KeyValues = std::vector<std::pair<std::string, std::string>>;

inline sources::config::RemoteConfig remote_config(const std::string& cluster,
                                                   const std::string& extra = "") {
    const auto parsed = sources::config::parse_remote_yaml(
        "endpoints: [http://127.0.0.1:1]\n" + extra, cluster, cluster);
    if (!parsed) throw std::invalid_argument(parsed.error().detail());
    return *parsed;
}

inline std::string node_value(const std::string& name, int id = 7,
                              const std::string& cluster = "c1", const std::string& cidr = "") {
    model::Node node;
    node.name = name;
    node.cluster = cluster;
    node.cluster_id = model::ClusterId{static_cast<std::uint32_t>(id)};
    if (!cidr.empty()) node.ipv4_alloc_cidr = *model::IpPrefix::parse(cidr);
    return model::encode(node);
}
inline std::string service_value(const std::string& name, int backends = 1, bool shared = true,
                                 int id = 7, const std::string& cluster = "c1") {
    model::Service s;
    s.cluster = cluster;
    s.namespace_ = "ns";
    s.name = name;
    s.cluster_id = model::ClusterId{static_cast<std::uint32_t>(id)};
    s.include_external = s.shared = shared;
    for (int i = 0; i < backends; ++i) {
        s.backends.push_back({model::IpAddress::v4(10, 7, 1, static_cast<std::uint8_t>(i + 1)),
                              {{"http", "TCP", 80}},
                              {}});
    }
    return model::encode(s);
}
inline std::string ip_value(const std::string& ip, std::uint32_t id = 7 * 65536 + 5) {
    model::IpIdentityPair pair;
    pair.ip = *model::IpAddress::parse(ip);
    pair.id = model::IdentityId{id};
    return model::encode(pair);
}
inline std::string identity_value(const std::string& cluster = "c1") {
    return "k8s:app=a;k8s:io.cilium.k8s.policy.cluster=" + cluster + ";";
}
inline std::string nodes_key(const std::string& n) {
    return "cilium/state/nodes/v1/c1/" + n;
}
inline std::string services_key(const std::string& n) {
    return "cilium/state/services/v1/c1/ns/" + n;
}
inline std::string ips_key(const std::string& n) {
    return "cilium/state/ip/v1/default/" + n;
}
inline std::string identities_key(std::uint32_t n) {
    return "cilium/state/identities/v1/id/" + std::to_string(n);
}

/// One line per change: "+node n1", "-ip 10.0.0.1/32".
inline Strings lines_of(const ClusterBatch& batch) {
    Strings out;
    const auto object = [](std::string_view ns, std::string_view n) {
        return std::string(ns) + "/" + std::string(n);
    };
    for (const auto& change : batch.changes) {
        struct Visitor {
            std::string operator()(const NodeUpsert& c) const { return "+node " + c.node.name; }
            std::string operator()(const NodeDelete& c) const { return "-node " + c.name; }
            std::string operator()(const ServiceUpsert& c) const {
                return "+service " + obj(c.service.namespace_, c.service.name);
            }
            std::string operator()(const ServiceDelete& c) const {
                return "-service " + obj(c.name.namespace_, c.name.name);
            }
            std::string operator()(const IpUpsert& c) const {
                return "+ip " + c.pair.ip.to_string();
            }
            std::string operator()(const IpDelete& c) const {
                return "-ip " + c.prefix.to_string();
            }
            std::string operator()(const IdentityUpsert& c) const {
                return "+identity " + std::to_string(model::number(c.identity.id));
            }
            std::string operator()(const IdentityDelete& c) const {
                return "-identity " + std::to_string(model::number(c.id));
            }
            std::string operator()(const ExportUpsert& c) const {
                return "+export " + obj(c.service_export.namespace_, c.service_export.name);
            }
            std::string operator()(const ExportDelete& c) const {
                return "-export " + obj(c.name.namespace_, c.name.name);
            }
            std::string operator()(const LocalServiceUpsert& c) const {
                return "+local " + obj(c.service.namespace_, c.service.name);
            }
            std::string operator()(const LocalServiceDelete& c) const {
                return "-local " + obj(c.name.namespace_, c.name.name);
            }
            std::string operator()(const PolicyUpsert& c) const {
                return "+" + c.record.key.to_string();
            }
            std::string operator()(const PolicyDelete& c) const { return "-" + c.key.to_string(); }
            std::string operator()(const LocalIpUpsert& c) const {
                return "+local " + c.ip.pair.ip.to_string();
            }
            std::string operator()(const LocalIpDelete& c) const {
                return "-local " + c.address.to_string();
            }
            decltype(object) obj;
        };
        out.push_back(std::visit(Visitor{object}, change));
    }
    return out;
}

class SessionTest : public testing::Test {
  protected:
    static constexpr const char* kConfig = R"({"id":7,"capabilities":{"syncedCanaries":true}})";
    static constexpr const char* kPlainConfig = R"({"id":7,"capabilities":{}})";

    void make(SessionOptions options = {}) {
        if (options.cluster.empty()) options.cluster = "c1";
        if (options.local_id == model::ClusterId{}) options.local_id = model::ClusterId{255};
        session_ = std::make_unique<Session>(std::move(options), ids_, 42, logger());
    }
    Logger logger() {
        return {"clusters", [this](LogLevel, std::string_view, std::string_view text) {
                    log_.emplace_back(text);
                }};
    }
    [[nodiscard]] TimePoint now() const { return clock_.now(); }
    [[nodiscard]] std::uint64_t epoch() const { return session_->epoch(); }

    /// Takes the actions: told changes go to `told_`, the rest in short to `did_`.
    void pump() {
        for (Action& action : session_->take_actions()) {
            if (auto* emit = std::get_if<Emit>(&action)) {
                EXPECT_EQ(emit->batch.cluster.name, "c1");
                EXPECT_LE(emit->batch.changes.size(), 1000U);
                for (auto& line : lines_of(emit->batch)) told_.push_back(line);
                tables_.apply(emit->batch, [](const Effect&) {});
            } else if (auto* watch = std::get_if<Watch>(&action)) {
                bounds_[watch->slot] = watch->bounds;
                did_.push_back("watch " + watch->prefix);
            } else if (auto* unwatch = std::get_if<Unwatch>(&action)) {
                did_.push_back("unwatch " + std::string(to_string(unwatch->slot)));
            } else if (auto* relist = std::get_if<Relist>(&action)) {
                did_.push_back("relist " + std::string(to_string(relist->slot)));
            } else if (auto* connect = std::get_if<Connect>(&action)) {
                did_.emplace_back("connect");
                reached_ = connect->reached;
            } else if (std::holds_alternative<Close>(action)) {
                did_.emplace_back("close");
            } else if (auto* get = std::get_if<GetConfig>(&action)) {
                did_.push_back("get " + get->key);
            } else if (std::holds_alternative<Finished>(action)) {
                did_.emplace_back("finished");
            }
        }
    }
    Strings did() {
        pump();
        return std::exchange(did_, {});
    }
    Strings told() {
        pump();
        return std::exchange(told_, {});
    }
    void configure(const std::string& extra = "") {
        session_->configure(now(), remote_config("c1", extra));
    }
    etcd::Header header() {
        return {.cluster_id = etcd_id_, .member_id = member_id_, .revision = ++revision_};
    }
    void connect() { session_->connected(now(), epoch(), header()); }
    void answer(const std::string& config, bool required = true) {
        session_->config_answer(now(), epoch(),
                                Result<ConfigAnswer>(ConfigAnswer{config, required}));
    }
    void answer_absent(bool required) {
        session_->config_answer(now(), epoch(),
                                Result<ConfigAnswer>(ConfigAnswer{std::nullopt, required}));
    }
    void put(Slot slot, const KeyValues& entries, bool from_list = false) {
        std::vector<Incoming> in;
        for (const auto& [key, value] : entries) in.push_back({key, value, false});
        session_->changes(now(), epoch(), slot, header(), from_list, in);
    }
    void erase(Slot slot, const std::string& key) {
        const Incoming in{key, {}, true};
        session_->changes(now(), epoch(), slot, header(), false, std::span(&in, 1));
    }
    void list(Slot slot, const KeyValues& entries = {}) {
        if (!entries.empty()) put(slot, entries, true);
        session_->list_done(now(), epoch(), slot, header());
    }
    /// The server says that all watches are told.
    void in_step() {
        const auto at = header();
        for (std::size_t i = 0; i < kSlots; ++i)
            session_->in_step(now(), epoch(), object_slot(i), at);
    }
    void canary(const char* resource, const char* layout = "state") {
        put(Slot::kCanaries,
            {{std::string("cilium/synced/c1/cilium/") + layout + "/" + resource + "/v1", "t"}});
    }
    void list_all(const std::map<Slot, KeyValues>& entries = {}) {
        for (const Slot slot : {Slot::kNodes, Slot::kServices, Slot::kIps, Slot::kIdentities}) {
            const auto found = entries.find(slot);
            list(slot, found == entries.end() ? KeyValues{} : found->second);
        }
    }
    /// Up to the accepted cluster-config.
    void begin(const std::string& config = kPlainConfig) {
        connect();
        list(Slot::kHeartbeat);
        answer(config);
    }
    void ready(const std::map<Slot, KeyValues>& entries = {}, const std::string& extra = "") {
        configure(extra);
        begin();
        list_all(entries);
        EXPECT_EQ(session_->state(), SessionState::kReady);
        pump();
        did_.clear();
        told_.clear();
    }
    /// Ticks at each deadline until `span` has passed.
    void pass(Duration span) {
        const TimePoint until = now() + span;
        while (const auto at = session_->deadline()) {
            if (*at > until) break;
            clock_.advance(std::max(*at - now(), Duration(0)));
            session_->tick(now());
            pump();
        }
        if (until > now()) clock_.advance(until - now());
    }
    [[nodiscard]] SessionStatus status() const { return session_->status(now()); }
    [[nodiscard]] std::uint64_t refused(Refusal reason) const {
        return status().refused[static_cast<std::size_t>(reason)].count;
    }

    ManualClock clock_;
    IdRegistry ids_;
    ClusterTables tables_{"local", 1};
    std::unique_ptr<Session> session_;
    std::uint64_t etcd_id_ = 100, member_id_ = 1;
    std::int64_t revision_ = 10;
    etcd::Header reached_;  ///< of the last Connect
    Strings did_, told_, log_;
    std::map<Slot, KeyBounds> bounds_;
};

inline const std::map<Slot, KeyValues>& one_of_each() {
    static const std::map<Slot, KeyValues> entries{
        {Slot::kNodes, {{nodes_key("n1"), node_value("n1")}}},
        {Slot::kServices, {{services_key("s1"), service_value("s1")}}},
        {Slot::kIps, {{ips_key("10.7.0.1"), ip_value("10.7.0.1")}}},
        {Slot::kIdentities, {{identities_key(7 * 65536 + 5), identity_value()}}},
    };
    return entries;
}
inline const Strings& all_drained() {
    static const Strings lines{"-service ns/s1", "-ip 10.7.0.1/32", "-identity 458757", "-node n1"};
    return lines;
}

}  // namespace mesh::state
