#include "engine/http_rules.hpp"

#include "datapath/policy.hpp"

namespace mesh::engine {

using model::policy::Direction;

namespace {

/// Sets of rules that are kept; beyond it, those that no connection has go.
constexpr std::size_t kMostCompiled = 4096;

}  // namespace

serve::l7::FlowPolicy HttpRules::find(const serve::l7::Flow& flow) const {
    L7Flow asked;
    asked.direction = flow.direction;
    asked.client = flow.source.address;
    asked.server = flow.destination.address;
    asked.server_port = flow.destination.port;
    const L7Answer answer = policy_.find("http", asked);
    serve::l7::FlowPolicy out;
    out.source_identity = answer.client_identity;
    out.destination_identity = answer.server_identity;
    if (proxy_mark_ != 0) {
        out.mark = datapath::proxy_socket_mark(proxy_mark_,
                                               flow.direction == Direction::kIngress
                                                   ? datapath::ProxySocket::kToServerOfIngress
                                                   : datapath::ProxySocket::kToServerOfEgress);
    }
    if (answer.found) out.policy = compiled(answer.any_of);
    return out;
}

std::shared_ptr<const serve::l7::HttpPolicy> HttpRules::compiled(const Rules& rules) const {
    const std::lock_guard lock(mutex_);
    if (const auto found = compiled_.find(rules); found != compiled_.end()) return found->second;
    if (compiled_.size() >= kMostCompiled) {
        std::erase_if(compiled_, [](const auto& one) { return one.second.use_count() <= 1; });
    }
    std::vector<serve::l7::HttpPolicy::Source> sources;
    for (const auto& one : rules) sources.push_back({one, {}});
    auto made = serve::l7::HttpPolicy::compile(sources);
    if (!made) log_.error("HTTP rules: {}; nothing passes by them", made.error().message());
    return compiled_[rules] = made ? *made : nullptr;
}

}  // namespace mesh::engine
