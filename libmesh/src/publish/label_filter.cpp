#include "publish/label_filter.hpp"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/policy.hpp"

namespace mesh::publish {

namespace {

constexpr std::array<std::string_view, 23> kDefault{
    "reserved:.*",
    R"(io\.kubernetes\.pod\.namespace)",
    R"(io\.cilium\.k8s\.namespace\.labels)",
    R"(io\.cilium\.k8s\.policy\.cluster)",
    R"(io\.cilium\.k8s\.policy\.serviceaccount)",
    R"(app\.kubernetes\.io)",
    R"(!io\.kubernetes)",
    R"(!kubernetes\.io)",
    R"(!.*beta\.kubernetes\.io)",
    R"(!k8s\.io)",
    R"(!topology\.kubernetes\.io)",
    "!pod-template-generation",
    "!pod-template-hash",
    "!pod-template-",
    "!controller-revision-hash",
    "!controller-uid",
    "!annotation.*",
    "!etcd_node",
    R"(!statefulset\.kubernetes\.io/pod-name)",
    R"(!statefulset\.kubernetes\.io/pod-index)",
    R"(!apps\.kubernetes\.io/pod-index)",
    R"(!batch\.kubernetes\.io/job-completion-index)",
    R"(!batch\.kubernetes\.io/controller-uid)",
};

constexpr std::size_t kMostJudged = 10'000;

}  // namespace

LabelFilter::LabelFilter() {
    for (const std::string_view text : kDefault) {
        auto pattern = parse_pattern(text);
        if (pattern) patterns_.push_back(*std::move(pattern));
    }
}

Result<LabelFilter::Pattern> LabelFilter::parse_pattern(std::string_view text) {
    Pattern pattern;
    std::string_view rest = text;
    // Cilium has the mark behind the source; before it, it is meant alike.
    const auto take_mark = [&] {
        if (!rest.starts_with('!')) return;
        pattern.drops = true;
        rest.remove_prefix(1);
    };
    take_mark();
    if (const auto colon = rest.find(':'); colon != std::string_view::npos) {
        pattern.source = rest.substr(0, colon);
        rest.remove_prefix(colon + 1);
        take_mark();
    }
    if (rest.empty()) {
        return invalid_argument(
            fmt::format("\"{}\": expected [source:][!]pattern of label keys", text));
    }
    // One group around all, so that the match's length can be told.
    pattern.expression = std::make_shared<const RE2>("(" + std::string(rest) + ")", RE2::Quiet);
    if (!pattern.expression->ok()) {
        return invalid_argument(fmt::format("\"{}\": expected a regular expression (RE2): {}", text,
                                            pattern.expression->error()));
    }
    return pattern;
}

Result<LabelFilter> LabelFilter::parse(std::string_view text) {
    constexpr std::string_view kBetween = " \t\r\n,";
    LabelFilter filter;
    while (true) {
        const auto begin = text.find_first_not_of(kBetween);
        if (begin == std::string_view::npos) break;
        text.remove_prefix(begin);
        const auto end = std::min(text.find_first_of(kBetween), text.size());
        MESH_TRY(Pattern pattern, parse_pattern(text.substr(0, end)));
        if (!pattern.drops) filter.only_listed_ = true;
        filter.patterns_.push_back(std::move(pattern));
        text.remove_prefix(end);
    }
    if (!filter.keeps(model::policy::kSourceK8s, model::policy::kClusterKey)) {
        return invalid_argument(
            fmt::format("the patterns drop {}, without which other clusters refuse an identity",
                        model::policy::kClusterKey));
    }
    return filter;
}

bool LabelFilter::judge(std::string_view source, std::string_view key) const {
    std::size_t kept = 0;
    std::size_t dropped = 0;
    for (const Pattern& pattern : patterns_) {
        if (!pattern.source.empty() && pattern.source != source) continue;
        re2::StringPiece match;
        if (!pattern.expression->Match({key.data(), key.size()}, 0, key.size(), RE2::ANCHOR_START,
                                       &match, 1)) {
            continue;
        }
        const std::size_t length = match.size();
        if (!pattern.drops) {
            kept = std::max(kept, length);
        } else if (dropped == 0 || length < dropped) {
            dropped = length;
        }
    }
    return (!only_listed_ && dropped == 0) || kept > dropped;
}

bool LabelFilter::keeps(std::string_view source, std::string_view key) const {
    if (source != model::policy::kSourceK8s) return judge(source, key);
    if (const auto known = judged_.find(key); known != judged_.end()) return known->second;
    if (judged_.size() >= kMostJudged) judged_.clear();
    return judged_.emplace(key, judge(source, key)).first->second;
}

}  // namespace mesh::publish
