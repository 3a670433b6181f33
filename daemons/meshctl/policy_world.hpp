// Policies, pods and identities of files, without a cluster: what `policy trace` and `policy diff`
// ask when they are given files.
#pragma once

#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <string>
#include <utility>
#include <vector>

#include "compile/policy/policy_compiler.hpp"
#include "compile/policy/trace.hpp"
#include "meshctl/policy_files.hpp"
#include "model/kubernetes.hpp"

namespace mesh::ctl {

class PolicyWorld {
  public:
    /// @param options its cluster is the one that pods of manifests are of
    explicit PolicyWorld(compile::PolicyOptions options);

    /// Pods, Namespaces, Services and EndpointSlices; documents of other kinds are passed over.
    /// @errors kInvalidArgument: the first mistake
    [[nodiscard]] Result<void> add_manifests(const std::vector<InputFile>& files);
    /// A list of {"id", "labels": ["k8s:app=web", ...], "prefix"}, as `identity list -o json` has
    /// it. @errors kInvalidArgument
    [[nodiscard]] Result<void> add_identities(const InputFile& file);
    void add_policies(const std::vector<model::policy::PolicyPtr>& policies);
    /// Makes each pod an endpoint; where there are no pods, each identity of the own cluster.
    void add_endpoints();

    /// Whom a target means. Labels that no identity has are one of their own: in namespace default
    /// and of the own cluster where they do not say another. An address that is no pod's is
    /// outside.
    /// @errors kNotFound; kInvalidArgument: several are meant
    [[nodiscard]] Result<compile::TraceSide> find(const compile::TraceTarget& target);

    [[nodiscard]] compile::PolicyCompiler& compiler() noexcept { return compiler_; }
    /// Of an endpoint: "namespace/pod", or its labels.
    [[nodiscard]] const std::map<std::uint32_t, std::string>& endpoints() const noexcept {
        return endpoints_;
    }

  private:
    struct Pod {
        std::vector<model::IpAddress> ips;
        std::uint32_t identity = 0;
    };
    std::uint32_t identity_of(std::vector<model::Label> labels);
    void add_pods(const std::vector<model::k8s::Pod>& pods,
                  const std::map<std::string, model::k8s::Namespace>& namespaces);
    void add_service(const model::k8s::Service& service,
                     const std::vector<model::k8s::EndpointSlice>& slices);
    [[nodiscard]] compile::TraceSide side_of(const compile::TraceTarget& target,
                                             std::uint32_t identity) const;
    [[nodiscard]] Result<compile::TraceSide> find_labels(const compile::TraceTarget& target);
    [[nodiscard]] compile::TraceSide find_outside(const compile::TraceTarget& target);

    std::string cluster_;
    compile::PolicyCompiler compiler_;
    std::map<std::pair<std::string, std::string>, Pod> pods_;  ///< by namespace and name
    std::map<std::vector<model::Label>, std::uint32_t> identities_;
    std::map<std::uint32_t, compile::PolicyIdentity> by_id_;
    std::map<std::uint32_t, std::string> endpoints_;
    std::uint32_t next_ = 0x10000 + 256;
    std::uint32_t next_local_;
};

}  // namespace mesh::ctl
