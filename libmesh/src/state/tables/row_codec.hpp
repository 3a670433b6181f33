// Model objects as compact rows and back. Numbers are LEB128; strings that repeat between objects
// (namespaces, label keys and values, node addresses, whole port lists) are numbers of the
// StringPool; names that do not repeat stand in the row. Equal objects give equal bytes as long as
// one of them is held, which is how ClusterTables notices an upsert that changes nothing.
//
// A row owns its counts in the pool: encode() takes them, take() gives them back.
// Rows never leave the process, so that their form may change at any time.
#pragma once

#include <string>
#include <string_view>

#include "model/ip.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"
#include "state/tables/string_pool.hpp"

namespace mesh::state {

/// The table key of each kind. Their bytewise order is: by name; by namespace and name; by family,
/// address and length; by number; of policies: by kind, namespace and name.
[[nodiscard]] std::string key_of(std::string_view node_name);
[[nodiscard]] std::string key_of(std::string_view namespace_, std::string_view name);
[[nodiscard]] std::string key_of(const model::IpPrefix& prefix);
[[nodiscard]] std::string key_of(model::IdentityId id);
[[nodiscard]] std::string key_of(const model::policy::PolicyKey& key);

[[nodiscard]] std::string key_of(const model::Node& node);
[[nodiscard]] std::string key_of(const model::Service& service);
[[nodiscard]] std::string key_of(const model::IpIdentityPair& pair);
[[nodiscard]] std::string key_of(const model::Identity& identity);
[[nodiscard]] std::string key_of(const model::ServiceExport& service_export);
[[nodiscard]] std::string key_of(const model::LocalService& service);
[[nodiscard]] std::string key_of(const model::PolicyRecord& record);
[[nodiscard]] std::string key_of(const model::LocalIp& ip);

/// The prefix that an entry stands for.
[[nodiscard]] model::IpPrefix prefix_of(const model::IpIdentityPair& pair);

/// Appends the object to `out`, all of it. T is one of the eight model types above.
template <class T>
void encode(const T& object, StringPool& pool, std::string& out);
/// The object, without touching the pool's counts.
template <class T>
[[nodiscard]] T decode(std::string_view payload, const StringPool& pool);
/// What of a row of an IpIdentityPair is of fixed size; allocates nothing.
[[nodiscard]] IpRow decode_ip_row(std::string_view payload, const StringPool& pool);
/// The object of a row that goes away: gives its counts back.
template <class T>
[[nodiscard]] T take(std::string_view payload, StringPool& pool);

}  // namespace mesh::state
