// ManifestDirectory alone touches files; apart, so that manifests.cpp can be fuzzed without I/O.
#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sources/config/manifests.hpp"

namespace mesh::sources::config {

namespace k8s = model::k8s;

namespace {

/// A file is read for objects and for policies: what is wrong with all of it is told by both.
void add_others(std::vector<std::string>& to, const std::vector<std::string>& more) {
    for (const std::string& text : more) {
        if (std::ranges::find(to, text) == to.end()) to.push_back(text);
    }
}

}  // namespace

ManifestDirectory::ManifestDirectory(std::filesystem::path directory, const Clock& clock)
    : reader_(std::move(directory), clock, [](std::string_view name) {
          return name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json");
      }) {}

Result<ManifestUpdate> ManifestDirectory::refresh() {
    MESH_TRY(auto changes, reader_.read());
    loaded_ = true;
    // An object may move from one file to another within one refresh: only its last state counts.
    std::map<k8s::ObjectKey, std::shared_ptr<const k8s::Object>> last;
    std::map<model::policy::PolicyKey, std::shared_ptr<const model::PolicyRecord>> last_policies;
    ManifestUpdate total;
    const auto take = [&](ManifestUpdate update, PolicySetUpdate policies) {
        for (auto& change : update.changes) {
            last.insert_or_assign(std::move(change.key), std::move(change.object));
        }
        for (auto& change : policies.changes) {
            last_policies.insert_or_assign(std::move(change.key), std::move(change.record));
        }
        add_others(update.errors, policies.errors);
        std::ranges::move(update.errors, std::back_inserter(total.errors));
        std::ranges::move(update.warnings, std::back_inserter(total.warnings));
    };
    for (const auto& file : changes.changed) {
        take(set_.apply(file.name, file.content), policies_.apply(file.name, file.content));
    }
    for (const auto& name : changes.removed) take(set_.remove(name), policies_.remove(name));
    for (const auto& failed : changes.failed) {
        const std::string& why = failed.error.detail();
        take(set_.fail(failed.name, why), policies_.fail(failed.name, why));
    }
    for (auto& [key, object] : last) total.changes.push_back({key, std::move(object)});
    for (auto& [key, record] : last_policies) total.policies.push_back({key, std::move(record)});
    return total;
}

std::vector<std::string> ManifestDirectory::errors() const {
    auto all = set_.errors();
    add_others(all, policies_.errors());
    return all;
}

}  // namespace mesh::sources::config
