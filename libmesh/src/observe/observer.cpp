#include "observe/observer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>
#include <variant>

namespace mesh::observe {

namespace {

/// A block that has grown that far is closed, and the next begun: what a reader holds at once.
constexpr std::size_t kBlockBytes = 256 * 1024;

}  // namespace

/// Adds to a list of blocks.
class Observer::Writer {
  public:
    Writer(std::uint32_t kind, std::uint64_t sequence) : kind_(kind), sequence_(sequence) {}

    template <class... Args>
    void add(const Args&... args) {
        open().add(kind_, sequence_, args...);
    }
    void marker(std::uint32_t kind) { open().add_marker(kind, sequence_); }
    [[nodiscard]] std::vector<BlockPtr> finish() {
        if (block_) done_.push_back(std::exchange(block_, {}));
        return std::move(done_);
    }

  private:
    Block& open() {
        if (block_ && block_->bytes() >= kBlockBytes) {
            done_.push_back(std::exchange(block_, {}));
        }
        // Snapshots are large and soon gone. One object more may come than there is room for.
        if (!block_) block_ = std::make_shared<Block>(kBlockBytes + kBlockBytes / 8);
        return *block_;
    }

    std::uint32_t kind_;
    std::uint64_t sequence_;
    std::shared_ptr<Block> block_;
    std::vector<BlockPtr> done_;
};

Observer::Observer(Sources sources) : sources_(std::move(sources)) {}

Observer::~Observer() {
    close();
}

void Observer::close() {
    for (const auto& weak : queues_) {
        if (const auto queue = weak.lock()) queue->close(false);
    }
    queues_.clear();
    wanted_ = 0;
}

std::uint32_t Observer::wanted() {
    std::uint32_t all = 0;
    std::erase_if(queues_, [&](const std::weak_ptr<Queue>& weak) {
        const auto queue = weak.lock();
        if (!queue || queue->closed()) return true;
        all |= queue->objects();
        return false;
    });
    return all;
}

void Observer::note(const state::Effect& effect) {
    if (wanted_ == 0) return;
    const auto tell = [&](std::uint32_t object, const auto& changed) {
        if ((wanted_ & object) == 0) return;
        if (!open_) open_ = std::make_shared<Block>();
        const bool gone = changed.after == nullptr;
        open_->add(gone ? MESH_EVENT_DELETE : MESH_EVENT_UPSERT, ++sequence_, effect.cluster,
                   gone ? *changed.before : *changed.after);
        if (open_->bytes() >= kBlockBytes) seal();
    };
    if (const auto* node = std::get_if<state::Changed<model::Node>>(&effect.change)) {
        tell(MESH_OBJECT_NODE, *node);
    } else if (const auto* ip =
                   std::get_if<state::Changed<model::IpIdentityPair>>(&effect.change)) {
        tell(MESH_OBJECT_IP, *ip);
    } else if (const auto* identity =
                   std::get_if<state::Changed<model::Identity>>(&effect.change)) {
        tell(MESH_OBJECT_IDENTITY, *identity);
    }
}

void Observer::note(const compile::FrontendChanges& changes) {
    if ((wanted_ & MESH_OBJECT_SERVICE) == 0) return;
    for (const auto& name : changes.services) note_service(name);
}

void Observer::note_service(const state::ObjectName& name) {
    const auto explanation = sources_.merger.explain(name);
    const auto told = services_.find(name);
    std::uint32_t kind = MESH_EVENT_UPSERT;
    if (explanation.local) {
        const std::uint64_t print = fingerprint(explanation);
        if (told != services_.end() && told->second == print) return;
        services_.insert_or_assign(name, print);
    } else {
        if (told == services_.end()) return;
        services_.erase(told);
        kind = MESH_EVENT_DELETE;
    }
    if (!open_) open_ = std::make_shared<Block>();
    if (kind == MESH_EVENT_DELETE) {
        compile::ServiceExplanation gone;
        gone.service = name;
        open_->add(kind, ++sequence_, gone);
    } else {
        open_->add(kind, ++sequence_, explanation);
    }
    if (open_->bytes() >= kBlockBytes) seal();
}

void Observer::note_clusters() {
    std::map<std::string, Told> now;
    const auto block = [&]() -> Block& {
        if (!open_) open_ = std::make_shared<Block>();
        return *open_;
    };
    for (const auto& status : sources_.clusters()) {
        const Told told{status.state, status.config.id, status.ready, status.connected};
        const auto before = clusters_.find(status.cluster);
        if (before == clusters_.end() || before->second != told) {
            block().add(MESH_EVENT_UPSERT, ++sequence_, status, sources_.own);
        }
        now.emplace(status.cluster, told);
    }
    for (const auto& [name, told] : clusters_) {
        if (now.contains(name)) continue;
        state::SessionStatus gone;
        gone.cluster = name;
        gone.config.id = told.id;
        block().add(MESH_EVENT_DELETE, ++sequence_, gone, sources_.own);
    }
    clusters_ = std::move(now);
}

void Observer::seal() {
    if (!open_) return;
    const BlockPtr block = std::exchange(open_, {});
    for (const auto& weak : queues_) {
        if (const auto queue = weak.lock()) queue->put(block);
    }
}

void Observer::publish() {
    if (wanted_ == 0) return;
    wanted_ = wanted();
    if ((wanted_ & MESH_OBJECT_SERVICE) == 0) services_.clear();
    if ((wanted_ & MESH_OBJECT_CLUSTER) != 0) {
        note_clusters();
    } else {
        clusters_.clear();
    }
    seal();
}

void Observer::subscribe(const std::shared_ptr<Queue>& queue) {
    std::erase_if(queues_, [](const auto& weak) { return weak.expired(); });
    queues_.push_back(queue);
}

void Observer::resync(Queue& queue) {
    if (!queue.snapshot_due()) return;  // another thread of the subscriber's was first
    // What others have not been told yet comes before the snapshot, which holds it already.
    if (wanted_ != 0) {
        if ((wanted_ & MESH_OBJECT_SERVICE) != 0 && sources_.merger.pending()) {
            // The tables are ahead of what the merger flushed, and explain() shows the tables.
            auto names = sources_.merger.services();
            for (const auto& [name, print] : services_) names.push_back(name);
            for (const auto& name : names) note_service(name);
        }
        publish();
    }
    Writer writer(MESH_EVENT_UPSERT, ++sequence_);
    writer.marker(MESH_EVENT_SNAPSHOT_BEGIN);
    if ((queue.objects() & MESH_OBJECT_SERVICE) != 0) services_.clear();
    write_all(writer, queue.objects(), &services_);
    writer.marker(MESH_EVENT_SNAPSHOT_END);
    wanted_ = wanted();
    if ((queue.objects() & MESH_OBJECT_CLUSTER) != 0) {
        clusters_.clear();
        for (const auto& status : sources_.clusters()) {
            clusters_[status.cluster] = {status.state, status.config.id, status.ready,
                                         status.connected};
        }
    }
    queue.set_snapshot(writer.finish());
}

void Observer::write_all(Writer& to, std::uint32_t objects,
                         std::map<state::ObjectName, std::uint64_t>* prints) const {
    const auto& tables = sources_.tables;
    if ((objects & MESH_OBJECT_CLUSTER) != 0) {
        for (const auto& status : sources_.clusters()) to.add(status, sources_.own);
    }
    const auto clusters = tables.clusters();
    const auto write = [&](std::uint32_t object, auto for_each) {
        if ((objects & object) == 0) return;
        for (const auto& cluster : clusters) for_each(cluster);
    };
    write(MESH_OBJECT_NODE, [&](const state::ClusterKey& cluster) {
        tables.for_each_node(cluster.name, [&](const auto& node) { to.add(cluster, node); });
    });
    write(MESH_OBJECT_IDENTITY, [&](const state::ClusterKey& cluster) {
        tables.for_each_identity(cluster.name, [&](const auto& each) { to.add(cluster, each); });
    });
    write(MESH_OBJECT_IP, [&](const state::ClusterKey& cluster) {
        tables.for_each_ip(cluster.name, [&](const auto& pair) { to.add(cluster, pair); });
    });
    if ((objects & MESH_OBJECT_SERVICE) == 0) return;
    for (const auto& name : sources_.merger.services()) {
        const auto explanation = sources_.merger.explain(name);
        if (!explanation.local) continue;
        to.add(explanation);
        if (prints != nullptr) prints->insert_or_assign(name, fingerprint(explanation));
    }
}

std::vector<BlockPtr> Observer::list(std::uint32_t objects) const {
    Writer writer(MESH_EVENT_UPSERT, sequence_);
    write_all(writer, objects, nullptr);
    return writer.finish();
}

BlockPtr Observer::lookup(const model::IpAddress& address) const {
    const auto match = sources_.tables.lookup(address);
    if (!match) return nullptr;
    auto block = std::make_shared<Block>();
    block->add(MESH_EVENT_UPSERT, sequence_, match->cluster, match->pair);
    return block;
}

BlockPtr Observer::service(const state::ObjectName& name) const {
    const auto explanation = sources_.merger.explain(name);
    if (!explanation.local) return nullptr;
    auto block = std::make_shared<Block>();
    block->add(MESH_EVENT_UPSERT, sequence_, explanation);
    return block;
}

std::size_t Observer::read_ips(const std::function<IpRecord*(std::size_t count)>& reserve) const {
    const auto& tables = sources_.tables;
    const auto clusters = tables.clusters();
    std::size_t count = 0;
    for (const auto& cluster : clusters) {
        count += tables.stats(cluster.name)[static_cast<std::size_t>(state::Kind::kIp)].count;
    }
    IpRecord* at = reserve(count);
    if (at == nullptr) return count;
    for (const auto& cluster : clusters) {
        tables.for_each_ip_row(cluster.name, [&](const state::IpRow& row) {
            *at = {};
            at->address = row.prefix.address().bytes();
            if (row.host) at->host = row.host->bytes();
            at->identity = model::number(row.id);
            at->cluster_id = model::number(cluster.id);
            at->prefix_length = row.prefix.length();
            at->family = row.prefix.is_v4() ? 4 : 6;
            at->encryption_key = row.key;
            ++at;
        });
    }
    return count;
}

void sort_records(IpRecord* records, std::size_t count) {
    // An address as two numbers: a million of them are compared twenty times each.
    const auto half = [](const IpRecord& record, std::size_t at) {
        std::uint64_t number = 0;
        std::memcpy(&number, record.address.data() + at, sizeof number);
        return __builtin_bswap64(number);
    };
    static_assert(std::endian::native == std::endian::little);
    std::sort(records, records + count, [&](const IpRecord& a, const IpRecord& b) {
        return std::tuple(half(a, 0), half(a, 8), a.prefix_length, a.cluster_id) <
               std::tuple(half(b, 0), half(b, 8), b.prefix_length, b.cluster_id);
    });
}

}  // namespace mesh::observe
