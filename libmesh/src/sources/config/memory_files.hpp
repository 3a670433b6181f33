// Configurations that an embedder holds in memory: the own etcd's as values, the remotes' as the
// files of their directory would be (spec protocol.md §2), such as the data of the Secret
// cilium-clustermesh. Nothing of them is written anywhere.
#pragma once

#include <map>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "sources/config/etcd_yaml.hpp"

namespace mesh::sources::config {

/// An etcd by its endpoints and PEM texts, each of which may be empty.
/// @errors kInvalidArgument: "etcd.<field>: what was expected", never with a secret in it
[[nodiscard]] Result<EtcdClientConfig> etcd_in_memory(const std::vector<std::string>& endpoints,
                                                      const std::string& ca_pem,
                                                      const std::string& cert_pem,
                                                      const std::string& key_pem);

/// The remotes among files: those whose text has `endpoints:`, save the local cluster's. A PEM path
/// in one whose last part is the name of another of the files stands for that.
/// @param files name → bytes
/// @errors kInvalidArgument with the file's name and field
[[nodiscard]] Result<std::vector<RemoteConfig>> remotes_in_memory(
    const std::map<std::string, std::string>& files, std::string_view local_cluster);

}  // namespace mesh::sources::config
