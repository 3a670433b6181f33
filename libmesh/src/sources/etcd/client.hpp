// The etcd v3 client: one connection at a time to one of several endpoints, moved on with backoff
// when it breaks. Reads are retried on the next connection until their deadline; a write that was
// sent and not answered is reported with kUnavailable or kTimeout and never sent again. Watches
// live on: they resume at the revision after the last one delivered.
//
// Name a request in a variable before it is awaited: g++ 12 frees a braced temporary with strings
// in a co_await expression twice.
//
// One Client belongs to one loop. Callbacks come on that loop, never from inside a method of the
// object that reports.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "sources/etcd/types.hpp"

namespace mesh::etcd {

struct ClientOptions {
    /// "https://host:2379", "http://host:2379" or "host:2379" (https when ca_file or cert_file is
    /// given, else http).
    std::vector<std::string> endpoints;
    std::string ca_file, cert_file,
        key_file;                       ///< PEM; re-read for new connections when they change
    std::string server_name;            ///< expected in the server's certificate; empty = the host
    bool insecure_skip_verify = false;  ///< accept any server certificate
    Duration connect_timeout = std::chrono::seconds(5);
    /// Waiting for a connection included. A read leaves a server that sends nothing for a third of
    /// it for the next endpoint; a server that does not take a watch for so long is left too.
    Duration request_timeout = std::chrono::seconds(10);
    Duration keepalive_interval = std::chrono::seconds(15);
    Duration keepalive_timeout = std::chrono::seconds(25);
    Duration backoff_first = std::chrono::milliseconds(50);
    Duration backoff_limit = std::chrono::seconds(10);
    /// A linearizable Range of this key proves a new connection and tells its ids and revision;
    /// empty: a connection counts at once, and ids are known with the first answer.
    std::string probe_key = "cilium/.heartbeat";
    /// Sent with watches and keepalives: a member without a leader refuses them, so that we move
    /// on.
    bool require_leader = true;
    std::size_t page_keys = 10'000;     ///< most keys per page of a paged range
    std::size_t page_bytes = 4U << 20;  ///< about how many bytes a page may have; adapts page_keys
    std::size_t max_message_bytes = 64U << 20;
    std::size_t max_fragmented_bytes = 64U << 20;  ///< of one watch answer put together again
};

/// What happened to the connection.
struct ConnectionEvent {
    enum class State : std::uint8_t {
        kConnected,  ///< endpoint, header are set
        kLost,       ///< a working connection ended; reason is set
        kFailed,     ///< an attempt failed; endpoint, reason are set; the next follows by backoff
    };
    State state = State::kFailed;
    std::string endpoint;
    Header header;  ///< of the probe
    Error reason{Errc::kUnavailable, ""};
    /// kConnected: the cluster id differs from the one of the last working connection.
    bool cluster_changed = false;
};

struct WatchEvent {
    enum class Kind : std::uint8_t { kPut, kDelete };
    Kind kind = Kind::kPut;
    KeyValueView kv;       ///< of a delete: key and mod_revision only
    KeyValueView prev_kv;  ///< with prev_kv = true, if there was one (mod_revision != 0)
};

struct WatchOptions {
    KeyRange range;
    std::int64_t start_revision = 0;  ///< 0 = after the revision at creation
    /// The cluster that start_revision belongs to; another answers kHistoryChanged. 0 = any.
    std::uint64_t cluster_id = 0;
    /// A key and its mod_revision (<= start_revision) that the server had. When the watch resumes
    /// after a lost connection, a server without it is of another history. Later changes take its
    /// place.
    std::string known_key;
    std::int64_t known_revision = 0;
    bool prev_kv = false;
    bool progress_notify = true;
};

/// Why a watch is over.
struct WatchEnd {
    enum class Reason : std::uint8_t {
        kCompacted,       ///< start revision is gone; compact_revision is set: list again
        kHistoryChanged,  ///< another etcd answers (cluster id, or its revision went back): list
                          ///< again
        kRefused,         ///< the server refused it (permission, bad range)
    };
    Reason reason = Reason::kRefused;
    std::int64_t compact_revision = 0;
    Header header;
    Error error{Errc::kInternal, ""};
};

/// What a watch reports; each may be empty. After on_end nothing follows.
struct WatchEvents {
    /// The server has taken the watch, for the first time or again after a reconnect.
    std::function<void(const Header&)> on_created;
    /// All events of one answer in order, fragments joined; revisions are never split.
    std::function<void(const Header&, std::span<const WatchEvent>)> on_events;
    /// Nothing happened up to header.revision.
    std::function<void(const Header&)> on_progress;
    /// The stream broke; the watch resumes by itself.
    std::function<void(const Error&)> on_lost;
    std::function<void(const WatchEnd&)> on_end;
};

/// A running watch; destroying it cancels it, and nothing is reported any more.
class Watch {
  public:
    virtual ~Watch() = default;
    /// The last revision delivered or told by progress; 0 before.
    [[nodiscard]] virtual std::int64_t revision() const noexcept = 0;
};

struct LeaseEvents {
    std::function<void(std::int64_t ttl_seconds)> on_kept;
    /// Once: the server does not know the lease any more, or it was not renewed for its TTL. The
    /// keeper has stopped; grant a new lease and put the keys again.
    std::function<void(const Error&)> on_lost;
};

/// Keeps a lease alive; destroying it stops that and leaves the lease to its TTL.
class LeaseKeeper {
  public:
    virtual ~LeaseKeeper() = default;
    [[nodiscard]] virtual std::int64_t id() const noexcept = 0;
};

/// Called with each page of a paged range, in key order; views live for the call only.
using PageCallback = std::function<void(const Header&, std::span<const KeyValueView>)>;

/// @thread the loop's thread only, construction and destruction included
class Client {
  public:
    /// Checks the options and reads the TLS files; connects at start().
    /// @errors kInvalidArgument names the field or file
    [[nodiscard]] static Result<std::unique_ptr<Client>> make(boost::asio::any_io_executor loop,
                                                              ClientOptions options,
                                                              const Clock& clock, Rng rng,
                                                              Logger logger);
    /// Closes the connection. Watches and keepers must be gone; requests under way end with
    /// kCancelled.
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// Begins to connect, and keeps a connection from now on.
    void start();
    /// Ends all tasks of the client; await it before destruction.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();
    void on_connection(std::function<void(const ConnectionEvent&)> callback);
    [[nodiscard]] bool connected() const noexcept;
    /// Of the newest answer of any kind (for lag); all zero before the first.
    [[nodiscard]] const Header& newest_header() const noexcept;
    /// When anything last arrived from the server: the proof of life.
    [[nodiscard]] TimePoint last_heard() const noexcept;
    /// Drops the connection; the next endpoint is tried at once. Reads under way go on there,
    /// writes under way end with kUnavailable.
    void reconnect(std::string_view why);

    /// @errors of all requests: kUnavailable, kTimeout, kPermission, kCompacted (revision gone),
    /// kInvalidArgument, kCapacity, and the server's text in each
    [[nodiscard]] boost::asio::awaitable<Result<RangeResult>> async_range(RangeRequest request);
    /// All keys of a range at one revision, in pages that adapt to page_keys and page_bytes.
    /// @return the header whose revision all pages show @errors as async_range; kConflict when a
    /// page came from another cluster (pages already given are to be dropped)
    [[nodiscard]] boost::asio::awaitable<Result<Header>> async_list(RangeRequest request,
                                                                    PageCallback page);
    [[nodiscard]] boost::asio::awaitable<Result<PutResult>> async_put(std::string key,
                                                                      std::string value,
                                                                      PutOptions options = {});
    [[nodiscard]] boost::asio::awaitable<Result<DeleteResult>> async_delete(KeyRange range);
    [[nodiscard]] boost::asio::awaitable<Result<TxnResult>> async_txn(Txn txn);
    /// @param ttl_seconds >= 1; @param id 0 = the server chooses
    [[nodiscard]] boost::asio::awaitable<Result<LeaseGrant>> async_lease_grant(
        std::int64_t ttl_seconds, std::int64_t id = 0);
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_lease_revoke(std::int64_t id);
    [[nodiscard]] std::unique_ptr<LeaseKeeper> keep_alive(std::int64_t id, std::int64_t ttl_seconds,
                                                          LeaseEvents events);
    /// Of the member that is connected now.
    [[nodiscard]] boost::asio::awaitable<Result<MemberStatus>> async_status();
    [[nodiscard]] boost::asio::awaitable<Result<MemberList>> async_member_list();

    /// Starts a watch; all watches of a client share one stream.
    [[nodiscard]] std::unique_ptr<Watch> watch(WatchOptions options, WatchEvents events);
    /// Asks the server for a sign of life: each watch's on_progress is called with the revision
    /// that it is known to have reached, and newest_header() then has the server's.
    void request_progress();

    class Impl;

  private:
    friend class PrefixWatcher;
    explicit Client(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::etcd
