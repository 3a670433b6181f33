// ManifestDirectory alone touches files; apart, so that manifests.cpp can be fuzzed without I/O.
#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "sources/config/manifests.hpp"

namespace mesh::sources::config {

namespace k8s = model::k8s;

ManifestDirectory::ManifestDirectory(std::filesystem::path directory, const Clock& clock)
    : reader_(std::move(directory), clock, [](std::string_view name) {
          return name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json");
      }) {}

Result<ManifestUpdate> ManifestDirectory::refresh() {
    MESH_TRY(auto changes, reader_.read());
    loaded_ = true;
    // An object may move from one file to another within one refresh: only its last state counts.
    std::map<k8s::ObjectKey, std::shared_ptr<const k8s::Object>> last;
    ManifestUpdate total;
    const auto take = [&](ManifestUpdate update) {
        for (auto& change : update.changes) {
            last.insert_or_assign(std::move(change.key), std::move(change.object));
        }
        std::ranges::move(update.errors, std::back_inserter(total.errors));
        std::ranges::move(update.warnings, std::back_inserter(total.warnings));
    };
    for (const auto& file : changes.changed) take(set_.apply(file.name, file.content));
    for (const auto& name : changes.removed) take(set_.remove(name));
    for (const auto& failed : changes.failed) take(set_.fail(failed.name, failed.error.detail()));
    for (auto& [key, object] : last) total.changes.push_back({key, std::move(object)});
    return total;
}

}  // namespace mesh::sources::config
