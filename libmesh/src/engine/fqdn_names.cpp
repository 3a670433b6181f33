#include "engine/fqdn_names.hpp"

#include <utility>

#include "serve/dns/fqdn_cache_file.hpp"

namespace mesh::engine {

using namespace model::policy;

FqdnNames::FqdnNames(std::string file, compile::LocalIdentities& local, const Clock& clock,
                     Logger log)
    : file_(std::move(file)), local_(local), clock_(clock), log_(std::move(log)) {}

void FqdnNames::load() {
    if (file_.empty()) return;
    const auto loaded = serve::dns::load_cache(file_, cache_, clock_);
    saved_revision_ = cache_.revision();
    if (!loaded) {
        if (loaded.error().code() != Errc::kNotFound) {
            log_.warn("{}: {}; names are learnt anew", file_, loaded.error().message());
        }
        return;
    }
    if (loaded->bad_lines > 0) {
        log_.warn("{}: {} lines left out: {}", file_, loaded->bad_lines, loaded->first_error);
    }
}

void FqdnNames::note_policy(const Policy* before, const Policy* after) {
    // The new one first, so that what both name stays as it is.
    if (after != nullptr) count(*after, true);
    if (before != nullptr) count(*before, false);
}

void FqdnNames::count(const Policy& policy, bool add) {
    for (const Rule& rule : policy.rules) {
        for (const RuleElement& element : rule.allow[index_of(Direction::kEgress)]) {
            if (!element.peers.fqdns) continue;
            for (const FqdnSelector& selector : *element.peers.fqdns) {
                if (add) {
                    local_.set_addresses(selector.text(), cache_.add_selector(selector));
                } else if (cache_.remove_selector(selector)) {
                    local_.set_addresses(selector.text(), {});
                }
            }
        }
    }
}

bool FqdnNames::take(const serve::dns::SelectorChanges& changes) {
    bool any = false;
    for (const auto& change : changes) {
        for (const auto& ip : change.added) any = local_.add_address(change.selector, ip) || any;
        for (const auto& ip : change.removed) {
            any = local_.remove_address(change.selector, ip) || any;
        }
    }
    return any;
}

bool FqdnNames::learn(serve::dns::EndpointId endpoint, std::string_view name,
                      std::span<const model::IpAddress> addresses, Duration ttl) {
    return take(cache_.update(endpoint, name, addresses, ttl, clock_.now()));
}

void FqdnNames::remove_endpoint(serve::dns::EndpointId endpoint) {
    (void)take(cache_.remove_endpoint(endpoint));
}

bool FqdnNames::expire(const serve::dns::FqdnCache::Alive& alive) {
    return take(cache_.expire(clock_.now(), alive));
}

void FqdnNames::save() {
    if (file_.empty() || saved_revision_ == cache_.revision()) return;
    const auto saved = serve::dns::save_cache(file_, cache_, clock_);
    if (saved) {
        saved_revision_ = cache_.revision();
    } else if (!save_failed_) {
        log_.warn("{}: {}", file_, saved.error().message());
    }
    save_failed_ = !saved;
}

}  // namespace mesh::engine
