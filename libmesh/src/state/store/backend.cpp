#include "state/store/backend.hpp"

namespace mesh::store {

bool WriteBatch::empty() const noexcept {
    return records.empty() && erased.empty() && leases.empty() && erased_leases.empty() &&
           !revision && !compact_revision;
}

void WriteBatch::clear() noexcept {
    records.clear();
    erased.clear();
    leases.clear();
    erased_leases.clear();
    revision.reset();
    compact_revision.reset();
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
