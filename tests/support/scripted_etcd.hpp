// An etcd that does what a test tells it to, also what no etcd does: it lags, tells nothing of a
// change, never makes a watch.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/server.hpp"
#include "runtime/clock.hpp"

namespace mesh::test {

/// @thread the loop's; destroyed on a loop that runs no more, or is about to run on
class ScriptedEtcd {
  public:
    struct Entry {
        std::string value;
        std::int64_t mod_revision = 0;
    };

    ScriptedEtcd(boost::asio::any_io_executor loop, const Clock& clock)
        : server_(std::move(loop), rpc::ServerOptions{}, clock, Logger()) {
        server_.handle_unary(
            etcdpb::kRange, [this](const rpc::ServerCallPtr& call, std::string_view request) {
                etcdpb::RangeRequest range;
                range.ParseFromArray(request.data(), static_cast<int>(request.size()));
                call->reply(rpc::encode_frame(answer(range)));
            });
        server_.handle(etcdpb::kWatch, [this](const rpc::ServerCallPtr& call) {
            streams_.insert(call);
            call->on_message([this, call](std::string_view bytes) {
                etcdpb::WatchRequest request;
                request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
                on_watch(call, request);
            });
            call->on_end([this, call](const rpc::Status&) { streams_.erase(call); });
        });
        const auto port = server_.listen("127.0.0.1", 0);
        if (!port) throw std::runtime_error(port.error().message());
        endpoint_ = "http://127.0.0.1:" + std::to_string(*port);
    }

    [[nodiscard]] const std::string& endpoint() const noexcept { return endpoint_; }
    void stop() { server_.stop(); }

    /// A change; told to the watches unless `silent`.
    void put(const std::string& key, const std::string& value, bool silent = false) {
        entries[key] = {value, ++revision};
        if (silent) return;
        etcdpb::WatchResponse response;
        header(*response.mutable_header());
        fill(*response.add_events()->mutable_kv(), key, entries[key]);
        tell(response);
    }

    std::map<std::string, Entry> entries;
    std::uint64_t cluster_id = 7, member_id = 8;
    std::int64_t revision = 1;
    bool makes_watches = true;
    bool answers_progress = true;
    std::function<void()> before_watch;  ///< called before the next watch is made
    int watches_asked_for = 0;
    int ranges = 0;

  private:
    void header(etcdpb::ResponseHeader& to) const {
        to.set_cluster_id(cluster_id);
        to.set_member_id(member_id);
        to.set_revision(revision);
        to.set_raft_term(2);
    }
    static void fill(etcdpb::KeyValue& to, const std::string& key, const Entry& entry) {
        to.set_key(key);
        to.set_value(entry.value);
        to.set_create_revision(entry.mod_revision);
        to.set_mod_revision(entry.mod_revision);
        to.set_version(1);
    }
    [[nodiscard]] etcdpb::RangeResponse answer(const etcdpb::RangeRequest& request) {
        ++ranges;
        etcdpb::RangeResponse response;
        header(*response.mutable_header());
        for (auto at = entries.lower_bound(request.key()); at != entries.end(); ++at) {
            const bool one = request.range_end().empty();
            if (one ? at->first != request.key() : at->first >= request.range_end()) break;
            fill(*response.add_kvs(), at->first, at->second);
        }
        response.set_count(response.kvs_size());
        return response;
    }
    void on_watch(const rpc::ServerCallPtr& call, const etcdpb::WatchRequest& request) {
        if (request.has_create_request() && before_watch) std::exchange(before_watch, {})();
        etcdpb::WatchResponse response;
        header(*response.mutable_header());
        if (request.has_create_request()) {
            ++watches_asked_for;
            if (!makes_watches) return;
            response.set_created(true);
        } else if (request.has_progress_request() && answers_progress) {
            response.set_watch_id(-1);
        } else {
            return;
        }
        static_cast<void>(call->write(rpc::encode_frame(response)));
    }
    void tell(const etcdpb::WatchResponse& response) {
        for (const auto& call : streams_)
            static_cast<void>(call->write(rpc::encode_frame(response)));
    }

    std::set<rpc::ServerCallPtr> streams_;  // outlives the server, which tells of their end
    rpc::Server server_;
    std::string endpoint_;
};

}  // namespace mesh::test
