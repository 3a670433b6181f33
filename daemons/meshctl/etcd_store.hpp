// A cluster's own etcd, as commands that read or write it are told where it is.
#pragma once

#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>

#include "datapath/netlink/netns.hpp"
#include "meshctl/commands.hpp"
#include "sources/config/etcd_yaml.hpp"

namespace mesh::ctl {

struct EtcdFlags {
    std::string cluster, etcd_config;
};

/// Where the own etcd of a cluster is, and (a sandbox's) from where it can be reached.
struct EtcdStore {
    sources::config::EtcdClientConfig config;
    std::optional<datapath::NetnsScope> inside;
};

/// Adds --cluster and --etcd-config to a command. @param right "write" or "read"
void add_etcd_flags(CLI::App* command, EtcdFlags& flags, const std::string& right);
/// @errors kInvalidArgument, kNotFound: no such sandbox
[[nodiscard]] Result<EtcdStore> find_etcd(Context& context, const EtcdFlags& flags);

}  // namespace mesh::ctl
