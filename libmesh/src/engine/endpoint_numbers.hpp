// The numbers by which the datapath knows this node's pods (policy maps, events). A pod keeps its
// own as long as it exists, whichever agent runs; a number that was in use goes to another pod as
// late as possible. Part of PodNetwork.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "datapath/pods.hpp"
#include "sources/config/endpoint_files.hpp"

namespace mesh::engine {

/// @thread same object not concurrently
class EndpointNumbers {
  public:
    /// @param endpoints that an earlier process wrote
    /// @param policies numbers that have a policy of an earlier process
    EndpointNumbers(std::span<const datapath::Endpoint> endpoints,
                    std::span<const datapath::PolicyOccupancy> policies);

    struct Number {
        datapath::EndpointId id = 0;
        /// An earlier process gave it: what the datapath has under it is this pod's.
        bool adopted = false;
        friend bool operator==(const Number&, const Number&) = default;
    };
    /// The number of a pod, by the name of its file; the one that its addresses had with the same
    /// link, else a free one. @return id 0: none is free
    Number acquire(const std::string& pod, const sources::config::EndpointFile& file);
    /// The pod is gone.
    void release(const std::string& pod);
    /// What nobody acquired until now is free.
    void finish_adoption() { reserved_.clear(); }

  private:
    struct Former {
        datapath::EndpointId id = 0;
        datapath::MacAddress pod_mac{};
    };
    std::map<model::IpAddress, Former> former_;
    std::set<datapath::EndpointId> reserved_;  ///< of an earlier process, and nobody's yet
    std::set<datapath::EndpointId> used_;
    std::map<std::string, Number> numbers_;
    datapath::EndpointId last_ = 0;
};

}  // namespace mesh::engine
