#include "check.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::soak {

void digest(Change& change, std::string_view value, std::int64_t lease) {
    std::uint64_t hash = 14695981039346656037U;  // FNV-1a
    const auto mix = [&hash](std::string_view bytes) {
        for (const char byte : bytes)
            hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211U;
    };
    mix(fmt::format("{} {} {} {} {} {} ", change.put, change.revision, change.create,
                    change.version, lease, change.key.size()));
    mix(change.key);
    mix(value);
    change.digest = hash;
}

void Report::fail(std::string what) {
    if (++failed_ <= kShown) failures_.push_back(std::move(what));
}

bool Range::contains(std::string_view candidate) const {
    if (end.empty()) return candidate == key;
    return candidate >= key && ((end.size() == 1 && end[0] == '\0') || candidate < end);
}

bool Selection::shows(std::string_view key) const {
    return range.contains(key) &&
           (shown.empty() || std::ranges::any_of(shown, [&](const std::string& prefix) {
                return key.starts_with(prefix);
            }));
}

void History::add(const Change& change) {
    const auto [at, added] = changes_[change.revision].try_emplace(change.key, change);
    if (added) {
        ++size_;
    } else if (at->second.digest != change.digest) {
        report_.fail(fmt::format("{}: revision {} of {} was told in two ways", name_,
                                 change.revision, change.key));
    }
}

void History::visit(std::int64_t after, std::int64_t until,
                    const std::function<void(const Change&)>& visitor) const {
    for (auto at = changes_.upper_bound(after); at != changes_.end() && at->first <= until; ++at)
        for (const auto& [key, change] : at->second) visitor(change);
}

void Checker::begin_after(std::int64_t revision) {
    epochs_.push_back({.after = revision, .until = revision, .seen = {}});
    position_ = last_event_ = revision;
    state_.clear();
    listed_ = false;
}

void Checker::on_list(std::int64_t revision, const std::vector<Change>& keys) {
    begin_after(revision);
    listed_ = true;
    for (const Change& kv : keys) {
        if (!selection_.shows(kv.key)) fail("a list shows " + kv.key);
        if (kv.revision > revision)
            fail(
                fmt::format("a list of revision {} shows {} of {}", revision, kv.key, kv.revision));
        state_[kv.key] = kv;
    }
}

void Checker::on_events(const std::vector<Change>& events) {
    if (events.empty() || epochs_.empty()) return;
    const std::int64_t first = events.front().revision;
    if (first <= position_) {
        fail(fmt::format("{} of revision {} after all up to {} was told", events.front().key, first,
                         position_));
    }
    for (const Change& change : events) take(change);
    position_ = std::max(position_, last_event_);
    epochs_.back().until = position_;
}

void Checker::take(const Change& change) {
    ++events_;
    if (!selection_.takes(change))
        fail(fmt::format("{} of revision {} was not asked for", change.key, change.revision));
    if (change.revision < last_event_)
        fail(fmt::format("{} of revision {} after revision {}", change.key, change.revision,
                         last_event_));
    last_event_ = std::max(last_event_, change.revision);
    epochs_.back().seen.push_back({change.revision, change.digest});
    if (learns_ != nullptr) learns_->add(change);
    const auto known = state_.find(change.key);
    follows(change, known == state_.end() ? nullptr : &known->second);
    if (change.put) {
        state_[change.key] = change;
    } else if (known != state_.end()) {
        state_.erase(known);
    }
}

/// Whether the key can have changed from what was known to this in one step.
void Checker::follows(const Change& change, const Change* before) {
    if (selection_.no_put || selection_.no_delete || (!listed_ && before == nullptr)) return;
    const std::int64_t version = before == nullptr ? 0 : before->version;
    if (change.put ? change.version != version + 1 : version == 0) {
        fail(fmt::format("{}: {} of revision {} has version {} after version {}", change.key,
                         change.put ? "put" : "delete", change.revision, change.version, version));
    }
    if (change.previous != 0 && (before == nullptr || change.previous != before->revision)) {
        fail(fmt::format("{}: revision {} says that {} was before, not {}", change.key,
                         change.revision, change.previous,
                         before == nullptr ? 0 : before->revision));
    }
}

void Checker::on_progress(std::int64_t revision) {
    if (epochs_.empty()) return;
    position_ = std::max(position_, revision);
    epochs_.back().until = position_;
}

void Checker::compare(const History& history) const {
    for (const Epoch& epoch : epochs_) {
        std::vector<Seen> seen = epoch.seen;
        std::ranges::sort(seen);
        std::vector<Seen> expected;
        std::map<std::uint64_t, std::string> names;
        history.visit(epoch.after, epoch.until, [&](const Change& change) {
            if (!selection_.takes(change)) return;
            expected.push_back({change.revision, change.digest});
            names[change.digest] = change.key;
        });
        std::ranges::sort(expected);
        for (std::size_t i = 0; i < std::max(seen.size(), expected.size()); ++i) {
            if (i < seen.size() && i < expected.size() && seen[i] == expected[i]) continue;
            const bool lost = i >= seen.size() || (i < expected.size() && expected[i] < seen[i]);
            fail(lost ? fmt::format("{} of revision {} was never told (after {}, until {})",
                                    names[expected[i].digest], expected[i].revision, epoch.after,
                                    epoch.until)
                      : fmt::format("revision {} was told twice, or is none of etcd's (after {}, "
                                    "until {})",
                                    seen[i].revision, epoch.after, epoch.until));
            break;  // what follows is out of step
        }
    }
}

void Checker::compare(const std::map<std::string, Change>& keys) const {
    if (selection_.no_put || selection_.no_delete || !listed_) return;
    for (const auto& [key, kv] : keys) {
        if (!selection_.shows(key)) continue;
        const auto ours = state_.find(key);
        if (ours == state_.end()) {
            fail(key + " is not known at the end");
        } else if (ours->second.revision != kv.revision || ours->second.version != kv.version ||
                   ours->second.digest != kv.digest) {
            fail(fmt::format("{} is known as of revision {}, version {}; etcd has {}, {}", key,
                             ours->second.revision, ours->second.version, kv.revision, kv.version));
        }
    }
    for (const auto& [key, kv] : state_)
        if (!keys.contains(key)) fail(key + " is known at the end, and etcd has it no more");
}

}  // namespace mesh::soak
