#include "sources/config/policy_set.hpp"

#include <utility>

#include "sources/config/policy_documents.hpp"

namespace mesh::sources::config {

using model::policy::PolicyKey;

PolicySetUpdate PolicySet::apply(std::string_view name, std::string_view text) {
    ParsedPolicies parsed = parse_policy_records(text, name, PolicyFeatures::enforced());
    PolicySetUpdate update;
    const bool held = files_.contains(name);
    // Nearly all files of manifests hold no policies.
    if (!held && parsed.records.empty() && parsed.errors.empty()) return update;
    File& file = files_[std::string(name)];
    Records records;
    for (auto& record : parsed.records) records.emplace(record->key, std::move(record));
    file.unread = {};
    for (const auto& key : parsed.unread) {
        if (key) {
            file.unread.keys.insert(*key);
        } else {
            file.unread.unknown = true;
        }
    }
    for (const auto& [key, record] : file.records) {
        if (file.unread.contains(key)) records.try_emplace(key, record);
    }
    for (const auto& [key, record] : records) file.unread.keys.erase(key);
    if (parsed.errors != file.errors) update.errors = parsed.errors;
    file.errors = std::move(parsed.errors);
    replace(std::string(name), file, std::move(records), update);
    if (file.records.empty() && file.errors.empty()) files_.erase(std::string(name));
    return update;
}

PolicySetUpdate PolicySet::remove(std::string_view name) {
    PolicySetUpdate update;
    const auto found = files_.find(name);
    if (found == files_.end()) return update;
    replace(found->first, found->second, {}, update);
    files_.erase(found);
    return update;
}

PolicySetUpdate PolicySet::fail(std::string_view name, std::string why) {
    PolicySetUpdate update;
    File& file = files_[std::string(name)];
    file.errors = {std::move(why)};
    file.unread.unknown = true;
    update.errors = file.errors;
    return update;
}

void PolicySet::replace(const std::string& name, File& file, Records records,
                        PolicySetUpdate& update) {
    definitions_.replace(
        name, file.records, std::move(records),
        [&](const PolicyKey& key, const auto& record) {
            update.changes.push_back({key, record});
        },
        update.errors);
}

std::map<model::policy::PolicyKind, std::size_t> PolicySet::counts() const {
    return definitions_.counts();
}

std::vector<std::string> PolicySet::errors() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : files_) {
        all.insert(all.end(), file.errors.begin(), file.errors.end());
    }
    const auto duplicates = definitions_.duplicates();
    all.insert(all.end(), duplicates.begin(), duplicates.end());
    return all;
}

model::UnreadPolicies PolicySet::unread() const {
    model::UnreadPolicies all;
    for (const auto& [name, file] : files_) {
        all.unknown = all.unknown || file.unread.unknown;
        all.keys.insert(file.unread.keys.begin(), file.unread.keys.end());
    }
    return all;
}

}  // namespace mesh::sources::config
