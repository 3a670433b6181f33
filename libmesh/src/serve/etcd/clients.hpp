// The clients of a proxy, whichever of its loops serve them: a client is a name (of the verified
// certificate) at an address. Rates and gauges that limits are about are shared and lock-free;
// counters are written by the loop that counts and added up when somebody asks.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/clock.hpp"
#include "serve/etcd/access_table.hpp"
#include "serve/etcd/rate.hpp"

namespace mesh::serve {

/// One client at a moment, for status and metrics. Counters are since it came; a client that was
/// away for long is forgotten.
struct ClientStatus {
    std::string name;     ///< empty: no certificate
    std::string address;  ///< without the port
    std::string role;     ///< of its newest connection; empty: none
    std::uint64_t connections = 0;
    std::uint64_t streams = 0;  ///< Watch and LeaseKeepAlive calls that run
    std::uint64_t watches = 0;
    std::uint64_t waiting = 0;    ///< requests that wait for their turn
    std::uint64_t requests = 0;   ///< messages of every kind
    std::uint64_t throttled = 0;  ///< of them, those that a rate made wait
    std::uint64_t queued = 0;     ///< and those that waited since others had their turn
    std::uint64_t denied = 0;     ///< refused, by role or limit
    std::uint64_t bytes_in = 0;   ///< of requests
    std::uint64_t bytes_out = 0;  ///< of answers and watch events
    std::uint64_t held_back = 0;  ///< watch deliveries that a byte rate put off
};

/// Written by one thread, read by any.
class Counter {
  public:
    void add(std::uint64_t n = 1) noexcept {
        value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    }
    void subtract(std::uint64_t n = 1) noexcept { add(~n + 1); }
    [[nodiscard]] std::uint64_t value() const noexcept {
        return value_.load(std::memory_order_relaxed);
    }

  private:
    std::atomic<std::uint64_t> value_{0};
};

struct ClientCounters {
    Counter connections, requests, throttled, queued, denied, bytes_in, bytes_out, held_back;
};

/// What limits are about; of one client, or of all clients of a name. @thread any thread
struct ClientShare {
    std::atomic<std::uint64_t> streams{0}, watches{0}, waiting{0};
    Rate requests, bytes_in, bytes_out;

    /// How long until one more request may run.
    [[nodiscard]] Duration wait(TimePoint now, const ClientLimits& limits) const noexcept;
};

class ClientRegistry;

/// A client as all loops see it.
struct Client {
    std::string name, address;
    ClientShare own;
    std::shared_ptr<ClientShare> of_name;
};

/// A client as one loop sees it. @thread the loop's, but that counters may be read by any
struct ClientSlot {
    ClientSlot(std::shared_ptr<ClientRegistry> registry, std::shared_ptr<Client> whose)
        : registry_(std::move(registry)), client(std::move(whose)) {}
    ~ClientSlot();
    ClientSlot(const ClientSlot&) = delete;
    ClientSlot& operator=(const ClientSlot&) = delete;

  private:
    const std::shared_ptr<ClientRegistry> registry_;

  public:
    const std::shared_ptr<Client> client;
    ClientCounters counters;
};

/// @thread any thread
class ClientRegistry : public std::enable_shared_from_this<ClientRegistry> {
  public:
    /// Clients without a connection whose rates and counters are kept.
    static constexpr std::size_t kMostIdle = 4096;

    /// The client's place in one loop, made anew; its end is told by its destruction.
    [[nodiscard]] std::shared_ptr<ClientSlot> open(std::string_view name, std::string_view address);
    /// For status: the role of a client's newest connection.
    void set_role(const Client& client, std::string_view role);
    /// By name, then address. @complexity O(clients)
    [[nodiscard]] std::vector<ClientStatus> clients() const;

  private:
    friend struct ClientSlot;
    using Key = std::pair<std::string, std::string>;
    struct Entry {
        std::shared_ptr<Client> client;
        std::string role;
        std::vector<const ClientSlot*> slots;
        ClientStatus past;  // of slots that are gone
        std::list<Key>::iterator idle;
    };
    void closed(const ClientSlot& slot);

    mutable std::mutex mutex_;  // guards all below
    std::map<Key, Entry> clients_;
    std::list<Key> idle_;  // without slots, the longest first
    std::map<std::string, std::weak_ptr<ClientShare>, std::less<>> names_;
};

}  // namespace mesh::serve
