#include "product_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace mesh::soak {

namespace {

Change to_change(const etcd::Change& from) {
    Change change;
    change.key = from.kv.key;
    change.revision = from.kv.mod_revision;
    change.put = from.kind == etcd::Change::Kind::kPut;
    if (change.put) {
        change.create = from.kv.create_revision;
        change.version = from.kv.version;
        digest(change, from.kv.value, from.kv.lease);
    } else {
        digest(change, {}, 0);
    }
    return change;
}

}  // namespace

ProductReader::ProductReader(boost::asio::any_io_executor loop, const Clock& clock, Rng rng,
                             etcd::ClientOptions options, const std::vector<Checker*>& checkers,
                             Report& report)
    : report_(report) {
    auto client =
        etcd::Client::make(std::move(loop), std::move(options), clock, Rng(rng.next()), Logger());
    if (!client) throw std::runtime_error(client.error().message());
    client_ = *std::move(client);
    for (Checker* checker : checkers) {
        auto watch = std::make_unique<Watch>();
        watch->checker = checker;
        etcd::PrefixWatcherOptions wanted;
        wanted.prefix = checker->selection().range.key;
        etcd::PrefixWatcherEvents events;
        events.on_batch = [this, at = watch.get()](const etcd::Batch& batch) {
            on_batch(*at, batch);
        };
        events.on_list_done = [this, at = watch.get()](const etcd::Header& header) {
            report_.count("lists");
            std::vector<Change> all;
            for (const auto& [key, change] : at->keys) all.push_back(change);
            at->checker->on_list(header.revision, all);
        };
        events.on_in_step = [at = watch.get()](const etcd::Header& header) {
            at->in_step = header.revision;
            at->checker->on_progress(header.revision);
        };
        watch->watcher = std::make_unique<etcd::PrefixWatcher>(
            *client_, clock, Rng(rng.next()), std::move(wanted), std::move(events));
        watches_.push_back(std::move(watch));
    }
    client_->start();
}

void ProductReader::on_batch(Watch& watch, const etcd::Batch& batch) {
    std::vector<Change> changes;
    for (const etcd::Change& from : batch.changes) {
        changes.push_back(to_change(from));
        const Change& change = changes.back();
        if (change.put) {
            watch.keys[change.key] = change;
        } else {
            watch.keys.erase(change.key);
        }
    }
    if (batch.from_list) return;
    report_.count("events", changes.size());
    watch.checker->on_events(changes);
}

boost::asio::awaitable<void> ProductReader::async_stop() {
    for (auto& watch : watches_) watch->watcher.reset();
    return client_->async_stop();
}

std::int64_t ProductReader::position() const {
    std::int64_t lowest = std::numeric_limits<std::int64_t>::max();
    for (const auto& watch : watches_) {
        using State = etcd::PrefixWatcherEvents::State;
        const bool watching = watch->watcher->state() == State::kWatching;
        lowest = std::min(
            lowest, watching ? std::max(watch->watcher->position().revision, watch->in_step) : 0);
    }
    return lowest;
}

std::string ProductReader::state() const {
    std::string text;
    for (const auto& watch : watches_) {
        text += fmt::format("{} at {}, state {}; ", watch->checker->name(),
                            watch->watcher->position().revision,
                            static_cast<int>(watch->watcher->state()));
    }
    return text;
}

}  // namespace mesh::soak
