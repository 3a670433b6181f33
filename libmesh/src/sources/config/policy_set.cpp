#include "sources/config/policy_set.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
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
    std::set<PolicyKey> touched;
    for (const auto& [key, record] : file.records) touched.insert(key);
    for (const auto& [key, record] : records) touched.insert(key);
    for (const PolicyKey& key : touched) {
        auto& candidates = candidates_[key];
        const RecordPtr before = candidates.empty() ? nullptr : candidates.begin()->second;
        if (const auto now = records.find(key); now != records.end()) {
            candidates.insert_or_assign(name, now->second);
        } else {
            candidates.erase(name);
        }
        const RecordPtr after = candidates.empty() ? nullptr : candidates.begin()->second;
        if (candidates.empty()) candidates_.erase(key);
        const bool same = before == after || (before && after && *before == *after);
        if (!same) update.changes.push_back({key, after});
        note_duplicates(key, update);
    }
    file.records = std::move(records);
}

void PolicySet::note_duplicates(const PolicyKey& key, PolicySetUpdate& update) {
    std::set<std::string> now;
    if (const auto found = candidates_.find(key); found != candidates_.end()) {
        const auto& candidates = found->second;
        for (auto other = std::next(candidates.begin()); other != candidates.end(); ++other) {
            now.insert(fmt::format("{}: {} is defined in {} already, which is used", other->first,
                                   key.to_string(), candidates.begin()->first));
        }
    }
    std::set<std::string>& before = duplicates_[key];
    std::ranges::set_difference(now, before, std::back_inserter(update.errors));
    before = std::move(now);
    if (before.empty()) duplicates_.erase(key);
}

std::map<model::policy::PolicyKind, std::size_t> PolicySet::counts() const {
    std::map<model::policy::PolicyKind, std::size_t> counts;
    for (const auto& [key, candidates] : candidates_) ++counts[key.kind];
    return counts;
}

std::vector<std::string> PolicySet::errors() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : files_) {
        all.insert(all.end(), file.errors.begin(), file.errors.end());
    }
    for (const auto& [key, texts] : duplicates_) all.insert(all.end(), texts.begin(), texts.end());
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
