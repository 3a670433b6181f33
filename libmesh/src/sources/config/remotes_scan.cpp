#include <algorithm>
#include <array>
#include <utility>

#include "sources/config/read_file.hpp"
#include "sources/config/remotes_directory.hpp"

namespace mesh::sources::config {

namespace {

/// A file of a cluster's name that was meant as an etcd client's configuration, though it has no
/// `endpoints:` (any more): a certificate, a key or a note has none of these fields.
bool looks_like_one(const std::string& name, const std::string& text) {
    constexpr std::array kFields{"endpoint", "trusted-ca-file:", "cert-file:", "key-file:"};
    return check_cluster_name(name) && std::ranges::any_of(kFields, [&](const char* field) {
               return text.find(field) != std::string::npos;
           });
}

}  // namespace

RemotesScan::RemotesScan(const std::string& directory, std::string local_cluster,
                         const Clock& clock, Logger log)
    : directory_(directory),
      log_(std::move(log)),
      reader_(directory, clock,
              [local = std::move(local_cluster)](std::string_view name) { return name != local; },
              {.max_files = 4096, .max_file_bytes = kMaxConfigBytes}) {}

RemotesScan::Outcome RemotesScan::scan() {
    Outcome out;
    const auto changes = reader_.read();
    if (!changes) {
        const auto [at, fresh] = errors_.insert_or_assign("", changes.error().detail());
        if (fresh) log_.error("{}; known remotes stay, retried", at->second);
        out.look_again = !missing_.empty();
        return out;
    }
    errors_.erase("");
    std::set<std::string> missing;
    for (const auto& file : changes->changed) {
        if (take(file.name, file.content, out)) {
            missing_.erase(file.name);
        } else if (known_.contains(file.name) && !missing_.contains(file.name)) {
            missing.insert(file.name);
        }
    }
    for (const auto& failure : changes->failed) {
        // When it can be read again, it is to be told again, also with the same bytes.
        reader_.forget(failure.name);
        if (failure.error.code() == Errc::kNotFound && known_.contains(failure.name)) {
            missing.insert(failure.name);  // a link whose target is gone
        } else {
            missing_.erase(failure.name);
            refuse(failure.name, failure.error.detail());
        }
    }
    for (const std::string& name : changes->removed) {
        errors_.erase(name);
        if (known_.contains(name) && !missing_.contains(name)) missing.insert(name);
    }
    for (const std::string& name : missing_) {
        log_.info("remote cluster {}: its file {}/{} is gone", name, directory_, name);
        out.events.push_back({RemoteEvent::Kind::kRemoved, name, {}});
        known_.erase(name);
    }
    // A writer may be between unlink and create, or between truncate and write: the next look
    // decides.
    missing_ = std::move(missing);
    out.look_again = !missing_.empty();
    std::sort(out.events.begin(), out.events.end(),
              [](const RemoteEvent& a, const RemoteEvent& b) { return a.cluster < b.cluster; });
    return out;
}

bool RemotesScan::take(const std::string& name, const std::string& text, Outcome& out) {
    const std::string path = directory_ + "/" + name;
    errors_.erase(name);
    // A misspelt `endpoints` must not drain a cluster: what was a configuration and still has text
    // is a bad one. (Cilium removes the remote.)
    const bool was_one =
        known_.contains(name) && text.find_first_not_of(" \t\r\n") != std::string::npos;
    if (text.find("endpoints:") == std::string::npos && !was_one && !looks_like_one(name, text)) {
        return false;
    }
    if (const auto named = check_cluster_name(name); !named) {
        refuse(name, path + ": " + named.error().detail());
        return true;
    }
    auto config = parse_remote_yaml(text, path, name);
    if (!config) {
        refuse(name, config.error().detail());
        return true;
    }
    const auto known = known_.find(name);
    const bool added = known == known_.end();
    if (!added && known->second.content_hash == config->content_hash) return true;
    log_.info("remote cluster {}: {} {}", name, path, added ? "appeared" : "changed");
    known_[name] = *config;
    out.events.push_back({added ? RemoteEvent::Kind::kAdded : RemoteEvent::Kind::kChanged, name,
                          *std::move(config)});
    return true;
}

void RemotesScan::refuse(const std::string& name, const std::string& what) {
    errors_.insert_or_assign(name, what);
    // The reader tells of a content or a failure once, so this is one line for each.
    log_.error(
        "{}; {}", what,
        known_.contains(name) ? "the last good configuration stays" : "this file is not used");
}

}  // namespace mesh::sources::config
