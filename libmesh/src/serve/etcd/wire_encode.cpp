#include "serve/etcd/wire_encode.hpp"

#include <cstring>

// Field numbers as in model/etcdpb/etcd.proto. Zero and empty fields are left out, as proto3 does.

namespace mesh::serve {
namespace {

constexpr std::uint32_t kVarint = 0;
constexpr std::uint32_t kBytes = 2;

std::size_t varint_size(std::uint64_t value) {
    std::size_t size = 1;
    for (; value >= 0x80; value >>= 7) ++size;
    return size;
}
// All field numbers here are below 16: a tag is one byte.
std::size_t field_size(std::uint64_t value) {
    return value == 0 ? 0 : 1 + varint_size(value);
}
std::size_t bytes_size(std::size_t length) {
    return length == 0 ? 0 : 1 + varint_size(length) + length;
}
std::size_t message_size(std::size_t length) {
    return 1 + varint_size(length) + length;
}

std::uint64_t bits(std::int64_t value) {
    return static_cast<std::uint64_t>(value);
}

class Writer {
  public:
    explicit Writer(char* to) : at_(to) {}
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) *at_++ = static_cast<char>(value | 0x80);
        *at_++ = static_cast<char>(value);
    }
    void tag(std::uint32_t number, std::uint32_t type) {
        *at_++ = static_cast<char>(number << 3 | type);
    }
    void field(std::uint32_t number, std::uint64_t value) {
        if (value == 0) return;
        tag(number, kVarint);
        varint(value);
    }
    void raw(std::string_view data) {
        if (data.empty()) return;
        std::memcpy(at_, data.data(), data.size());
        at_ += data.size();
    }
    void bytes(std::uint32_t number, std::string_view data) {
        if (data.empty()) return;
        message(number, data.size());
        raw(data);
    }
    void message(std::uint32_t number, std::size_t length) {
        tag(number, kBytes);
        varint(length);
    }

  private:
    char* at_;
};

std::size_t size_of(const WireHeader& header) {
    return field_size(header.cluster_id) + field_size(header.member_id) +
           field_size(bits(header.revision)) + field_size(header.raft_term);
}
void write(Writer& out, std::uint32_t number, const WireHeader& header) {
    out.message(number, size_of(header));
    out.field(1, header.cluster_id);
    out.field(2, header.member_id);
    out.field(3, bits(header.revision));
    out.field(4, header.raft_term);
}

std::size_t size_of(const store::KeyValue& kv) {
    return bytes_size(kv.key().size()) + field_size(bits(kv.create_revision())) +
           field_size(bits(kv.mod_revision())) + field_size(bits(kv.version())) +
           bytes_size(kv.value().size()) + field_size(bits(number(kv.lease())));
}
void write(Writer& out, std::uint32_t number_of_field, std::size_t size,
           const store::KeyValue& kv) {
    out.message(number_of_field, size);
    out.bytes(1, kv.key());
    out.field(2, bits(kv.create_revision()));
    out.field(3, bits(kv.mod_revision()));
    out.field(4, bits(kv.version()));
    out.bytes(5, kv.value());
    out.field(6, bits(number(kv.lease())));
}

/// What follows the header of a RangeResponse.
std::size_t size_of(const store::RangeAnswer& answer) {
    std::size_t size = field_size(answer.more ? 1 : 0) + field_size(bits(answer.count));
    for (const store::KeyValue& kv : answer.kvs) size += message_size(size_of(kv));
    return size;
}
void write(Writer& out, const store::RangeAnswer& answer) {
    for (const store::KeyValue& kv : answer.kvs) write(out, 2, size_of(kv), kv);
    out.field(3, answer.more ? 1 : 0);
    out.field(4, bits(answer.count));
}

}  // namespace

rpc::Frame encode_range(const WireHeader& header, const store::RangeAnswer& answer) {
    return rpc::Frame::make(message_size(size_of(header)) + size_of(answer), [&](char* to) {
        Writer out(to);
        write(out, 1, header);
        write(out, answer);
    });
}

std::string encode_range_body(const store::RangeAnswer& answer) {
    const std::size_t size = size_of(answer);
    if (size > rpc::kLongestMessage) return {};
    std::string body(size, '\0');
    Writer out(body.data());
    write(out, answer);
    return body;
}

rpc::Frame share_range(const WireHeader& header, const std::shared_ptr<const std::string>& body) {
    if (body->empty()) return {};
    return rpc::Frame::make(
        message_size(size_of(header)),
        [&](char* to) {
            Writer out(to);
            write(out, 1, header);
        },
        std::shared_ptr<const char>(body, body->data()), body->size());
}

void append_event(std::string& out, const store::Event& event, bool with_prev) {
    const bool prev = with_prev && event.prev;
    const std::size_t kv_size = size_of(event.kv);
    const std::size_t prev_size = prev ? size_of(event.prev) : 0;
    const std::uint64_t type = event.kv.tombstone() ? 1 : 0;
    const std::size_t size =
        field_size(type) + message_size(kv_size) + (prev ? message_size(prev_size) : 0);
    const std::size_t begin = out.size();
    out.resize(begin + message_size(size));
    Writer writer(out.data() + begin);
    writer.message(11, size);
    writer.field(1, type);
    write(writer, 2, kv_size, event.kv);
    if (prev) write(writer, 3, prev_size, event.prev);
}

namespace {

/// All of a WatchResponse but its events, which come last.
struct WatchHead {
    const WireHeader& header;
    std::int64_t watch_id;
    bool fragment;
    [[nodiscard]] std::size_t size() const {
        return message_size(size_of(header)) + field_size(bits(watch_id)) +
               field_size(fragment ? 1 : 0);
    }
    void write_to(Writer& out) const {
        write(out, 1, header);
        out.field(2, bits(watch_id));
        out.field(7, fragment ? 1 : 0);
    }
};

}  // namespace

rpc::Frame encode_watch_events(const WireHeader& header, std::int64_t watch_id,
                               std::string_view events, bool fragment) {
    const WatchHead head{header, watch_id, fragment};
    return rpc::Frame::make(head.size() + events.size(), [&](char* to) {
        Writer out(to);
        head.write_to(out);
        out.raw(events);
    });
}

rpc::Frame share_watch_events(const WireHeader& header, std::int64_t watch_id,
                              const std::shared_ptr<const void>& owner, std::string_view events,
                              bool fragment) {
    const WatchHead head{header, watch_id, fragment};
    return rpc::Frame::make(
        head.size(),
        [&](char* to) {
            Writer out(to);
            head.write_to(out);
        },
        std::shared_ptr<const char>(owner, events.data()), events.size());
}

}  // namespace mesh::serve
