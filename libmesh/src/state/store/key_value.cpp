#include "state/store/key_value.hpp"

#include <algorithm>
#include <limits>
#include <mesh/error.hpp>
#include <new>
#include <stdexcept>

namespace mesh::store {
namespace {

std::size_t allocation_size(std::size_t key, std::size_t value) {
    return sizeof(KeyRecord) + key + value;
}

}  // namespace

static_assert(sizeof(KeyRecord) == 48);

KeyValue KeyValue::make(std::string_view key, std::string_view value, const VersionInfo& info) {
    constexpr std::size_t kMost = std::numeric_limits<std::uint32_t>::max();
    if (key.size() > kMost || value.size() > kMost || info.sub_revision > kMost / 2)
        throw std::length_error("KeyValue::make: key, value or sub revision out of range");
    void* memory = ::operator new(allocation_size(key.size(), value.size()));
    auto* record = new (memory)
        KeyRecord{.references = 1,
                  .key_size = static_cast<std::uint32_t>(key.size()),
                  .value_size = static_cast<std::uint32_t>(value.size()),
                  .sub_revision_and_tombstone = info.sub_revision * 2 + (info.tombstone ? 1U : 0U),
                  .create_revision = info.create_revision,
                  .mod_revision = info.mod_revision,
                  .version = info.version,
                  .lease = info.lease};
    auto* bytes = reinterpret_cast<char*>(record + 1);
    std::copy(value.begin(), value.end(), std::copy(key.begin(), key.end(), bytes));
    return attach(record);
}

KeyValue KeyValue::make_tombstone(std::string_view key, Revision revision,
                                  std::uint32_t sub_revision) {
    return make(key, {},
                {.mod_revision = revision, .sub_revision = sub_revision, .tombstone = true});
}

KeyValue KeyValue::without_value() const {
    return make(key(), {}, info());
}

VersionInfo KeyValue::info() const noexcept {
    return {.create_revision = create_revision(),
            .mod_revision = mod_revision(),
            .version = version(),
            .lease = lease(),
            .sub_revision = sub_revision(),
            .tombstone = tombstone()};
}

std::size_t KeyValue::memory() const noexcept {
    return allocation_size(record_->key_size, record_->value_size);
}

void KeyValue::release() noexcept {
    // The last owner must see what the others did with the record before it frees it.
    if (record_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        record_->~KeyRecord();
        ::operator delete(static_cast<void*>(record_));
    }
    record_ = nullptr;
}

}  // namespace mesh::store
