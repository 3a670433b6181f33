// Which established connections are to be ended because their backend went, and when: plain
// computation over rows, sockets and the time. Ended are sockets to a backend that
// - is in no service any more, and whose pod is gone as well: one that is only not ready, or that
// is
//   terminating, finishes what it has. A TCP connection has kGoneGrace, so that answers which are
//   under way arrive, and no record that is deleted and put again costs one;
// - has been unhealthy for the grace time, while the service has others to use instead. One that
//   still waits for the answer to its SYN is ended without grace: it has nothing to lose.
// Services with annotation libmesh.io/reset-connections=false are left alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mesh/mesh.hpp>
#include <optional>
#include <set>
#include <utility>

#include "compile/services/service_merger.hpp"
#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/datapath.hpp"
#include "model/ip.hpp"
#include "runtime/clock.hpp"

namespace mesh::engine {

/// @thread same object not concurrently
class Resets {
  public:
    static constexpr Duration kGoneGrace = std::chrono::seconds(1);

    explicit Resets(ResetOptions options) : options_(options) {}

    /// The frontend has this row now.
    void note_row(const datapath::ServiceFrontend& frontend, const compile::FrontendRow& row,
                  TimePoint now);
    void note_removed(const datapath::ServiceFrontend& frontend);
    /// A pod's address is not announced any more.
    void note_pod_gone(const model::IpAddress& address);

    /// Whether sockets should be looked at now; forgets that it was so.
    [[nodiscard]] bool take_due(TimePoint now);
    /// When take_due() is wanted next; nullopt = not before something else happens.
    [[nodiscard]] std::optional<TimePoint> next_due() const;
    [[nodiscard]] datapath::BpfDatapath::SocketKinds kinds() const noexcept {
        return {.tcp = options_.tcp, .udp = options_.udp};
    }

    /// A look at all sockets begins: what was remembered of those before is forgotten.
    void begin_sweep();
    /// @param is_pod whether the address is still a pod's or a node's
    /// Those that are to be ended later make take_due() true by then.
    [[nodiscard]] bool ends(const datapath::ServiceSocket& socket, TimePoint now,
                            const std::function<bool(const model::IpAddress&)>& is_pod);

    /// Unhealthy backends that others can replace, over all frontends.
    [[nodiscard]] std::size_t unhealthy() const noexcept;

  private:
    using BackendKey = std::pair<model::IpAddress, std::uint16_t>;
    ResetOptions options_;
    /// When each backend became unhealthy; of frontends that have some.
    std::map<datapath::ServiceFrontend, std::map<BackendKey, TimePoint>> unhealthy_;
    std::set<datapath::ServiceFrontend> left_alone_;
    std::set<TimePoint> due_;
    /// Backends without a service whose pods are still there, and sockets connected to them.
    std::set<model::IpAddress> lingering_;
    /// Backends that are gone and had sockets by this sweep, and by the one before: since when.
    std::map<model::IpAddress, TimePoint> gone_, gone_before_;
    bool due_now_ = false;
};

}  // namespace mesh::engine
