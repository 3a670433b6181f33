#include "compile/policy/policy_compiler.hpp"

#include <algorithm>

namespace mesh::compile {

using namespace model::policy;
using model::Label;

namespace {

bool has_reserved(const std::vector<Label>& labels, std::string_view key) {
    return std::ranges::any_of(labels, [&](const Label& label) {
        return label.source == kSourceReserved && label.key == key;
    });
}

PolicyBuilder::Subject subject_of(const std::pair<std::vector<Label>, NamedPorts>& key,
                                  const NamedPorts& peer_ports, const PolicyOptions& options) {
    PolicyBuilder::Subject subject;
    const EndpointMode* mode = find_mode(options.endpoint_modes, key.first);
    subject.enforcement = mode != nullptr ? mode->enforcement : options.enforcement;
    subject.is_host = has_reserved(key.first, "host");
    subject.is_init = has_reserved(key.first, "init");
    subject.own_ports = &key.second;
    subject.peer_ports = &peer_ports;
    return subject;
}

}  // namespace

PolicyCompiler::PolicyCompiler(PolicyOptions options)
    : options_(std::move(options)), cache_(options_), host_(cache_.acquire(host_selector())) {}

PolicyCompiler::~PolicyCompiler() = default;

// --- policies ---------------------------------------------------------------------------------

PolicyCompiler::RuleNumber PolicyCompiler::add_rule(const Policy& policy, std::size_t index) {
    auto row = std::make_unique<RuleRow>();
    row->place = {policy.key, index};
    row->cached.rule = normalise(policy, policy.rules[index], options_);
    for (const Direction direction : kDirections) {
        const std::size_t at = index_of(direction);
        for (const NormalElement& element : row->cached.rule.directions[at].elements) {
            CachedRule::Element& to = row->cached.elements[at].emplace_back();
            for (const auto& spec : element.endpoints) to.endpoints.push_back(cache_.acquire(spec));
            for (const auto& spec : element.others) to.others.push_back(cache_.acquire(spec));
        }
    }
    RuleNumber number = 0;
    if (free_rules_.empty()) {
        number = static_cast<RuleNumber>(rules_.size());
        rules_.emplace_back();
    } else {
        number = free_rules_.back();
        free_rules_.pop_back();
    }
    if (row->cached.rule.selects_nodes) {
        insert_sorted(node_rules_, number);
    } else {
        rules_by_subject_.add(number, row->cached.rule.subject.requirements);
    }
    rules_[number] = std::move(row);
    return number;
}

void PolicyCompiler::drop_rule(RuleNumber number) {
    const RuleRow& row = *rules_[number];
    if (row.cached.rule.selects_nodes) {
        erase_sorted(node_rules_, number);
    } else {
        rules_by_subject_.remove(number, row.cached.rule.subject.requirements);
    }
    for (const auto& elements : row.cached.elements) {
        for (const CachedRule::Element& element : elements) {
            for (const SelectorId id : element.endpoints) cache_.release(id);
            for (const SelectorId id : element.others) cache_.release(id);
        }
    }
    rules_[number].reset();
    free_rules_.push_back(number);
}

bool PolicyCompiler::selects(const RuleRow& rule, const SubjectKey& subject) const {
    return rule.cached.rule.selects_nodes == has_reserved(subject.first, "host") &&
           rule.cached.rule.subject.matches(subject.first);
}

void PolicyCompiler::mark(SharedNumber number) {
    Shared& shared = shared_[number];
    if (!shared.dirty) {
        // Its selectors may go before it is built again.
        register_users(number, false);
        shared.pending.clear();
        shared.dirty = true;
    }
    changed_.insert(number);
}

void PolicyCompiler::mark_selected(const std::vector<RuleNumber>& rules) {
    for (const auto& entry : by_subject_) {
        const SharedNumber number = entry.second;
        if (shared_[number].dirty) continue;
        const bool selected = std::ranges::any_of(
            rules, [&](RuleNumber rule) { return selects(*rules_[rule], entry.first); });
        if (selected) mark(number);
    }
}

void PolicyCompiler::upsert_policy(const PolicyPtr& policy) {
    auto& [kept, numbers] = policies_[policy->key];
    if (kept && *kept == *policy) return;
    mark_selected(numbers);
    // The new ones first, so that selectors in both stay.
    std::vector<RuleNumber> made;
    for (std::size_t i = 0; i < policy->rules.size(); ++i) made.push_back(add_rule(*policy, i));
    for (const RuleNumber number : numbers) drop_rule(number);
    kept = policy;
    numbers = std::move(made);
    mark_selected(numbers);
}

void PolicyCompiler::remove_policy(const PolicyKey& key) {
    const auto found = policies_.find(key);
    if (found == policies_.end()) return;
    mark_selected(found->second.second);
    for (const RuleNumber number : found->second.second) drop_rule(number);
    policies_.erase(found);
}

// --- identities -------------------------------------------------------------------------------

void PolicyCompiler::tell(IdentitySlot slot, std::uint32_t id,
                          const std::vector<SelectorId>& matched, bool add) {
    touched_.clear();
    for (const SelectorId selector : matched) {
        if (selector >= users_.size()) continue;
        touched_.insert(touched_.end(), users_[selector].begin(), users_[selector].end());
    }
    std::ranges::sort(touched_);
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const std::uint32_t user : touched_) {
        const SharedNumber number = user / 2;
        Shared& shared = shared_[number];
        const auto direction = static_cast<Direction>(user % 2);
        DirectionPolicy& part = shared.policy->directions_[user % 2];
        const auto& entries = add ? part.add(slot, matched) : part.remove(slot, matched);
        for (const EntryShape& shape : entries) {
            shared.pending.emplace_back(
                PolicyMapKey{id, direction, shape.protocol, shape.length, shape.port},
                add ? std::optional(shape.value) : std::nullopt);
        }
        if (!entries.empty()) changed_.insert(number);
    }
}

void PolicyCompiler::upsert_identity(const PolicyIdentity& identity) {
    if (const auto slot = cache_.find(identity.id)) {
        const PolicyIdentity& kept = cache_.identity(*slot);
        std::vector<Label> sorted = identity.labels;
        std::ranges::sort(sorted);
        if (kept.labels == sorted && kept.cidr == identity.cidr) return;
        remove_identity(identity.id);
    }
    if (const auto slot = cache_.add(identity, matched_)) {
        tell(*slot, identity.id, matched_, true);
    }
}

void PolicyCompiler::remove_identity(std::uint32_t id) {
    if (const auto slot = cache_.remove(id, matched_)) tell(*slot, id, matched_, false);
}

void PolicyCompiler::upsert_service(const PolicyService& service) {
    for (const SelectorId selector :
         cache_.set_service(service.namespace_, service.name, &service)) {
        if (selector >= users_.size()) continue;
        const auto users = users_[selector];  // marking changes the list
        for (const std::uint32_t user : users) mark(user / 2);
    }
}

void PolicyCompiler::remove_service(const std::string& namespace_, const std::string& name) {
    for (const SelectorId selector : cache_.set_service(namespace_, name, nullptr)) {
        if (selector >= users_.size()) continue;
        const auto users = users_[selector];
        for (const std::uint32_t user : users) mark(user / 2);
    }
}

// --- endpoints --------------------------------------------------------------------------------

void PolicyCompiler::leave(std::uint32_t endpoint, SharedNumber number) {
    Shared& shared = shared_[number];
    shared.endpoints.erase(endpoint);
    shared.joined.erase(endpoint);
    if (!shared.endpoints.empty()) return;
    if (!shared.dirty) register_users(number, false);
    for (const SelectorId id : shared.acquired) cache_.release(id);
    by_subject_.erase(by_subject_.find(*shared.key));
    shared = {};
    changed_.erase(number);
    free_shared_.push_back(number);
}

void PolicyCompiler::upsert_endpoint(std::uint32_t endpoint, PolicyEndpoint what) {
    std::ranges::sort(what.labels);
    SubjectKey key{std::move(what.labels), std::move(what.ports)};
    if (const auto found = endpoints_.find(endpoint); found != endpoints_.end()) {
        if (*shared_[found->second].key == key) return;
        leave(endpoint, found->second);
    }
    const auto [at, added] = by_subject_.try_emplace(std::move(key), 0);
    if (added) {
        if (free_shared_.empty()) {
            at->second = static_cast<SharedNumber>(shared_.size());
            shared_.emplace_back();
        } else {
            at->second = free_shared_.back();
            free_shared_.pop_back();
        }
        Shared& made = shared_[at->second];
        made.key = &at->first;
        made.policy = std::make_shared<EndpointPolicy>();
        made.dirty = true;
    }
    shared_[at->second].endpoints.insert(endpoint);
    shared_[at->second].joined.insert(endpoint);
    changed_.insert(at->second);
    endpoints_[endpoint] = at->second;
}

void PolicyCompiler::remove_endpoint(std::uint32_t endpoint) {
    const auto found = endpoints_.find(endpoint);
    if (found == endpoints_.end()) return;
    leave(endpoint, found->second);
    endpoints_.erase(found);
}

void PolicyCompiler::set_peer_ports(NamedPorts ports) {
    if (ports == peer_ports_) return;
    peer_ports_ = std::move(ports);
    for (const auto& [subject, number] : by_subject_) {
        if (shared_[number].uses_peer_ports) mark(number);
    }
}

void PolicyCompiler::register_users(SharedNumber number, bool add) {
    for (const Direction direction : kDirections) {
        const auto user = static_cast<std::uint32_t>(number * 2 + index_of(direction));
        for (const SelectorId id : shared_[number].policy->direction(direction).selectors()) {
            if (id >= users_.size()) users_.resize(id + 1U);
            if (add) {
                insert_sorted(users_[id], user);
            } else {
                erase_sorted(users_[id], user);
            }
        }
    }
}

std::vector<const PolicyCompiler::RuleRow*> PolicyCompiler::selecting(
    const SubjectKey& subject) const {
    std::vector<RuleNumber> numbers;
    if (has_reserved(subject.first, "host")) {
        numbers = node_rules_;
    } else {
        rules_by_subject_.candidates(subject.first, numbers);
        std::ranges::sort(numbers);
        numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    }
    std::vector<const RuleRow*> rows;
    for (const RuleNumber rule : numbers) {
        if (selects(*rules_[rule], subject)) rows.push_back(rules_[rule].get());
    }
    std::ranges::sort(rows, {}, &RuleRow::place);
    return rows;
}

void PolicyCompiler::build(SharedNumber number) {
    Shared& shared = shared_[number];
    const SubjectKey& key = *shared.key;
    const PolicyBuilder::Subject subject = subject_of(key, peer_ports_, options_);
    std::vector<const CachedRule*> rules;
    for (const RuleRow* row : selecting(key)) rules.push_back(&row->cached);
    // A reader may still hold the one before.
    if (shared.policy.use_count() > 1) shared.policy = std::make_shared<EndpointPolicy>();
    std::vector<SelectorId> acquired;
    PolicyBuilder builder(options_, cache_, host_, scratch_);
    shared.uses_peer_ports = builder.build(rules, subject, *shared.policy, acquired);
    for (const SelectorId id : shared.acquired) cache_.release(id);
    shared.acquired = std::move(acquired);
    shared.dirty = false;
    register_users(number, true);
}

std::vector<PolicyChange> PolicyCompiler::flush() {
    std::vector<PolicyChange> changes;
    for (const SharedNumber number : changed_) {
        Shared& shared = shared_[number];
        if (shared.dirty) {
            build(number);
            changes.push_back(
                {{shared.endpoints.begin(), shared.endpoints.end()}, shared.policy, true, {}});
        } else {
            if (!shared.joined.empty()) {
                changes.push_back(
                    {{shared.joined.begin(), shared.joined.end()}, shared.policy, true, {}});
            }
            PolicyChange change{{}, shared.policy, false, std::move(shared.pending)};
            std::ranges::set_difference(shared.endpoints, shared.joined,
                                        std::back_inserter(change.endpoints));
            if (!change.entries.empty() && !change.endpoints.empty()) {
                changes.push_back(std::move(change));
            }
        }
        shared.joined.clear();
        shared.pending.clear();
    }
    changed_.clear();
    return changes;
}

// --- reading ----------------------------------------------------------------------------------

const EndpointPolicy* PolicyCompiler::find(std::uint32_t endpoint) const {
    const auto found = endpoints_.find(endpoint);
    return found == endpoints_.end() ? nullptr : shared_[found->second].policy.get();
}

std::vector<const L7Rules*> PolicyCompiler::l7_rules(const PolicyRedirect& redirect,
                                                     std::uint32_t identity) const {
    std::vector<const L7Rules*> rules;
    const auto slot = cache_.find(identity);
    for (const PolicyRedirect::Rules& one : redirect.rules) {
        const bool selected = one.peer == kAnyPeer || (slot && cache_.selects(one.peer, *slot));
        if (selected) rules.push_back(one.rules.get());
    }
    return rules;
}

void PolicyCompiler::examine(const PolicyEndpoint& endpoint,
                             const std::function<void(const PolicyOrigin&)>& f) {
    SubjectKey key{endpoint.labels, endpoint.ports};
    std::ranges::sort(key.first);
    const PolicyBuilder::Subject subject = subject_of(key, peer_ports_, options_);
    PolicyOrigin origin;
    origin.is_host = subject.is_host;
    origin.is_init = subject.is_init;
    origin.enforcement = subject.enforcement;
    origin.host = host_;
    std::vector<const CachedRule*> rules;
    for (const RuleRow* row : selecting(key)) {
        const auto& policy = policies_.at(row->place.first).first;
        origin.rules.push_back({policy, row->place.second, &row->cached});
        rules.push_back(&row->cached);
    }
    std::vector<SelectorId> acquired;
    PolicyBuilder builder(options_, cache_, host_, scratch_);
    for (const Direction direction : kDirections) {
        origin.uses[index_of(direction)] = builder.collect(rules, subject, direction, acquired);
    }
    const auto found = by_subject_.find(key);
    origin.installed = found != by_subject_.end() && !shared_[found->second].dirty;
    if (origin.installed) {
        origin.policy = shared_[found->second].policy;
    } else {
        auto built = std::make_shared<EndpointPolicy>();
        static_cast<void>(builder.build(rules, subject, *built, acquired));
        origin.policy = std::move(built);
    }
    f(origin);
    for (const SelectorId id : acquired) cache_.release(id);
}

std::vector<PolicyPtr> PolicyCompiler::policies() const {
    std::vector<PolicyPtr> all;
    for (const auto& [key, row] : policies_) all.push_back(row.first);
    return all;
}

std::optional<PolicyEndpoint> PolicyCompiler::endpoint(std::uint32_t endpoint) const {
    const auto found = endpoints_.find(endpoint);
    if (found == endpoints_.end()) return std::nullopt;
    const SubjectKey& key = *shared_[found->second].key;
    return PolicyEndpoint{key.first, key.second};
}

bool PolicyCompiler::selects(const PolicyKey& policy, const std::vector<Label>& labels) const {
    const auto found = policies_.find(policy);
    if (found == policies_.end()) return false;
    const SubjectKey subject{labels, {}};
    return std::ranges::any_of(found->second.second,
                               [&](RuleNumber rule) { return selects(*rules_[rule], subject); });
}

std::size_t PolicyCompiler::bytes() const {
    std::size_t total = cache_.bytes();
    for (const Shared& shared : shared_) {
        if (shared.policy) total += shared.policy->bytes();
    }
    return total;
}

}  // namespace mesh::compile
