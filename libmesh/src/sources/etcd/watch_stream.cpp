#include "sources/etcd/watch_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <exception>
#include <utility>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "sources/etcd/codec.hpp"

namespace mesh::etcd::detail {

namespace {
/// The watch id of answers that mean all watches of the stream.
constexpr std::int64_t kEveryWatch = -1;

/// A callback may cancel its own watch, which drops all of its callbacks.
template <class Callback, class... Args>
void call(const Callback& callback, const Args&... args) {
    const Callback running = callback;
    running(args...);
}

bool is_permission(std::string_view text) {
    return text.find("PermissionDenied") != std::string_view::npos ||
           text.find("permission denied") != std::string_view::npos;
}
}  // namespace

WatchStream::WatchStream(Client::Impl& client) : client_(client), create_timer_(client.loop_) {}

std::shared_ptr<WatchState> WatchStream::add(WatchOptions options, WatchEvents events) {
    auto watch = std::make_shared<WatchState>();
    watch->from_now = options.start_revision <= 0;
    watch->revision = watch->from_now ? 0 : options.start_revision - 1;
    watch->cluster_id = options.cluster_id;
    watch->proof_key = options.known_key;
    watch->proof_revision = options.known_revision;
    watch->proof_is_delete = options.known_is_delete;
    watch->connection = client_.usable() ? connection_ : 0;
    if (!watch->from_now && watch->cluster_id != 0)
        client_.guard_.reached(watch->cluster_id, watch->revision);
    watch->options = std::move(options);
    watch->events = std::move(events);
    watches_.push_back(watch);
    // Later, since a watch of another history ends at once, and its owner does not have it yet.
    boost::asio::post(client_.loop_, [client = client_.shared_from_this(), watch] {
        client->watches_->begin(watch);
    });
    return watch;
}

void WatchStream::begin(const WatchPtr& watch) {
    if (watch->cancelled || watch->queued || !client_.usable()) return;
    if (!stream_) open();
    enqueue(watch);
}

void WatchStream::remove(const WatchPtr& watch) {
    watch->cancelled = true;
    watch->events = {};
    std::erase(watches_, watch);
    std::erase(to_create_, watch);
    if (watch->server_id >= 0) {
        by_id_.erase(watch->server_id);
        cancel_on_server(watch->server_id);
        watch->server_id = -1;
    }
    // One that is being created is cancelled when its number is known.
}

void WatchStream::set_paused(bool paused) {
    if (!stream_) return;
    if (paused)
        stream_->pause();
    else
        stream_->resume();
}

void WatchStream::request_progress() {
    if (!stream_ || by_id_.empty()) return;
    etcdpb::WatchRequest request;
    request.mutable_progress_request();
    static_cast<void>(stream_->write(rpc::encode_frame(request)));
}

void WatchStream::connected() {
    ++connection_;
    const Header first = client_.pinned_cluster_ != 0 ? client_.newest_ : Header{};
    if (!client_.guard_.admits(first, client_.clock_.now())) {
        // Closed at once, so that nobody reads from it either.
        client_.channel_->close();
        return client_.drop(client_.guard_.why());
    }
    if (watches_.empty()) return;
    open();
    const auto all = watches_;
    for (const WatchPtr& watch : all) enqueue(watch);
}

void WatchStream::disconnected(const Error& why) {
    ++generation_;
    if (const auto stream = std::exchange(stream_, nullptr)) stream->abandon();
    by_id_.clear();
    to_create_.clear();
    creating_.reset();
    create_timer_.cancel();
    busy_ = false;
    // Of the connection before this one they were told.
    if (client_.guard_.refused()) return;
    const auto all = watches_;
    for (const WatchPtr& watch : all) {
        watch->server_id = -1;
        watch->queued = false;
        watch->fragments.clear();
        watch->fragment_bytes = 0;
        if (watch->created_once && !watch->cancelled && watch->events.on_lost)
            watch->events.on_lost(why);
    }
}

void WatchStream::open() {
    const std::uint64_t generation = ++generation_;
    rpc::CallEvents events;
    events.on_message = [this, generation](std::string_view bytes) {
        guarded([&] {
            if (generation == generation_) on_message(bytes);
        });
    };
    events.on_end = [this, generation](const rpc::Status& status, const rpc::Metadata&) {
        guarded([&] {
            if (generation == generation_) on_stream_end(status);
        });
    };
    stream_ = client_.channel_->call(etcdpb::kWatch, client_.stream_options(), std::move(events));
    if (client_.paused_) stream_->pause();
}

template <class Body>
void WatchStream::guarded(Body&& body) {
    try {
        body();
    } catch (const std::exception& e) {
        client_.defect(e.what());
    } catch (...) {
        client_.defect("unknown exception");
    }
}

void WatchStream::enqueue(const WatchPtr& watch) {
    watch->queued = true;
    to_create_.push_back(watch);
    create_next();
}

void WatchStream::create_next() {
    while (!busy_ && stream_ && !to_create_.empty()) {
        const WatchPtr watch = to_create_.front();
        to_create_.pop_front();
        if (watch->cancelled) continue;
        // A server that is only behind was not let through (connected()), so a lower revision is
        // that of another history.
        const Header& now = client_.newest_;
        const bool other = watch->cluster_id != 0 && client_.pinned_cluster_ != 0 &&
                           watch->cluster_id != client_.pinned_cluster_;
        const bool went_back = client_.pinned_cluster_ != 0 && watch->revision > now.revision;
        if (watch->revision != 0 && (other || went_back)) {
            WatchEnd over;
            over.reason = WatchEnd::Reason::kHistoryChanged;
            over.header = now;
            over.error = Error(Errc::kCompacted, other ? "another etcd cluster answers"
                                                       : "the revision of etcd went back");
            end(watch, std::move(over));
            continue;
        }
        busy_ = true;
        if (watch->connection != connection_ && !watch->proof_key.empty()) {
            verify(watch);
        } else {
            send_create(watch);
        }
    }
}

void WatchStream::verify(const WatchPtr& watch) {
    RangeRequest request;
    request.range.key = watch->proof_key;
    request.revision = watch->proof_revision;
    request.keys_only = true;
    rpc::CallOptions options;
    options.deadline = client_.options_.request_timeout;
    client_.channel_->unary(
        etcdpb::kRange, rpc::encode_frame(encode(request)), options,
        [this, watch, generation = generation_](rpc::UnaryResult result) {
            if (generation != generation_) return;
            RangeView view;
            bool same = true;
            if (result.status.ok()) {
                if (!parse_range(result.message, view))
                    return fail_stream("etcd answered with a corrupt range");
                const bool there =
                    !view.kvs.empty() && view.kvs.front().mod_revision == watch->proof_revision;
                same = watch->proof_is_delete ? view.kvs.empty() : there;
            } else if (result.status.code == rpc::StatusCode::kOutOfRange) {
                // Compacted proves nothing, and creating the watch will tell; a future revision is
                // none of ours.
                same = error_of(result.status).code() == Errc::kCompacted;
            } else if (result.status.code != rpc::StatusCode::kPermissionDenied) {
                return fail_stream("etcd did not answer a read: " + result.status.message);
            }
            if (watch->cancelled) {
                busy_ = false;
                return create_next();
            }
            if (same) return send_create(watch);
            busy_ = false;
            WatchEnd over;
            over.reason = WatchEnd::Reason::kHistoryChanged;
            over.header = view.header;
            over.error =
                Error(Errc::kCompacted, "etcd does not have the last change that was seen");
            end(watch, std::move(over));
            create_next();
        });
}

void WatchStream::send_create(const WatchPtr& watch) {
    etcdpb::WatchRequest request;
    auto* create = request.mutable_create_request();
    create->set_key(watch->options.range.key);
    create->set_range_end(watch->options.range.end);
    if (!watch->from_now) create->set_start_revision(watch->revision + 1);
    create->set_prev_kv(watch->options.prev_kv);
    create->set_progress_notify(watch->options.progress_notify);
    create->set_fragment(true);
    creating_ = watch;
    expect_created();
    // The queue is small and the stream new; a full one means that the server reads nothing.
    if (stream_->write(rpc::encode_frame(request)) == rpc::Write::kFull)
        fail_stream("etcd does not read watch requests");
}

void WatchStream::expect_created() {
    const Duration limit = client_.options_.watch_create_timeout;
    create_timer_.expires_after(std::chrono::ceil<std::chrono::microseconds>(limit));
    create_timer_.async_wait([this, limit, weak = client_.weak_from_this(),
                              generation = generation_,
                              watch = creating_](const boost::system::error_code& ec) {
        const auto alive = weak.lock();
        if (ec || !alive || generation != generation_ || creating_ != watch) return;
        fail_stream(fmt::format("etcd did not create a watch within {} ms",
                                limit / std::chrono::milliseconds(1)));
    });
}

void WatchStream::cancel_on_server(std::int64_t id) {
    if (!stream_) return;
    etcdpb::WatchRequest request;
    request.mutable_cancel_request()->set_watch_id(id);
    static_cast<void>(stream_->write(rpc::encode_frame(request)));
}

void WatchStream::on_message(std::string_view bytes) {
    WatchView view;
    if (auto parsed = parse_watch(bytes, view); !parsed)
        return fail_stream(parsed.error().detail());
    if (auto noted = client_.note(view.has_header, view.header); !noted)
        return;  // the connection is dropped
    if (view.created) return on_created(view);
    if (view.watch_id == kEveryWatch && !view.canceled) {
        // A proof of life. Its revision is no promise: etcd before 3.4.25 may send it ahead of
        // events. So each watch is told the revision that it was promised already.
        std::vector<WatchPtr> all;
        for (const auto& [id, watch] : by_id_) all.push_back(watch);
        for (const WatchPtr& watch : all) {
            Header header = view.header;
            header.revision = watch->revision;
            if (!watch->cancelled && watch->events.on_progress)
                call(watch->events.on_progress, header);
            if (!watch->cancelled && watch->events.on_in_step)
                call(watch->events.on_in_step, view.header);
        }
        return;
    }
    // Behind what the other watches have to catch up with, on a slow line.
    if (creating_) expect_created();
    const auto it = by_id_.find(view.watch_id);
    if (it == by_id_.end()) return;  // cancelled meanwhile
    const WatchPtr watch = it->second;
    if (view.fragment || !watch->fragments.empty()) return on_fragment(watch, bytes, view);
    on_answer(watch, view);
}

void WatchStream::on_created(const WatchView& view) {
    const WatchPtr watch = std::exchange(creating_, nullptr);
    create_timer_.cancel();
    busy_ = false;
    if (!watch) return fail_stream("etcd created a watch that was not asked for");
    const std::uint64_t generation = generation_;
    if (view.canceled) {
        on_answer(watch, view);
    } else if (watch->cancelled) {
        cancel_on_server(view.watch_id);
    } else {
        watch->server_id = view.watch_id;
        by_id_[view.watch_id] = watch;
        if (watch->cluster_id == 0) watch->cluster_id = view.header.cluster_id;
        // A watch from "now" began at this revision, which is where it resumes should nothing come.
        if (std::exchange(watch->from_now, false)) {
            watch->revision = view.header.revision;
            client_.guard_.reached(watch->cluster_id, watch->revision);
        }
        watch->connection = connection_;
        watch->created_once = true;
        if (watch->events.on_created) call(watch->events.on_created, view.header);
    }
    if (generation == generation_) create_next();
}

void WatchStream::on_answer(const WatchPtr& watch, const WatchView& view) {
    if (!view.canceled) return deliver(watch, view);
    by_id_.erase(view.watch_id);
    watch->server_id = -1;
    WatchEnd over;
    over.header = view.header;
    over.compact_revision = view.compact_revision;
    const std::string reason(view.cancel_reason);
    if (view.compact_revision != 0) {
        over.reason = WatchEnd::Reason::kCompacted;
        over.error =
            Error(Errc::kCompacted, "the revision to watch from is compacted; the oldest is " +
                                        std::to_string(view.compact_revision));
    } else {
        over.reason = WatchEnd::Reason::kRefused;
        over.error =
            Error(is_permission(reason) ? Errc::kPermission : Errc::kUnavailable,
                  reason.empty() ? "etcd ended the watch" : "etcd refuses the watch: " + reason);
    }
    end(watch, std::move(over));
}

void WatchStream::deliver(const WatchPtr& watch, const WatchView& view) {
    if (view.events.empty()) {
        if (view.header.revision > watch->revision) watch->revision = view.header.revision;
        client_.guard_.reached(view.header.cluster_id, watch->revision);
        if (watch->events.on_progress) call(watch->events.on_progress, view.header);
        return;
    }
    // What was delivered before a reconnect does not come twice.
    const auto fresh = std::find_if(
        view.events.begin(), view.events.end(),
        [&](const WatchEvent& event) { return event.kv.mod_revision > watch->revision; });
    if (fresh == view.events.end()) return;
    const WatchEvent& last = view.events.back();
    watch->revision = last.kv.mod_revision;
    client_.guard_.reached(view.header.cluster_id, watch->revision);
    watch->proof_key = last.kv.key;
    watch->proof_revision = last.kv.mod_revision;
    watch->proof_is_delete = last.kind == WatchEvent::Kind::kDelete;
    if (watch->events.on_events) {
        const auto skipped = static_cast<std::size_t>(fresh - view.events.begin());
        call(watch->events.on_events, view.header,
             std::span<const WatchEvent>(view.events).subspan(skipped));
    }
}

void WatchStream::on_fragment(const WatchPtr& watch, std::string_view bytes,
                              const WatchView& view) {
    // Also what an empty one costs.
    watch->fragment_bytes += bytes.size() + sizeof(std::string);
    std::size_t held = 0;
    for (const WatchPtr& each : watches_) held += each->fragment_bytes;
    if (held > client_.options_.max_fragmented_bytes) {
        by_id_.erase(view.watch_id);
        cancel_on_server(view.watch_id);
        WatchEnd over;
        over.header = view.header;
        over.error = Error(Errc::kCapacity,
                           "the changes of one revision are larger than " +
                               std::to_string(client_.options_.max_fragmented_bytes) + " bytes");
        return end(watch, std::move(over));
    }
    watch->fragments.emplace_back(bytes);
    if (view.fragment) return;
    const auto parts = std::exchange(watch->fragments, {});
    watch->fragment_bytes = 0;
    WatchView whole;
    for (const std::string& part : parts)
        if (auto parsed = parse_watch(part, whole); !parsed)
            return fail_stream(parsed.error().detail());
    on_answer(watch, whole);
}

void WatchStream::on_stream_end(const rpc::Status& status) {
    ++generation_;
    stream_ = nullptr;
    const bool refused = status.code == rpc::StatusCode::kPermissionDenied ||
                         status.code == rpc::StatusCode::kUnauthenticated ||
                         status.code == rpc::StatusCode::kUnimplemented;
    if (!refused) {
        // "no leader", a member that stops, a broken connection: the next endpoint may do better.
        client_.drop("the watch stream ended: " + error_of(status).detail());
        return;
    }
    by_id_.clear();
    to_create_.clear();
    creating_.reset();
    create_timer_.cancel();
    busy_ = false;
    const auto all = watches_;
    for (const WatchPtr& watch : all) {
        if (watch->cancelled) continue;
        WatchEnd over;
        over.header = client_.newest_;
        over.error = error_of(status);
        end(watch, std::move(over));
    }
}

void WatchStream::end(const WatchPtr& watch, WatchEnd end) {
    watch->cancelled = true;
    watch->server_id = -1;
    std::erase(watches_, watch);
    std::erase(to_create_, watch);
    const WatchEvents events = std::exchange(watch->events, {});
    if (events.on_end) events.on_end(end);
}

void WatchStream::fail_stream(std::string why) {
    client_.drop(std::move(why));
}

}  // namespace mesh::etcd::detail
