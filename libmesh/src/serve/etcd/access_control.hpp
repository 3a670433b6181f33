// What all loops of a proxy share about who may do what: the table of roles, the clients with their
// limits, and what was refused. Handed to each loop's EtcdService; when the table changes, each is
// told on its own loop and ends what may not go on.
#pragma once

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "serve/etcd/access_table.hpp"
#include "serve/etcd/clients.hpp"
#include "serve/etcd/denial_log.hpp"

namespace mesh::serve {

/// @thread any thread
class AccessControl {
  public:
    /// Begins with the built-in table of the own cluster. @param clock outlives it
    AccessControl(std::string own_cluster, const Clock& clock, Logger log);

    [[nodiscard]] std::shared_ptr<const AccessTable> table() const;
    /// Grows with each table; 1 at first.
    [[nodiscard]] std::uint64_t generation() const noexcept {
        return generation_.load(std::memory_order_acquire);
    }
    void set_table(std::shared_ptr<const AccessTable> next);
    /// Takes over an access file's text; one that is bad changes nothing but error().
    /// @param file for error texts. @errors kInvalidArgument as parse_access_file
    Result<void> load(std::string_view text, std::string_view file);
    /// The file cannot be read: noted for error().
    void note_failure(std::string why);
    /// What is wrong with the file now; empty: nothing. The table is then that of before.
    [[nodiscard]] std::string error() const;

    /// Calls `changed` on `executor` after each set_table(), until the returned token is dropped,
    /// which is to be done on that executor.
    [[nodiscard]] std::shared_ptr<void> subscribe(boost::asio::any_io_executor executor,
                                                  std::function<void()> changed);

    [[nodiscard]] ClientRegistry& clients() noexcept { return *clients_; }
    [[nodiscard]] DenialLog& denials() noexcept { return denials_; }

  private:
    struct Subscriber {
        boost::asio::any_io_executor executor;
        std::weak_ptr<std::function<void()>> changed;
    };

    const std::string own_cluster_;
    const std::shared_ptr<ClientRegistry> clients_ = std::make_shared<ClientRegistry>();
    DenialLog denials_;
    std::atomic<std::uint64_t> generation_{1};
    mutable std::mutex mutex_;  // guards all below
    std::shared_ptr<const AccessTable> table_;
    std::string error_;
    std::vector<Subscriber> subscribers_;
};

/// The table as a listener's policy. @thread one loop's
class TableAccess final : public AccessPolicy {
  public:
    struct Options {
        bool writable = false;  ///< the store is the proxy's own, no mirror
        /// Calls that write are admitted, since EtcdService::attach() was told to answer those of
        /// init locks by itself; all others are refused by allows().
        bool init_locks = false;
    };
    explicit TableAccess(std::shared_ptr<const AccessControl> control)
        : TableAccess(std::move(control), Options{}) {}
    TableAccess(std::shared_ptr<const AccessControl> control, Options options);

    [[nodiscard]] bool allows(const AccessRequest& request) const override;
    [[nodiscard]] bool admits(const AccessRequest& request) const override;
    [[nodiscard]] DenialReason reason(const AccessRequest& request) const override;
    [[nodiscard]] std::string_view advice(const AccessRequest& request) const override;

  private:
    [[nodiscard]] std::optional<DenialReason> judge(const AccessRequest& request) const;
    [[nodiscard]] const AccessTable& table() const;

    std::shared_ptr<const AccessControl> control_;
    Options options_;
    mutable std::shared_ptr<const AccessTable> table_;
    mutable std::uint64_t generation_ = 0;
};

}  // namespace mesh::serve
