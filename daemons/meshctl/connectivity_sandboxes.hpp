// The clusters that `meshctl connectivity test` runs its matrix in: two sandboxes that follow one
// another, and a third without daemons for a host that is in no cluster.
#pragma once

#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <string>
#include <utility>
#include <vector>

#include "meshctl/commands.hpp"
#include "meshctl/connectivity_checks.hpp"
#include "meshctl/connectivity_plan.hpp"
#include "sandbox/sandbox.hpp"

namespace mesh::ctl::connectivity {

/// Sandboxes that this process made, and so has to remove.
class Sandboxes {
  public:
    /// @param interrupted asked between steps; true ends them with kCancelled
    Sandboxes(Context& context, Plan plan, std::function<bool()> interrupted)
        : context_(context), plan_(std::move(plan)), interrupted_(std::move(interrupted)) {}

    /// Makes them, connects them, applies the manifest and waits until every node knows all of it.
    /// On failure what was made is still there: remove() it.
    /// @errors those of sandbox::create, connect and apply; kTimeout naming what is not ready
    [[nodiscard]] Result<void> make(const std::string& routing);
    /// The routing mode of sandboxes that are there already.
    /// @errors kNotFound
    [[nodiscard]] Result<std::string> routing_of_existing() const;
    /// Their addresses.
    [[nodiscard]] Result<Network> network() const;
    /// Removes what make() made. @errors the first failure; the rest was tried
    [[nodiscard]] Result<void> remove();
    /// Leaves them to the user.
    void keep() { made_.clear(); }
    [[nodiscard]] const std::vector<std::string>& made() const { return made_; }

  private:
    [[nodiscard]] Result<void> create(const sandbox::CreateOptions& options);
    [[nodiscard]] Result<void> start_host_echo(const std::string& cluster, std::uint32_t node);
    [[nodiscard]] Result<void> route_outside();
    [[nodiscard]] Result<void> wait_status(const std::string& cluster);
    [[nodiscard]] Result<void> wait_services(const std::string& cluster);
    /// Calls `unready` until it names no reason any more.
    [[nodiscard]] Result<void> wait_until(const std::string& who,
                                          const std::function<std::string()>& unready);
    [[nodiscard]] Result<void> check_interrupted() const;

    Context& context_;
    Plan plan_;
    std::function<bool()> interrupted_;
    std::vector<std::string> made_;
};

}  // namespace mesh::ctl::connectivity
