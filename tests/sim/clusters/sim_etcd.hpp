// An etcd as far as a reader sees it: keys with revisions, history until compaction, another one
// under the same name. Plus the cluster that writes to it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "runtime/clock.hpp"

namespace mesh::sim {

struct SimEvent {
    std::int64_t revision = 0;
    std::string key, value;
    bool deleted = false;
};

class SimEtcd {
  public:
    explicit SimEtcd(std::uint64_t cluster_id, std::uint64_t history_id = 1)
        : cluster_id_(cluster_id), history_id_(history_id) {}
    struct Entry {
        std::string value;
        std::int64_t mod = 0;
    };
    void put(const std::string& key, const std::string& value) {
        entries_[key] = {value, ++revision_};
        history_.push_back({revision_, key, value, false});
    }
    void erase(const std::string& key) {
        if (entries_.erase(key) == 0) return;
        history_.push_back({++revision_, key, {}, true});
    }
    void compact() { compacted_ = revision_; }
    [[nodiscard]] std::map<std::string, Entry> below(const std::string& prefix) const {
        std::map<std::string, Entry> out;
        for (auto at = entries_.lower_bound(prefix); at != entries_.end(); ++at) {
            if (!at->first.starts_with(prefix)) break;
            out.insert(*at);
        }
        return out;
    }
    [[nodiscard]] const std::vector<SimEvent>& history() const { return history_; }
    [[nodiscard]] std::int64_t revision() const { return revision_; }
    [[nodiscard]] std::int64_t compacted() const { return compacted_; }
    [[nodiscard]] std::uint64_t cluster_id() const { return cluster_id_; }
    /// Another for each history, also under the same cluster id.
    [[nodiscard]] std::uint64_t history_id() const { return history_id_; }

  private:
    std::uint64_t cluster_id_, history_id_;
    std::map<std::string, Entry> entries_;
    std::vector<SimEvent> history_;
    std::int64_t revision_ = 1, compacted_ = 0;
};

/// What a cluster means to publish. Each value carries a serial number; a key that is deleted and
/// put again begins another life.
class SimWriter {
  public:
    SimWriter(std::string name, std::uint32_t id) : name_(std::move(name)), id_(id) {}

    struct Object {
        std::string value;
        std::uint64_t life = 0;
        bool good = true;
    };

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] std::uint32_t id() const { return id_; }
    [[nodiscard]] const std::map<std::string, Object>& objects() const { return objects_; }
    [[nodiscard]] std::uint64_t life_of(std::uint64_t serial) const { return lives_.at(serial); }

    void change_id(std::uint32_t id) {
        id_ = id;
        objects_.clear();
    }
    [[nodiscard]] std::string config() const {
        return "{\"id\":" + std::to_string(id_) +
               ",\"capabilities\":{\"syncedCanaries\":true,\"maxConnectedClusters\":255}}";
    }
    /// Puts or deletes something. @return the key
    std::string step(Rng& rng) {
        const auto which = static_cast<std::uint32_t>(rng.below(12));
        const std::string key = key_of(static_cast<unsigned>(rng.below(4)), which);
        if (objects_.contains(key) && rng.below(2) == 0) {
            objects_.erase(key);
            return key;
        }
        const bool good = rng.below(8) != 0;
        const auto held = objects_.find(key);
        const std::uint64_t serial = ++serials_;
        lives_[serial] = held == objects_.end() ? serial : held->second.life;
        Object object{good ? value_of(key, serial) : bad_value(rng, key), lives_[serial], good};
        objects_[key] = std::move(object);
        return key;
    }
    /// All leased keys expired: what comes back is new.
    void expire() {
        for (auto& [key, object] : objects_) {
            const std::uint64_t serial = ++serials_;
            lives_[serial] = serial;
            object.life = serial;
            if (object.good) object.value = value_of(key, serial);
        }
    }

  private:
    [[nodiscard]] std::string key_of(unsigned kind, std::uint32_t which) const {
        const std::string n = std::to_string(which);
        switch (kind) {
            case 0:
                return model::node_key(name_, "n" + n);
            case 1:
                return model::service_key(name_, "ns", "s" + n);
            case 2:
                return "cilium/state/ip/v1/default/10." + std::to_string(id_ % 256) + ".0." + n;
            default:
                return model::identity_key(model::IdentityId{id_ * 65536 + which});
        }
    }
    [[nodiscard]] std::string value_of(const std::string& key, std::uint64_t serial) const {
        const auto parsed = model::parse_key(key);
        const std::string s = std::to_string(serial);
        const model::ClusterId cluster_id{id_};
        if (parsed.kind == model::KeyKind::kNode) {
            model::Node node;
            node.name = parsed.name;
            node.cluster = name_;
            node.cluster_id = cluster_id;
            node.boot_id = s;
            return model::encode(node);
        }
        if (parsed.kind == model::KeyKind::kService) {
            model::Service service;
            service.cluster = name_;
            service.namespace_ = parsed.namespace_name;
            service.name = parsed.name;
            service.cluster_id = cluster_id;
            service.include_external = service.shared = true;
            service.labels.emplace();
            service.labels->insert_or_assign("serial", s);
            return model::encode(service);
        }
        if (parsed.kind == model::KeyKind::kIp) {
            model::IpIdentityPair pair;
            pair.ip = *model::IpAddress::parse(parsed.tail);
            pair.id = model::IdentityId{id_ * 65536 + 1};
            pair.metadata = s;
            return model::encode(pair);
        }
        return "k8s:io.cilium.k8s.policy.cluster=" + name_ + ";k8s:serial=" + s + ";";
    }
    /// Another cluster's, or no value at all.
    [[nodiscard]] std::string bad_value(Rng& rng, const std::string& key) const {
        if (rng.below(2) == 0) return "{\"broken\":";
        SimWriter other("other", id_ + 1);
        const auto parsed = model::parse_key(key);
        if (parsed.kind == model::KeyKind::kIp) return "{\"IP\":\"192.0.2.1\",\"ID\":99999999}";
        return parsed.kind == model::KeyKind::kIdentity ? "k8s:io.cilium.k8s.policy.cluster=other;"
                                                        : other.value_of(key, 0);
    }

    std::string name_;
    std::uint32_t id_;
    std::map<std::string, Object> objects_;
    std::map<std::uint64_t, std::uint64_t> lives_;
    std::uint64_t serials_ = 0;
};

}  // namespace mesh::sim
