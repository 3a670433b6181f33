#include "serve/etcd/mirror_list.hpp"

#include <optional>
#include <span>
#include <utility>

namespace mesh::serve {

namespace {

class Lister {
  public:
    Lister(store::Store& store, const MirrorListOptions& options)
        : store_(store), options_(options) {}

    void begin(const etcd::Header& header) {
        if (list_) {
            if (header.cluster_id != list_->header.cluster_id && !failed_)
                failed_ = Error(Errc::kConflict, "another etcd answered in the middle of a list");
            return;
        }
        list_.emplace();
        list_->header = header;
        store_.begin_snapshot(header.revision, options_.same_history(header));
    }

    void take(const etcd::Header& header, std::span<const etcd::KeyValueView> kvs) {
        begin(header);
        if (failed_) return;
        std::vector<store::KeyValue> records;
        records.reserve(kvs.size());
        for (const auto& kv : kvs) {
            // Numbered through, as several keys may have changed within one revision.
            records.push_back(to_record(kv, next_position_++));
            if (kv.mod_revision <= list_->newest_revision) continue;
            list_->newest_revision = kv.mod_revision;
            list_->newest_key = kv.key;
        }
        if (auto added = store_.add_snapshot_page(records); !added)
            failed_ = added.error().to_error();
    }

    [[nodiscard]] std::optional<MirrorList>& list() { return list_; }
    [[nodiscard]] std::optional<Error>& failed() { return failed_; }

  private:
    store::Store& store_;
    const MirrorListOptions& options_;
    std::optional<MirrorList> list_;
    std::optional<Error> failed_;
    std::uint32_t next_position_ = 0;
};

}  // namespace

store::KeyValue to_record(const etcd::KeyValueView& kv, std::uint32_t sub_revision) {
    return store::KeyValue::make(kv.key, kv.value,
                                 {.create_revision = kv.create_revision,
                                  .mod_revision = kv.mod_revision,
                                  .version = kv.version,
                                  .lease = store::LeaseId{kv.lease},
                                  .sub_revision = sub_revision,
                                  .tombstone = false});
}

boost::asio::awaitable<Result<MirrorList>> list_upstream(etcd::Client& client, store::Store& store,
                                                         MirrorListOptions options) {
    Lister lister(store, options);
    for (const auto& prefix : options.prefixes) {
        etcd::RangeRequest request;
        request.range = etcd::prefix_range(prefix);
        if (lister.list()) request.revision = lister.list()->header.revision;
        auto on_page = [&lister](const etcd::Header& header,
                                 std::span<const etcd::KeyValueView> kvs) {
            lister.take(header, kvs);
        };
        auto header = co_await client.async_list(std::move(request), on_page);
        if (options.stopped()) co_return Error(Errc::kCancelled, "the mirror stops");
        if (!header) co_return std::move(header).error();
        lister.begin(*header);
        if (lister.failed()) co_return *std::move(lister.failed());
    }
    if (!lister.list()) co_return internal("no prefix to mirror");
    co_return *std::move(lister.list());
}

}  // namespace mesh::serve
