// The programs of a sandbox: what each is told, and its start. Internal to this folder.
#pragma once

#include <string>
#include <vector>

#include "sandbox/names.hpp"
#include "sandbox/sandbox.hpp"
#include "sandbox/state.hpp"

namespace mesh::sandbox {

/// Ports on node 1: for remote clusters, for the cluster's own agents, and of etcd (loopback).
inline constexpr std::uint16_t kRemotePort = 2379;
inline constexpr std::uint16_t kLocalPort = 2378;
inline constexpr std::uint16_t kEtcdPort = 2381;
inline constexpr std::uint16_t kEtcdPeerPort = 2382;

/// Issues the cluster's certificates and writes the etcd client files of its daemons.
/// @param inherit "" = a CA of its own; see CreateOptions::inherit_ca
[[nodiscard]] Result<void> write_credentials(const Environment& environment, const State& state,
                                             const std::string& inherit);

/// The etcd client's YAML. @source protocol.md §2
[[nodiscard]] std::string etcd_client_yaml(const std::string& endpoint, const std::string& ca,
                                           const std::string& certificate, const std::string& key);

/// Where other clusters reach this one's proxy: "https://172.18.1.1:2379".
[[nodiscard]] std::string remote_endpoint(const State& state);

/// All daemons of the sandbox in the order of their start, none running.
/// @param cgroups the mount point of cgroup v2
[[nodiscard]] std::vector<Daemon> plan_daemons(const Environment& environment, const State& state,
                                               const std::string& cgroups);

/// @errors kNotFound naming the first program that is missing
[[nodiscard]] Result<void> check_programs(const Environment& environment,
                                          const std::vector<Daemon>& daemons);

/// Starts those that do not run, then waits until each answers.
/// @return how many were started
/// @errors kUnavailable with the last log lines of the one that ended or does not answer
[[nodiscard]] Result<std::size_t> start_all(const Environment& environment, const Names& names,
                                            std::vector<Daemon*> daemons);

/// PATH and the few variables that programs inside a sandbox inherit.
[[nodiscard]] std::vector<std::string> base_environment(const Environment& environment);

/// The cgroup folders of a node and of what runs in it.
[[nodiscard]] std::string node_cgroup(const std::string& mount, const Names& names,
                                      std::string_view node);
[[nodiscard]] std::string daemons_cgroup(const std::string& mount, const Names& names,
                                         std::string_view node);
/// Of the pods' supervisors, apart: they outlive what they wait for.
[[nodiscard]] std::string supervisors_cgroup(const std::string& mount, const Names& names,
                                             std::string_view node);
[[nodiscard]] std::string pod_cgroup(const std::string& mount, const Names& names, const Pod& pod);

}  // namespace mesh::sandbox
