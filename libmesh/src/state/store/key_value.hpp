// One version of one key, as the store holds it and as everybody else reads it: a counted handle on
// an immutable record that is a single allocation (48 bytes of header, then the key and the value),
// so that a range, an event and the index share the same bytes and 100,000 keys cost little over
// their raw size.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace mesh::store {

/// A position in a store's history; 1 = a new, empty store, as in etcd.
using Revision = std::int64_t;
/// A lease; 0 = none.
enum class LeaseId : std::int64_t {};

[[nodiscard]] constexpr std::int64_t number(LeaseId id) noexcept {
    return static_cast<std::int64_t>(id);
}

/// Everything about a version but its bytes.
struct VersionInfo {
    Revision create_revision = 0;  ///< 0 in a tombstone
    Revision mod_revision = 0;
    std::int64_t version = 0;  ///< 1 = just created; 0 in a tombstone
    LeaseId lease{};
    std::uint32_t sub_revision = 0;  ///< position within mod_revision's transaction; < 2^31
    bool tombstone = false;          ///< the key was deleted at mod_revision
    friend bool operator==(const VersionInfo&, const VersionInfo&) = default;
};

/// The record behind a KeyValue; its key and value bytes follow it in the same allocation.
struct KeyRecord {
    std::atomic<std::uint32_t> references;
    std::uint32_t key_size;
    std::uint32_t value_size;
    std::uint32_t sub_revision_and_tombstone;  ///< sub revision * 2 + tombstone
    Revision create_revision;
    Revision mod_revision;
    std::int64_t version;
    LeaseId lease;
    [[nodiscard]] const char* bytes() const noexcept {
        return reinterpret_cast<const char*>(this + 1);
    }
};

/// Handle on an immutable version of a key; 8 bytes, cheap to copy, may be null (default-made).
/// The string_views live as long as any handle on the same record.
/// @thread any thread for distinct handles; the records are never written after make()
class KeyValue {
  public:
    KeyValue() noexcept = default;
    KeyValue(const KeyValue& other) noexcept : record_(other.record_) {
        if (record_ != nullptr) record_->references.fetch_add(1, std::memory_order_relaxed);
    }
    KeyValue(KeyValue&& other) noexcept : record_(std::exchange(other.record_, nullptr)) {}
    KeyValue& operator=(KeyValue other) noexcept {
        std::swap(record_, other.record_);
        return *this;
    }
    ~KeyValue() {
        if (record_ != nullptr) release();
    }

    /// Copies key and value into a new record. @param key, value each shorter than 4 GiB
    [[nodiscard]] static KeyValue make(std::string_view key, std::string_view value,
                                       const VersionInfo& info);
    /// A record that says that key was deleted at revision.
    [[nodiscard]] static KeyValue make_tombstone(std::string_view key, Revision revision,
                                                 std::uint32_t sub_revision = 0);
    /// The same version with an empty value, for keys-only answers.
    [[nodiscard]] KeyValue without_value() const;

    [[nodiscard]] explicit operator bool() const noexcept { return record_ != nullptr; }

    // The rest needs a handle that is not null.
    [[nodiscard]] std::string_view key() const noexcept {
        return {record_->bytes(), record_->key_size};
    }
    [[nodiscard]] std::string_view value() const noexcept {
        return {record_->bytes() + record_->key_size, record_->value_size};
    }
    [[nodiscard]] Revision create_revision() const noexcept { return record_->create_revision; }
    [[nodiscard]] Revision mod_revision() const noexcept { return record_->mod_revision; }
    [[nodiscard]] std::int64_t version() const noexcept { return record_->version; }
    [[nodiscard]] LeaseId lease() const noexcept { return record_->lease; }
    [[nodiscard]] std::uint32_t sub_revision() const noexcept {
        return record_->sub_revision_and_tombstone >> 1;
    }
    [[nodiscard]] bool tombstone() const noexcept {
        return (record_->sub_revision_and_tombstone & 1) != 0;
    }
    [[nodiscard]] VersionInfo info() const noexcept;
    /// Bytes of memory behind the handle, without the allocator's own.
    [[nodiscard]] std::size_t memory() const noexcept;

    /// Whether both name the same record (not: equal contents).
    [[nodiscard]] bool same_record(const KeyValue& other) const noexcept {
        return record_ == other.record_;
    }

    /// For the index, which packs handles: gives up the reference without dropping it, and back.
    [[nodiscard]] KeyRecord* detach() noexcept { return std::exchange(record_, nullptr); }
    [[nodiscard]] static KeyValue attach(KeyRecord* record) noexcept {
        KeyValue kv;
        kv.record_ = record;
        return kv;
    }

  private:
    void release() noexcept;
    KeyRecord* record_ = nullptr;
};

}  // namespace mesh::store
