#include "state/store/backend.hpp"

#include <algorithm>

namespace mesh::store {

bool WriteBatch::empty() const noexcept {
    return records.empty() && erased.empty() && leases.empty() && erased_leases.empty() &&
           !revision && !compact_revision && !replace && !identity && !raft_term;
}

bool WriteBatch::grows() const noexcept {
    return std::any_of(records.begin(), records.end(),
                       [](const KeyValue& kv) { return !kv.tombstone(); }) ||
           std::any_of(leases.begin(), leases.end(),
                       [](const LeaseRecord& lease) { return lease.granted; });
}

bool WriteBatch::compacts() const noexcept {
    return records.empty() && leases.empty() && erased_leases.empty();
}

void WriteBatch::clear() noexcept {
    records.clear();
    erased.clear();
    leases.clear();
    erased_leases.clear();
    revision.reset();
    compact_revision.reset();
    replace = false;
    identity.reset();
    raft_term.reset();
}

Outcome<BackendState> MemoryBackend::load(const std::function<Outcome<void>(KeyValue)>&) {
    return BackendState{};
}
Outcome<void> MemoryBackend::initialise(const Identity&) {
    return {};
}
Outcome<void> MemoryBackend::commit(const WriteBatch&) {
    return {};
}

}  // namespace mesh::store
