// A server that speaks etcd's API and lies as it is told to.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/frame.hpp"
#include "rpc/server.hpp"
#include "runtime/clock.hpp"

namespace mesh::test {

/// @thread the executor's
class LyingEtcd {
  public:
    LyingEtcd(boost::asio::any_io_executor loop, const Clock& clock)
        : server_(std::move(loop), {}, clock, Logger()) {
        server_.handle_unary(
            etcdpb::kRange, [this](const rpc::ServerCallPtr& call, std::string_view bytes) {
                etcdpb::RangeRequest request;
                request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
                call->reply(rpc::encode_frame(range(request)));
            });
        server_.handle(etcdpb::kWatch, [this](const rpc::ServerCallPtr& call) {
            call->on_message([this, call](std::string_view bytes) {
                etcdpb::WatchRequest request;
                request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
                watch(*call, request);
            });
        });
        port_ = server_.listen("127.0.0.1", 0).value();
    }

    [[nodiscard]] std::string endpoint() const {
        return "http://127.0.0.1:" + std::to_string(port_);
    }
    void put(const std::string& key, const std::string& value) { kvs_[key] = value; }

    static void add(etcdpb::RangeResponse& to, const std::string& key, const std::string& value) {
        auto* kv = to.add_kvs();
        kv->set_key(key);
        kv->set_value(value);
        kv->set_create_revision(50);
        kv->set_mod_revision(50);
        kv->set_version(1);
    }
    void head(etcdpb::ResponseHeader* header) const {
        header->set_cluster_id(5);
        header->set_member_id(6);
        header->set_revision(revision_);
        header->set_raft_term(1);
    }
    static void add_event(etcdpb::WatchResponse& to, const std::string& key,
                          const std::string& value, std::int64_t revision) {
        auto* kv = to.add_events()->mutable_kv();
        kv->set_key(key);
        kv->set_value(value);
        kv->set_create_revision(revision);
        kv->set_mod_revision(revision);
        kv->set_version(1);
    }

    /// Changes an honest answer. Empty = it stays honest.
    std::function<void(const etcdpb::RangeRequest&, etcdpb::RangeResponse&)> on_range;
    /// After a watch was created. @param call to write more answers to
    std::function<void(rpc::ServerCall& call, const std::string& key, std::int64_t id)> on_watch;
    int ranges = 0;
    std::int64_t revision_ = 100;

  private:
    etcdpb::RangeResponse range(const etcdpb::RangeRequest& request) {
        ++ranges;
        etcdpb::RangeResponse response;
        head(response.mutable_header());
        for (const auto& [key, value] : kvs_) {
            const bool one = request.range_end().empty() && key == request.key();
            if (one || (key >= request.key() && key < request.range_end()))
                add(response, key, value);
        }
        response.set_count(response.kvs_size());
        if (on_range) on_range(request, response);
        return response;
    }
    void watch(rpc::ServerCall& call, const etcdpb::WatchRequest& request) {
        etcdpb::WatchResponse response;
        head(response.mutable_header());
        if (request.has_progress_request()) {
            response.set_watch_id(-1);
        } else if (request.has_create_request()) {
            response.set_created(true);
            response.set_watch_id(++watches_);
        } else {
            return;
        }
        static_cast<void>(call.write(rpc::encode_frame(response)));
        if (on_watch && request.has_create_request())
            on_watch(call, request.create_request().key(), watches_);
    }

    rpc::Server server_;
    std::uint16_t port_ = 0;
    std::map<std::string, std::string> kvs_;
    std::int64_t watches_ = 0;
};

}  // namespace mesh::test
