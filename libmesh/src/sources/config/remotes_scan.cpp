#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "sources/config/read_file.hpp"
#include "sources/config/remotes_directory.hpp"

namespace mesh::sources::config {

namespace fs = std::filesystem;

RemotesScan::RemotesScan(std::string directory, std::string local_cluster, Logger log)
    : directory_(std::move(directory)),
      local_cluster_(std::move(local_cluster)),
      log_(std::move(log)) {}

RemotesScan::Outcome RemotesScan::scan() {
    Outcome out;
    out.folders.insert(directory_);
    std::error_code ec;
    std::vector<std::string> names;
    for (fs::directory_iterator it(directory_, ec), end; !ec && it != end; it.increment(ec)) {
        names.push_back(it->path().filename().string());
    }
    if (ec) {
        errors_[""] = directory_ + ": " + ec.message();
        if (!absent_logged_) {
            log_.error("{}: cannot be read ({}); known remotes stay, retried", directory_,
                       ec.message());
            absent_logged_ = true;
        }
        out.look_again = true;
        return out;
    }
    absent_logged_ = false;
    errors_.erase("");
    std::sort(names.begin(), names.end());
    std::set<std::string> seen;
    for (const std::string& name : names) look_at(name, seen, out);
    const std::set<std::string> present(names.begin(), names.end());
    std::erase_if(errors_,
                  [&](const auto& e) { return !e.first.empty() && !present.contains(e.first); });
    std::erase_if(refused_, [&](const auto& e) { return !present.contains(e.first); });
    for (auto it = known_.begin(); it != known_.end();) {
        if (seen.contains(it->first)) {
            it->second.missing = false;
            ++it;
        } else if (!it->second.missing) {
            // A writer may be between unlink and create, or between truncate and write.
            it->second.missing = true;
            out.look_again = true;
            ++it;
        } else {
            log_.info("remote cluster {}: its file {}/{} is gone", it->first, directory_,
                      it->first);
            out.events.push_back({RemoteEvent::Kind::kRemoved, it->first, {}});
            it = known_.erase(it);
        }
    }
    std::sort(out.events.begin(), out.events.end(),
              [](const RemoteEvent& a, const RemoteEvent& b) { return a.cluster < b.cluster; });
    return out;
}

void RemotesScan::look_at(const std::string& name, std::set<std::string>& seen, Outcome& out) {
    const std::string path = directory_ + "/" + name;
    std::error_code ec;
    if (!fs::is_regular_file(path, ec)) return;
    if (name == local_cluster_) return;
    const auto text = read_file(path, kMaxConfigBytes);
    if (!text) {
        if (text.error().code() == Errc::kNotFound) return;
        if (known_.contains(name)) seen.insert(name);
        refuse(name, text.error().detail(), text.error().detail());
        return;
    }
    if (text->find("endpoints:") == std::string::npos) {
        errors_.erase(name);
        refused_.erase(name);
        return;
    }
    seen.insert(name);
    if (const auto target = fs::canonical(path, ec); !ec) {
        out.folders.insert(target.parent_path().string());
    }
    const std::string hash = sha256_hex(*text);
    if (const auto named = check_cluster_name(name); !named) {
        refuse(name, hash, path + ": " + named.error().detail());
        return;
    }
    const auto known = known_.find(name);
    if (known != known_.end() && known->second.config.content_hash == hash) {
        errors_.erase(name);
        refused_.erase(name);
        return;
    }
    auto config = parse_remote_yaml(*text, path, name);
    if (!config) {
        refuse(name, hash, config.error().detail());
        return;
    }
    errors_.erase(name);
    refused_.erase(name);
    const bool added = known == known_.end();
    log_.info("remote cluster {}: {} {}", name, path, added ? "appeared" : "changed");
    known_[name].config = *config;
    out.events.push_back({added ? RemoteEvent::Kind::kAdded : RemoteEvent::Kind::kChanged, name,
                          *std::move(config)});
}

void RemotesScan::refuse(const std::string& name, const std::string& token,
                         const std::string& what) {
    errors_[name] = what;
    std::string& last = refused_[name];
    if (last == token) return;
    last = token;
    const bool held = known_.contains(name);
    log_.error("{}{}", what,
               held ? "; the last good configuration stays" : "; this remote is not used");
}

}  // namespace mesh::sources::config
