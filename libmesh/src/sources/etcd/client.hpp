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
#include <cstdint>
#include <functional>
#include <limits>
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
    /// it for the next endpoint.
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
    /// A watch that is not made after this much silence on the stream ends the connection.
    Duration watch_create_timeout = std::chrono::seconds(10);
    /// Where the reader stands already, by an earlier client; cluster_id 0 = nowhere. A server of
    /// that cluster with a lower revision is only behind: it is not used, and the next endpoint is
    /// tried. The same goes for what the watches of this client have reached.
    Header reached;
    /// When all endpoints have been behind for this long it is another history (an etcd that lost
    /// its data has its ids again): the connection is used, and watches end with kHistoryChanged.
    Duration behind_limit = std::chrono::seconds(5);
    /// The same while some endpoints do not answer: they may be the ones that are not behind.
    Duration behind_limit_absent = std::chrono::minutes(1);
    std::size_t max_message_bytes = 64U << 20;
    /// Of the fragments that wait for their last one, of all watches together.
    std::size_t max_fragmented_bytes = 64U << 20;
};

/// What happened to the connection.
struct ConnectionEvent {
    enum class State : std::uint8_t {
        kConnected,  ///< endpoint, header are set
        kLost,       ///< a working connection ended; reason is set
        kFailed,     ///< an attempt failed, or its server is behind us (ClientOptions::reached);
                     ///< endpoint, reason are set; the next follows by backoff
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
    /// A key and its mod_revision (<= start_revision) that the server had. On another connection
    /// than the present one, a server without it is of another history. Later changes take its
    /// place.
    std::string known_key;
    std::int64_t known_revision = 0;
    bool known_is_delete = false;  ///< at known_revision the key was deleted
    bool prev_kv = false;
    bool progress_notify = true;
};

/// Why a watch is over.
struct WatchEnd {
    enum class Reason : std::uint8_t {
        kCompacted,       ///< start revision is gone; compact_revision is set: list again
        kHistoryChanged,  ///< another etcd answers (cluster id, the last change seen is not there,
                          ///< or its revision went back and stayed there): list again
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
    /// The server says, asked by request_progress(), that all up to header.revision was told.
    /// Before 3.4.25 etcd may say so ahead of events: it tells how fresh things are, not where to
    /// resume.
    std::function<void(const Header&)> on_in_step;
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

/// How much of a range is read at most; a server that has no end must not be read for ever.
struct ListBounds {
    std::uint64_t max_keys = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max();  ///< of the answers
};

/// What a list came to.
struct Listed {
    Header header;  ///< its revision is the one that all pages show
    /// Keys that were not read, a bound being reached: as the server counts them, at least 1.
    std::uint64_t left = 0;
};

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
    /// An exception left a task or a callback of this client: the owner is to end it, and no other.
    /// Without this callback such a defect ends the process.
    void on_defect(std::function<void(std::string_view what)> callback);
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
    /// page came from another cluster (pages already given are to be dropped); kCorrupt when the
    /// keys do not increase from one to the next, or a page has more than was asked for
    [[nodiscard]] boost::asio::awaitable<Result<Header>> async_list(RangeRequest request,
                                                                    PageCallback page);
    /// The same, ended early when a bound is passed: the page that passed it is still given.
    [[nodiscard]] boost::asio::awaitable<Result<Listed>> async_list_within(RangeRequest request,
                                                                           PageCallback page,
                                                                           ListBounds bounds);
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

    /// Back-pressure for a reader that has enough for now: lists ask for no further page, and the
    /// watches' stream is held by flow control; other requests go on. What was received is still
    /// told. A server may end the connection of who takes nothing for long: pause briefly.
    void pause();
    void resume();

    class Impl;

  private:
    friend class PrefixWatcher;
    explicit Client(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::etcd
