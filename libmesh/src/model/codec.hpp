// The values of the mesh's keys, both ways (spec wire.md §1, §3-§8, §10). encode writes the very
// bytes that Go's encoding/json would; parse reads what it would read: names match exactly, else
// case-insensitively (Unicode simple folding); of duplicates the last one wins, and duplicate maps
// merge; null leaves what is there, but empties maps, lists and addresses; unknown fields are
// skipped; invalid UTF-8 and lone surrogates become U+FFFD; integers are integer literals; nesting
// ends at 10000. Parsers make one pass over the value and build nothing but the object.
//
// Known differences, all in values that no writer makes: a repeated array field starts anew (Go
// lets fields that its elements lack shine through from the earlier one); a map key that is no
// address is refused even if a later null empties the map; a null port is refused, and so is an
// ip's mask of more than 16 bytes; arrays end at 65536 elements, and maps are merged 64 times at
// most.
//
// Errors are one sentence with key and field:
//   cilium/state/nodes/v1/c1/n1: field ClusterID: expected an integer 0..4294967295, got "x"
//
// Parsing says that a value is well formed; whether a remote may say it is validate.hpp's matter.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/types.hpp"

namespace mesh::model {

// parse_x(key, value). `key` names the key in errors and is not compared with the value; where the
// value alone does not hold the object (identity), its last part is read.
// @errors kInvalidArgument with key, field and what was expected
// @thread any thread

[[nodiscard]] Result<ClusterConfig> parse_cluster_config(std::string_view key,
                                                         std::string_view value);
[[nodiscard]] Result<Node> parse_node(std::string_view key, std::string_view value);
/// Maps that are absent are empty, as upstream has it; null ones are marked so.
[[nodiscard]] Result<Service> parse_service(std::string_view key, std::string_view value);
/// An entry without an address is an error.
[[nodiscard]] Result<IpIdentityPair> parse_ip(std::string_view key, std::string_view value);
/// @param key .../id/<decimal>, or the decimal alone
/// @param value labels as source:key=value; each. Anything but an empty value parses: pieces
///        without a key vanish, a missing source is "unspec", "$x" is reserved:x.
[[nodiscard]] Result<Identity> parse_identity(std::string_view key, std::string_view value);
[[nodiscard]] Result<ServiceExport> parse_service_export(std::string_view key,
                                                         std::string_view value);
[[nodiscard]] Result<LocalService> parse_local_service(std::string_view key,
                                                       std::string_view value);

/// The decimal at the end of an identity key. @errors kInvalidArgument unless 1..4294967295 in
/// digits
[[nodiscard]] Result<IdentityId> parse_identity_id(std::string_view key_or_tail);
/// Labels as they stand in an identity's value. Never fails. @source wire.md §7
[[nodiscard]] std::vector<Label> parse_labels(std::string_view text);

/// A heartbeat's or canary's text, RFC 3339 with optional fraction and offset, as seconds since
/// 1970-01-01 UTC. Readers of a mesh do not need it: they go by the time of arrival (wire.md §10).
/// @errors kInvalidArgument
[[nodiscard]] Result<std::int64_t> parse_timestamp(std::string_view key, std::string_view value);

// encode(x): compact, fields in the order of wire.md, maps sorted bytewise.
[[nodiscard]] std::string encode(const ClusterConfig& config);
[[nodiscard]] std::string encode(const Node& node);
[[nodiscard]] std::string encode(const Service& service);
[[nodiscard]] std::string encode(const IpIdentityPair& pair);
/// Labels in the order given; see sort_labels().
[[nodiscard]] std::string encode(const Identity& identity);
[[nodiscard]] std::string encode(const ServiceExport& service_export);
/// Our own format, read by our agents only. Fields in this order: namespace, name, type, headless,
/// clusterIPs [text], externalIPs and loadBalancerIPs [text] (only if there are some), ports
/// [{name, protocol, port, nodePort (only if there is one)}], backends [{address, ports, state
/// ("active", "terminating", "quarantined", "maintenance"), node, zone, hostname, forZones [text],
/// weight}], global, shared, affinity ("none", "local", "remote"), clientIPAffinitySeconds,
/// internalTrafficLocal, externalTrafficLocal (only if true), labels, selector, annotations
/// (objects or null). A reader demands
/// namespace and name, and an address of each backend; ports come back sorted by name, backends by
/// address.
[[nodiscard]] std::string encode(const LocalService& service);
/// "k8s:app=cart;k8s:x=y;".
[[nodiscard]] std::string encode_labels(const std::vector<Label>& labels);
/// Bytewise by key, as a writer must have them (wire.md §7).
void sort_labels(std::vector<Label>& labels);
/// "2026-11-23T11:39:28Z". @param seconds since 1970-01-01 UTC, years 0..9999
[[nodiscard]] std::string encode_timestamp(std::int64_t seconds);

// Append forms, for writers that reuse a buffer.
void encode_to(const Node& node, std::string& out);
void encode_to(const Service& service, std::string& out);
void encode_to(const IpIdentityPair& pair, std::string& out);

}  // namespace mesh::model
