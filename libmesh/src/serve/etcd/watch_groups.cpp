#include "serve/etcd/watch_groups.hpp"

#include <string>
#include <vector>

#include "model/keys.hpp"
#include "serve/etcd/access.hpp"

namespace mesh::serve {

namespace {

/// Prefixes and where they end; narrower ones before the wider ones that hold them.
struct Groups {
    std::vector<std::string> prefixes, ends;
    std::vector<std::string_view> names;

    void add(std::string prefix) {
        ends.push_back(store::prefix_end(prefix));
        prefixes.push_back(std::move(prefix));
    }
    Groups() {
        for (const std::string_view layout : {model::kStatePrefix, model::kCachePrefix}) {
            for (const model::Resource resource : model::kResources)
                add(std::string(layout).append(model::to_string(resource)).append("/v1/"));
            add(std::string(layout));
        }
        for (const std::string_view prefix :
             {model::kSyncedPrefix, model::kClusterConfigPrefix, model::kHeartbeatKey,
              std::string_view("cilium/"), model::kLocalPrefix})
            add(std::string(prefix));
        names.assign(prefixes.begin(), prefixes.end());
        names.emplace_back("other");
    }
};

const Groups& groups() {
    static const Groups all;
    return all;
}

}  // namespace

std::span<const std::string_view> watch_groups() {
    return groups().names;
}

std::size_t watch_group_of(const store::KeyRange& range) {
    const Groups& all = groups();
    for (std::size_t i = 0; i < all.prefixes.size(); ++i)
        if (lies_within(range, all.prefixes[i], all.ends[i])) return i;
    return all.prefixes.size();
}

}  // namespace mesh::serve
