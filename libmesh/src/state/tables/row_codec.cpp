#include "state/tables/row_codec.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace mesh::state {
namespace {

using model::IpAddress;
using model::IpPrefix;

std::string_view as_text(const IpAddress& address, bool v4) {
    const auto* bytes = reinterpret_cast<const char*>(address.bytes().data());
    return v4 ? std::string_view(bytes + 12, 4) : std::string_view(bytes, 16);
}

IpAddress as_address(std::string_view text) {
    IpAddress::Bytes bytes{};
    if (text.size() == 4) bytes[10] = bytes[11] = 0xff;
    std::memcpy(bytes.data() + 16 - text.size(), text.data(), text.size());
    return IpAddress(bytes);
}

// Writer and Reader have the same members, so that one fields() function per type describes both
// directions; `v` is a const object for the one and an empty one to fill for the other.

class Writer {
  public:
    Writer(std::string& out, StringPool& pool) : out_(out), pool_(pool) {}

    template <class T>
    void number(const T& value) {
        auto rest = static_cast<std::uint64_t>(value);
        for (; rest >= 0x80; rest >>= 7) out_.push_back(static_cast<char>(rest | 0x80));
        out_.push_back(static_cast<char>(rest));
    }
    void raw(std::string_view text) {
        number(text.size());
        out_.append(text);
    }
    void text(std::string_view text) { number(pool_.intern(text)); }
    void address(const IpAddress& address) {
        const bool v4 = address.is_v4();
        out_.push_back(v4 ? 4 : 16);
        out_.append(as_text(address, v4));
    }
    void shared_address(const IpAddress& address) {
        number(pool_.intern(as_text(address, address.is_v4())));
    }
    void prefix(const IpPrefix& prefix) {
        address(prefix.address());
        number(prefix.length());
    }
    template <class T, class Call>
    void optional(const std::optional<T>& value, Call&& call) {
        number(value.has_value());
        if (value) call(*value);
    }
    template <class T, class Call>
    void list(const std::vector<T>& values, Call&& call) {
        number(values.size());
        for (const T& value : values) call(value);
    }
    template <class T, class Call>
    void list(const model::SharedList<T>& values, Call&& call) {
        number(values.is_null() ? 0 : values.size() + 1);
        for (const T& value : values) call(value);
    }
    /// A StringMap, or a std::map by Text.
    template <class Map, class KeyCall, class ValueCall>
    void map(const Map& values, KeyCall&& on_key, ValueCall&& on_value) {
        number(values.size());
        for (const auto& [key, value] : values) {
            on_key(key);
            on_value(value);
        }
    }
    template <class Call>
    void shared_ports(const model::SharedList<model::ServicePort>& ports, Call&& call) {
        shared([&](Writer& inner) { call(inner, ports); });
    }
    /// What `call` writes to the Writer it gets, as one pooled string; it must pool nothing itself.
    template <class Call>
    void shared(Call&& call) {
        std::string block;
        Writer inner(block, pool_);
        call(inner);
        number(pool_.intern(block));
    }

  private:
    std::string& out_;
    StringPool& pool_;
};

class Reader {
  public:
    /// @param release_to if not null, each pooled string read gives its count back there
    Reader(std::string_view in, const StringPool& pool, StringPool* release_to)
        : in_(in), pool_(pool), release_to_(release_to) {}

    [[nodiscard]] bool at_end() const { return in_.empty(); }

    template <class T>
    void number(T& value) {
        value = static_cast<T>(read_number());
    }
    template <class S>
    void raw(S& text) {
        text = S(bytes(static_cast<std::size_t>(read_number())));
    }
    template <class S>
    void text(S& text) {
        pooled([&](std::string_view view) { text = S(view); });
    }
    void address(IpAddress& address) {
        address = as_address(bytes(static_cast<unsigned char>(bytes(1)[0])));
    }
    void shared_address(IpAddress& address) {
        pooled([&](std::string_view view) { address = as_address(view); });
    }
    void prefix(IpPrefix& prefix) {
        IpAddress base;
        address(base);
        prefix = IpPrefix(base, static_cast<std::uint8_t>(read_number()));
    }
    template <class T, class Call>
    void optional(std::optional<T>& value, Call&& call) {
        if (read_number() != 0) call(value.emplace());
    }
    template <class T, class Call>
    void list(std::vector<T>& values, Call&& call) {
        values.resize(static_cast<std::size_t>(read_number()));
        for (T& value : values) call(value);
    }
    template <class T, class Call>
    void list(model::SharedList<T>& values, Call&& call) {
        const std::uint64_t size_and_one = read_number();
        if (size_and_one == 0) {
            values = model::SharedList<T>::null();
            return;
        }
        std::vector<T> filled(static_cast<std::size_t>(size_and_one - 1));
        for (T& value : filled) call(value);
        values = std::move(filled);
    }
    template <class KeyCall, class ValueCall>
    void map(model::StringMap& values, KeyCall&& on_key, ValueCall&& on_value) {
        std::vector<model::StringMap::value_type> pairs(static_cast<std::size_t>(read_number()));
        for (auto& [key, value] : pairs) {
            on_key(key);
            on_value(value);
        }
        values = model::StringMap::from_pairs(std::move(pairs));
    }
    template <class V, class C, class KeyCall, class ValueCall>
    void map(std::map<model::Text, V, C>& values, KeyCall&& on_key, ValueCall&& on_value) {
        for (std::uint64_t left = read_number(); left > 0; --left) {
            model::Text key;
            on_key(key);
            on_value(values.emplace_hint(values.end(), std::move(key), V{})->second);
        }
    }
    /// A list of ports is read once for all addresses that follow each other and have the same.
    template <class Call>
    void shared_ports(model::SharedList<model::ServicePort>& ports, Call&& call) {
        const std::string_view before = in_;
        const auto id = static_cast<StringPool::Id>(read_number());
        if (id == 0 || id != last_ports_id_) {
            in_ = before;
            shared([&](Reader& inner) { call(inner, last_ports_); });
            last_ports_id_ = id;
        } else if (release_to_ != nullptr) {
            release_to_->release(id);
        }
        ports = last_ports_;
    }
    template <class Call>
    void shared(Call&& call) {
        pooled([&](std::string_view view) {
            Reader inner(view, pool_, nullptr);
            call(inner);
            assert(inner.at_end());
        });
    }

  private:
    std::string_view bytes(std::size_t size) {
        assert(size <= in_.size());
        const std::string_view taken = in_.substr(0, size);
        in_.remove_prefix(size);
        return taken;
    }
    std::uint64_t read_number() {
        std::uint64_t value = 0;
        for (unsigned shift = 0;; shift += 7) {
            const auto byte = static_cast<unsigned char>(bytes(1)[0]);
            value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
    }
    template <class Call>
    void pooled(Call&& call) {
        const auto id = static_cast<StringPool::Id>(read_number());
        call(pool_.view(id));
        if (release_to_ != nullptr) release_to_->release(id);
    }

    std::string_view in_;
    const StringPool& pool_;
    StringPool* release_to_;
    StringPool::Id last_ports_id_ = 0;
    model::SharedList<model::ServicePort> last_ports_;
};

/// T const for a Writer, T for a Reader.
template <class Io, class T>
using Of = std::conditional_t<std::is_same_v<Io, Writer>, const T, T>;

template <class Io>
auto texts(Io& io) {
    return [&io](auto& text) { io.text(text); };
}
template <class Io>
auto raws(Io& io) {
    return [&io](auto& text) { io.raw(text); };
}
template <class Io>
void string_map(Io& io, Of<Io, model::StringMap>& v) {
    io.map(v, texts(io), texts(io));
}
template <class Io>
void optional_string_map(Io& io, Of<Io, model::OptionalStringMap>& v) {
    io.optional(v, [&](auto& map) { string_map(io, map); });
}
constexpr auto port_list = [](auto& io, auto& ports) {
    io.list(ports, [&](auto& port) {
        io.raw(port.name);
        io.raw(port.protocol);
        io.number(port.port);
    });
};
template <class Io>
void service_addresses(Io& io, Of<Io, std::vector<model::ServiceAddress>>& v) {
    io.list(v, [&](auto& address) {
        io.address(address.address);
        io.shared_ports(address.ports, port_list);
        io.raw(address.spelling);
    });
}

template <class Io>
void fields(Io& io, Of<Io, model::Node>& v) {
    const auto prefix = [&](auto& p) { io.prefix(p); };
    const auto prefixes = [&](auto& list) { io.list(list, prefix); };
    const auto address = [&](auto& a) { io.address(a); };
    io.raw(v.name);
    io.text(v.cluster);
    io.optional(v.addresses, [&](auto& list) {
        io.list(list, [&](auto& a) {
            io.text(a.type);
            io.raw(a.ip);
        });
    });
    io.optional(v.ipv4_alloc_cidr, prefix);
    io.optional(v.ipv4_secondary_alloc_cidrs, prefixes);
    io.optional(v.ipv6_alloc_cidr, prefix);
    io.optional(v.ipv6_secondary_alloc_cidrs, prefixes);
    io.optional(v.ipv4_health_ip, address);
    io.optional(v.ipv6_health_ip, address);
    io.optional(v.ipv4_ingress_ip, address);
    io.optional(v.ipv6_ingress_ip, address);
    io.number(v.cluster_id);
    io.text(v.source);
    io.number(v.encryption_key);
    optional_string_map(io, v.labels);
    optional_string_map(io, v.annotations);
    io.number(v.node_identity);
    io.raw(v.wireguard_public_key);
    io.raw(v.boot_id);
    io.list(v.unusual_cidrs, [&](auto& cidr) {
        io.number(cidr.field);
        io.number(cidr.index);
        io.number(cidr.usable);
        io.number(cidr.is_null);
        io.number(cidr.is_empty);
        io.optional(cidr.ip, address);
        io.optional(cidr.mask, raws(io));
    });
}

template <class Io>
void fields(Io& io, Of<Io, model::Service>& v) {
    io.text(v.cluster);
    io.text(v.namespace_);
    io.raw(v.name);
    service_addresses(io, v.frontends);
    service_addresses(io, v.backends);
    io.map(v.hostnames, raws(io), raws(io));
    io.map(v.zones, raws(io), [&](auto& zone) {
        io.text(zone.zone);
        io.list(zone.for_zones, texts(io));
    });
    optional_string_map(io, v.labels);
    optional_string_map(io, v.selector);
    io.number(v.include_external);
    io.number(v.shared);
    io.number(v.frontends_null);
    io.number(v.backends_null);
    io.number(v.cluster_id);
}

template <class Io>
void fields(Io& io, Of<Io, model::IpIdentityPair>& v) {
    io.address(v.ip);
    io.optional(v.prefix_length, [&](auto& length) { io.number(length); });
    io.optional(v.host_ip, [&](auto& host) { io.shared_address(host); });
    io.number(v.id);
    io.number(v.key);
    io.raw(v.metadata);
    io.text(v.k8s_namespace);
    io.raw(v.k8s_pod_name);
    io.text(v.k8s_service_account);
    io.shared([&](Io& inner) {
        inner.list(v.named_ports, [&](auto& port) {
            inner.raw(port.name);
            inner.number(port.port);
            inner.raw(port.protocol);
        });
    });
}

template <class Io>
void fields(Io& io, Of<Io, model::Identity>& v) {
    io.number(v.id);
    io.list(v.labels, [&](auto& label) {
        io.text(label.source);
        io.text(label.key);
        io.text(label.value);
    });
}

template <class Io>
void fields(Io& io, Of<Io, model::ServiceExport>& v) {
    io.text(v.cluster);
    io.text(v.namespace_);
    io.raw(v.name);
    string_map(io, v.annotations);
    string_map(io, v.labels);
    io.raw(v.creation_timestamp);
    io.list(v.ports, [&](auto& port) {
        io.text(port.name);
        io.text(port.protocol);
        io.text(port.app_protocol);
        io.number(port.port);
    });
    io.text(v.type);
    io.text(v.session_affinity);
    io.optional(v.session_affinity_timeout, [&](auto& seconds) { io.number(seconds); });
    io.list(v.ip_families, texts(io));
    io.text(v.internal_traffic_policy);
    io.text(v.traffic_distribution);
}

template <class Io>
void fields(Io& io, Of<Io, model::LocalService>& v) {
    io.text(v.namespace_);
    io.raw(v.name);
    io.text(v.type);
    io.number(v.headless);
    const auto address = [&](auto& ip) { io.address(ip); };
    io.list(v.cluster_ips, address);
    io.list(v.external_ips, address);
    io.list(v.load_balancer_ips, address);
    io.shared([&](Io& inner) {
        inner.list(v.ports, [&](auto& port) {
            inner.raw(port.name);
            inner.raw(port.protocol);
            inner.number(port.port);
            inner.number(port.node_port);
        });
    });
    io.list(v.backends, [&](auto& backend) {
        io.address(backend.address);
        io.shared_ports(backend.ports, port_list);
        io.number(backend.state);
        io.text(backend.node);
        io.text(backend.zone);
        io.raw(backend.hostname);
        io.list(backend.for_zones, texts(io));
        io.number(backend.weight);
    });
    io.number(v.global);
    io.number(v.shared);
    io.number(v.affinity);
    io.number(v.client_ip_affinity_seconds);
    io.number(v.internal_traffic_local);
    io.number(v.external_traffic_local);
    optional_string_map(io, v.labels);
    optional_string_map(io, v.selector);
    optional_string_map(io, v.annotations);
}

template <class Io>
void fields(Io& io, Of<Io, model::PolicyRecord>& v) {
    io.number(v.key.kind);
    io.text(v.key.namespace_);
    io.raw(v.key.name);
    io.text(v.file);
    io.number(v.document);
    io.list(v.lines, [&](auto& line) { io.number(line); });
    io.raw(v.text);
}

template <class Io>
void fields(Io& io, Of<Io, model::LocalIp>& v) {
    fields(io, v.pair);
}

template <class T>
T read(std::string_view payload, const StringPool& pool, StringPool* release_to) {
    T object;
    Reader reader(payload, pool, release_to);
    fields(reader, object);
    assert(reader.at_end());
    return object;
}

}  // namespace

std::string key_of(std::string_view node_name) {
    return std::string(node_name);
}

std::string key_of(std::string_view namespace_, std::string_view name) {
    std::string key;
    key.reserve(namespace_.size() + name.size() + 5);
    key.append(namespace_).push_back('\0');
    key.append(name);
    // The namespace's length keeps apart what names with NULs in them would mix up.
    for (unsigned shift = 0; shift < 32; shift += 8) {
        key.push_back(static_cast<char>(namespace_.size() >> shift));
    }
    return key;
}

std::string key_of(const IpPrefix& prefix) {
    const bool v4 = prefix.is_v4();
    std::string key(1, v4 ? '4' : '6');
    key.append(as_text(prefix.address(), v4)).push_back(static_cast<char>(prefix.length()));
    return key;
}

std::string key_of(model::IdentityId id) {
    std::string key;
    for (int shift = 24; shift >= 0; shift -= 8) {
        key.push_back(static_cast<char>(model::number(id) >> shift));
    }
    return key;
}

std::string key_of(const model::policy::PolicyKey& key) {
    std::string text(1, static_cast<char>('0' + static_cast<int>(key.kind)));
    return text.append(key_of(key.namespace_, key.name));
}

std::string key_of(const model::Node& node) {
    return key_of(node.name);
}
std::string key_of(const model::Service& service) {
    return key_of(service.namespace_, service.name);
}
std::string key_of(const model::IpIdentityPair& pair) {
    return key_of(prefix_of(pair));
}
std::string key_of(const model::Identity& identity) {
    return key_of(identity.id);
}
std::string key_of(const model::ServiceExport& service_export) {
    return key_of(service_export.namespace_, service_export.name);
}
std::string key_of(const model::LocalService& service) {
    return key_of(service.namespace_, service.name);
}
std::string key_of(const model::PolicyRecord& record) {
    return key_of(record.key);
}

std::string key_of(const model::LocalIp& ip) {
    return key_of(IpPrefix(ip.pair.ip, 128));
}

IpPrefix prefix_of(const model::IpIdentityPair& pair) {
    return {pair.ip, pair.prefix_length.value_or(128)};
}

template <class T>
void encode(const T& object, StringPool& pool, std::string& out) {
    Writer writer(out, pool);
    fields(writer, object);
}
template <class T>
T decode(std::string_view payload, const StringPool& pool) {
    return read<T>(payload, pool, nullptr);
}
template <class T>
T take(std::string_view payload, StringPool& pool) {
    return read<T>(payload, pool, &pool);
}

IpRow decode_ip_row(std::string_view payload, const StringPool& pool) {
    // The first of fields() of an IpIdentityPair.
    Reader reader(payload, pool, nullptr);
    IpAddress ip;
    reader.address(ip);
    std::optional<std::uint8_t> length;
    reader.optional(length, [&](auto& value) { reader.number(value); });
    IpRow row;
    row.prefix = {ip, length.value_or(128)};
    reader.optional(row.host, [&](auto& host) { reader.shared_address(host); });
    reader.number(row.id);
    reader.number(row.key);
    return row;
}

#define MESH_INSTANTIATE(T)                                       \
    template void encode<T>(const T&, StringPool&, std::string&); \
    template T decode<T>(std::string_view, const StringPool&);    \
    template T take<T>(std::string_view, StringPool&);
MESH_INSTANTIATE(model::Node)
MESH_INSTANTIATE(model::Service)
MESH_INSTANTIATE(model::IpIdentityPair)
MESH_INSTANTIATE(model::Identity)
MESH_INSTANTIATE(model::ServiceExport)
MESH_INSTANTIATE(model::LocalService)
MESH_INSTANTIATE(model::PolicyRecord)
MESH_INSTANTIATE(model::LocalIp)
#undef MESH_INSTANTIATE

}  // namespace mesh::state
