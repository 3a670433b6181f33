// What the parts of EtcdService share: the store, headers, access checks, and the answers that wait
// for the commit of their loop turn. Internal to serve/etcd.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rpc/server.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "serve/etcd/init_lock_shadow.hpp"
#include "serve/etcd/loop_clients.hpp"
#include "serve/etcd/wire_encode.hpp"

namespace mesh::serve {

/// One attached server.
struct Listener {
    std::string name;
    std::shared_ptr<const AccessPolicy> policy;
    std::shared_ptr<InitLockShadow> shadow;  ///< null: none
};
using ListenerPtr = std::shared_ptr<const Listener>;

/// @thread the loop's
class ServiceCore : public std::enable_shared_from_this<ServiceCore> {
  public:
    ServiceCore(boost::asio::any_io_executor loop, store::Store& store, const Clock& clock,
                EtcdServiceOptions options, Logger logger);

    /// The header of an answer; its revision is the store's.
    [[nodiscard]] WireHeader header() const;

    /// Before a write: opens the turn's group if the backend is durable.
    void begin_write();
    /// Runs answer now, or, while a group is open, once it is committed, with the commit's status.
    /// Reads answer through here too, since they may have seen what is not durable yet.
    void after_commit(std::function<void(const rpc::Status& commit)> answer);
    /// Commits an open group now.
    void flush();

    /// Compacts when history is a quarter longer than it should be.
    void trim_history();

    /// @param frame empty (longer than a message may be) is answered with kAnswerTooLarge
    void reply(const rpc::ServerCallPtr& call, rpc::Frame frame);
    void fail(const rpc::ServerCallPtr& call, rpc::Status status);

    /// @return whether the service is ready and the policy allows it
    [[nodiscard]] rpc::Status check(const rpc::ServerCall& call, const Listener& listener,
                                    EtcdAction action, store::KeyRange range = {});
    /// Before a call's body is there: whether its peer may make it at all.
    [[nodiscard]] rpc::Status admit(const rpc::ServerCall& call, const Listener& listener);

    // --- Clients: their turns and limits. Without EtcdServiceOptions::access everything runs at
    // once, and nothing is counted.

    /// Registers a handler whose requests run in their clients' turns.
    void handle_unary(rpc::Server& server, const ListenerPtr& listener, std::string_view path,
                      rpc::UnaryHandler handler);
    /// The connection of a call; null without access control.
    [[nodiscard]] LoopPeerPtr peer_of(const rpc::ServerCall& call);
    /// Runs now or in its client's turn. The call ends with kResourceExhausted if too many wait.
    /// @return whether it ran now
    bool in_turn(const LoopPeerPtr& peer, const rpc::ServerCallPtr& call, const Listener& listener,
                 std::string_view request, std::function<void(std::string_view request)> run);
    /// The rest of a request that had its turn and then waited for something else.
    void again_in_turn(const rpc::ServerCallPtr& call, std::function<void()> run);
    /// A stream begins that runs until either side ends it, or its role loses the right to it.
    /// end_stream() must follow if it may. @return kResourceExhausted: it is one too many
    [[nodiscard]] rpc::Status begin_stream(const rpc::ServerCallPtr& call,
                                           const ListenerPtr& listener);
    void end_stream(const rpc::ServerCallPtr& call);
    /// A refusal by limit or by a changed table: counted and told as those by role.
    void note_denial(const rpc::ServerCall& call, const Listener& listener, DenialReason reason,
                     std::string_view why, store::KeyRange range = {});
    /// Calls `changed` when there is a new table, after streams that may not go on were ended.
    void on_table_change(std::function<void()> changed) { table_changed_ = std::move(changed); }
    void start();
    void stop();

    boost::asio::any_io_executor loop;
    store::Store& store;
    const Clock& clock;
    const EtcdServiceOptions options;
    Logger log;
    EtcdServiceStats stats;
    std::uint64_t raft_term;
    bool ready = true;
    bool stopped = false;
    std::uint64_t answered = 0;            ///< bytes of answers to requests
    std::shared_ptr<LoopClients> clients;  ///< null without access control

  private:
    [[nodiscard]] rpc::Status denied(const AccessPolicy& policy, const AccessRequest& request);
    void refuse_waiting(const rpc::ServerCallPtr& call, const Listener& listener);
    void recheck_streams();

    bool group_open_ = false;
    // A full disk fails every commit: what is said is that it begins and that it ends.
    bool commits_fail_ = false;
    bool trimming_fails_ = false;
    std::vector<std::function<void(const rpc::Status&)>> waiting_;
    struct Stream {
        ListenerPtr listener;
        LoopPeerPtr peer;
    };
    std::map<rpc::ServerCallPtr, Stream> streams_;  // that run, with access control
    std::shared_ptr<void> subscription_;
    std::function<void()> table_changed_;
};

}  // namespace mesh::serve
