#include "sources/etcd/views.hpp"

#include <string>

namespace mesh::etcd::detail {

namespace {

/// Protobuf's wire format, field by field.
class Fields {
  public:
    explicit Fields(std::string_view bytes) noexcept : rest_(bytes) {}

    /// @return false at the end, and when the bytes make no sense (then ok() is false)
    bool next() noexcept {
        if (rest_.empty() || !ok_) return false;
        std::uint64_t tag = 0;
        if (!read(tag)) return false;
        number_ = tag >> 3U;
        value_ = 0;
        bytes_ = {};
        switch (tag & 7U) {
            case 0:
                return read(value_) && valid();
            case 1:
                return take(8) && valid();
            case 2: {
                std::uint64_t length = 0;
                return read(length) && take(length) && valid();
            }
            case 5:
                return take(4) && valid();
            default:
                return fail();
        }
    }
    [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
    [[nodiscard]] std::int64_t integer() const noexcept {
        return static_cast<std::int64_t>(value_);
    }
    [[nodiscard]] std::uint64_t value() const noexcept { return value_; }
    [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }
    [[nodiscard]] bool ok() const noexcept { return ok_; }

  private:
    bool fail() noexcept {
        ok_ = false;
        return false;
    }
    bool valid() noexcept { return number_ != 0 || fail(); }
    bool read(std::uint64_t& value) noexcept {
        value = 0;
        for (unsigned shift = 0; shift < 70 && !rest_.empty(); shift += 7) {
            const auto byte = static_cast<unsigned char>(rest_.front());
            rest_.remove_prefix(1);
            if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
            if ((byte & 0x80U) == 0) return true;
        }
        return fail();
    }
    bool take(std::uint64_t length) noexcept {
        if (length > rest_.size()) return fail();
        bytes_ = rest_.substr(0, static_cast<std::size_t>(length));
        rest_.remove_prefix(static_cast<std::size_t>(length));
        return true;
    }

    std::string_view rest_;
    std::uint64_t number_ = 0;
    std::uint64_t value_ = 0;
    std::string_view bytes_;
    bool ok_ = true;
};

bool parse_header(std::string_view bytes, Header& out) {
    Fields f(bytes);
    while (f.next()) {
        switch (f.number()) {
            case 1:
                out.cluster_id = f.value();
                break;
            case 2:
                out.member_id = f.value();
                break;
            case 3:
                out.revision = f.integer();
                break;
            case 4:
                out.raft_term = f.value();
                break;
            default:
                break;
        }
    }
    return f.ok();
}

bool parse_kv(std::string_view bytes, KeyValueView& out) {
    Fields f(bytes);
    while (f.next()) {
        switch (f.number()) {
            case 1:
                out.key = f.bytes();
                break;
            case 2:
                out.create_revision = f.integer();
                break;
            case 3:
                out.mod_revision = f.integer();
                break;
            case 4:
                out.version = f.integer();
                break;
            case 5:
                out.value = f.bytes();
                break;
            case 6:
                out.lease = f.integer();
                break;
            default:
                break;
        }
    }
    return f.ok();
}

bool parse_event(std::string_view bytes, WatchEvent& out) {
    Fields f(bytes);
    bool ok = true;
    while (ok && f.next()) {
        switch (f.number()) {
            case 1:
                out.kind = f.value() == 1 ? WatchEvent::Kind::kDelete : WatchEvent::Kind::kPut;
                break;
            case 2:
                ok = parse_kv(f.bytes(), out.kv);
                break;
            case 3:
                ok = parse_kv(f.bytes(), out.prev_kv);
                break;
            default:
                break;
        }
    }
    return ok && f.ok();
}

}  // namespace

Result<void> parse_range(std::string_view bytes, RangeView& out, std::size_t max_kvs) {
    Fields f(bytes);
    bool ok = true;
    while (ok && f.next()) {
        switch (f.number()) {
            case 1:
                out.has_header = true;
                ok = parse_header(f.bytes(), out.header);
                break;
            case 2:
                if (out.kvs.size() >= max_kvs) {
                    return Error(Errc::kCorrupt, "the answer has more than the " +
                                                     std::to_string(max_kvs) +
                                                     " keys that were asked for");
                }
                ok = parse_kv(f.bytes(), out.kvs.emplace_back());
                break;
            case 3:
                out.more = f.value() != 0;
                break;
            case 4:
                out.count = f.integer();
                break;
            default:
                break;
        }
    }
    if (!ok || !f.ok()) return Error(Errc::kCorrupt, "the answer is no valid RangeResponse");
    return {};
}

Result<void> parse_watch(std::string_view bytes, WatchView& out, std::size_t max_events) {
    Fields f(bytes);
    bool ok = true;
    while (ok && f.next()) {
        switch (f.number()) {
            case 1:
                out.has_header = true;
                ok = parse_header(f.bytes(), out.header);
                break;
            case 2:
                out.watch_id = f.integer();
                break;
            case 3:
                out.created = f.value() != 0;
                break;
            case 4:
                out.canceled = f.value() != 0;
                break;
            case 5:
                out.compact_revision = f.integer();
                break;
            case 6:
                out.cancel_reason = f.bytes();
                break;
            case 7:
                out.fragment = f.value() != 0;
                break;
            case 11:
                if (out.events.size() >= max_events) {
                    return Error(Errc::kCorrupt, "the answer has more than " +
                                                     std::to_string(max_events) + " events");
                }
                ok = parse_event(f.bytes(), out.events.emplace_back());
                break;
            default:
                break;
        }
    }
    if (!ok || !f.ok()) return Error(Errc::kCorrupt, "the answer is no valid WatchResponse");
    return {};
}

}  // namespace mesh::etcd::detail
