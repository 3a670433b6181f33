#include "serve/dns/dns_message.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace mesh::serve::dns {

namespace {

constexpr std::size_t kMaxName = 255;  // on the wire, lengths and the root's included
constexpr std::size_t kMaxLabel = 63;
constexpr std::size_t kMaxMessage = 65535;
constexpr std::uint16_t kClassInternet = 1;
constexpr std::size_t kMaxAliases = 32;      // followed; resolvers follow fewer
constexpr std::size_t kMaxAddresses = 1000;  // taken of one answer

// Flags of the header's second word.
constexpr std::uint16_t kResponse = 0x8000;
constexpr std::uint16_t kOpcode = 0x7800;
constexpr std::uint16_t kTruncated = 0x0200;
constexpr std::uint16_t kRecursionDesired = 0x0100;
constexpr std::uint16_t kRecursionAvailable = 0x0080;
constexpr std::uint16_t kCheckingDisabled = 0x0010;
constexpr std::uint16_t kCode = 0x000f;

constexpr std::uint16_t kDnssecOk = 0x8000;
constexpr std::uint16_t kOurPayload = 1232;  // DNS flag day 2020
constexpr std::uint16_t kExtendedError = 15;
constexpr std::uint16_t kProhibited = 18;

struct TypeName {
    std::uint16_t number;
    std::string_view name;
};
constexpr std::array kTypeNames{
    TypeName{1, "A"},       TypeName{2, "NS"},     TypeName{5, "CNAME"},  TypeName{6, "SOA"},
    TypeName{12, "PTR"},    TypeName{15, "MX"},    TypeName{16, "TXT"},   TypeName{28, "AAAA"},
    TypeName{33, "SRV"},    TypeName{35, "NAPTR"}, TypeName{41, "OPT"},   TypeName{43, "DS"},
    TypeName{48, "DNSKEY"}, TypeName{64, "SVCB"},  TypeName{65, "HTTPS"}, TypeName{251, "IXFR"},
    TypeName{252, "AXFR"},  TypeName{255, "ANY"},  TypeName{257, "CAA"},
};

constexpr char lower(std::uint8_t c) noexcept {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}
constexpr bool is_plain(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

void append_byte(std::string& out, std::uint8_t byte) {
    const char c = lower(byte);
    if (is_plain(c)) {
        out += c;
        return;
    }
    out += '\\';
    out += static_cast<char>('0' + byte / 100);
    out += static_cast<char>('0' + byte / 10 % 10);
    out += static_cast<char>('0' + byte % 10);
}

struct Record {
    std::string owner;
    RecordType type = RecordType::kA;
    std::uint16_t class_ = 0;
    std::uint32_t ttl = 0;
    std::size_t data = 0;  ///< offset
    std::size_t size = 0;
};

struct Header {
    std::uint16_t id = 0, flags = 0, questions = 0, answers = 0, authorities = 0, additionals = 0;
};

/// Reads from the left to the right; false once something is missing or malformed, and then why.
class Reader {
  public:
    explicit Reader(BytesView message) : message_(message) {}

    [[nodiscard]] bool word(std::uint16_t& out) {
        if (left() < 2) return fail("ends too early");
        out = static_cast<std::uint16_t>(message_[at_] << 8 | message_[at_ + 1]);
        at_ += 2;
        return true;
    }
    [[nodiscard]] bool header(Header& out) {
        if (message_.size() > kMaxMessage) return fail("longer than 65535 bytes");
        return word(out.id) && word(out.flags) && word(out.questions) && word(out.answers) &&
               word(out.authorities) && word(out.additionals);
    }

    /// Reads a name, following pointers. A pointer must lead before the place where the name, or
    /// what was read of it last, began: so there are no loops and no more than 255 bytes of work.
    [[nodiscard]] bool name(std::string& out) {
        out.clear();
        std::size_t from = at_, at = at_, wire = 0;
        bool jumped = false;
        for (;;) {
            if (at >= message_.size()) return fail("ends in a name");
            const std::uint8_t length = message_[at];
            if ((length & 0xc0) == 0xc0) {
                if (at + 1 >= message_.size()) return fail("ends in a name");
                const std::size_t target = (length & 0x3fU) << 8 | message_[at + 1];
                if (!jumped) at_ = at + 2;
                jumped = true;
                if (target >= from || target < kHeaderBytes) return fail("a pointer leads astray");
                from = at = target;
                continue;
            }
            if (length > kMaxLabel) return fail("a label of an unknown kind");
            wire += length + 1U;
            if (wire > kMaxName) return fail("a name of more than 255 bytes");
            if (length == 0) break;
            if (message_.size() - at <= length) return fail("ends in a name");
            if (!out.empty()) out += '.';
            for (std::size_t i = 1; i <= length; ++i) append_byte(out, message_[at + i]);
            at += length + 1U;
        }
        if (!jumped) at_ = at + 1;
        return true;
    }

    /// Leaves the place behind the record.
    [[nodiscard]] bool record(Record& out) {
        std::uint16_t type = 0, high = 0, low = 0, size = 0;
        if (!name(out.owner) || !word(type) || !word(out.class_) || !word(high) || !word(low) ||
            !word(size)) {
            return false;
        }
        if (left() < size) return fail("ends in a record");
        out.type = static_cast<RecordType>(type);
        out.ttl = std::uint32_t{high} << 16 | low;
        // RFC 2181 §8: a TTL with its highest bit set is 0.
        if (out.type != RecordType::kOpt && out.ttl > 0x7fffffff) out.ttl = 0;
        out.data = at_;
        out.size = size;
        at_ += size;
        return true;
    }

    /// The name that is all of a record's data.
    [[nodiscard]] bool name_in(const Record& record, std::string& out) {
        const std::size_t back = at_;
        at_ = record.data;
        const bool read = name(out);
        const bool whole = at_ == record.data + record.size;
        at_ = back;
        return read && (whole || fail("a CNAME's length is not that of its name"));
    }

    [[nodiscard]] std::size_t at() const noexcept { return at_; }
    [[nodiscard]] std::size_t left() const noexcept { return message_.size() - at_; }
    bool fail(std::string_view what) {
        if (why_.empty()) why_ = what;
        return false;
    }
    [[nodiscard]] Error error(std::string_view kind) const {
        return invalid_argument(
            fmt::format("DNS {}: {} (at byte {} of {})", kind, why_, at_, message_.size()));
    }

  private:
    BytesView message_;
    std::size_t at_ = 0;
    std::string why_;
};

bool read_question(Reader& reader, std::string& name, RecordType& type, std::uint16_t& class_) {
    std::uint16_t number = 0;
    if (!reader.name(name) || !reader.word(number) || !reader.word(class_)) return false;
    type = static_cast<RecordType>(number);
    return true;
}

bool read_query(Reader& reader, Query& out) {
    Header header;
    if (!reader.header(header)) return false;
    if ((header.flags & kResponse) != 0) return reader.fail("an answer, not a query");
    if ((header.flags & kOpcode) != 0) return reader.fail("its opcode is not QUERY");
    if (header.questions != 1) return reader.fail("not exactly one question");
    if (header.answers != 0) return reader.fail("answers in a query");
    out.id = header.id;
    out.recursion_desired = (header.flags & kRecursionDesired) != 0;
    out.checking_disabled = (header.flags & kCheckingDisabled) != 0;
    if (!read_question(reader, out.name, out.type, out.class_)) return false;
    out.question_end = reader.at();
    Record record;
    const std::uint32_t records = std::uint32_t{header.authorities} + header.additionals;
    for (std::uint32_t i = 0; i < records; ++i) {
        if (!reader.record(record)) return false;
        if (record.type != RecordType::kOpt || i < header.authorities) continue;
        if (out.edns || !record.owner.empty()) return reader.fail("a wrong OPT record");
        out.edns = true;
        out.dnssec_ok = (record.ttl & kDnssecOk) != 0;
    }
    return reader.left() == 0 || reader.fail("bytes behind the last record");
}

/// The records of an answer's first section that can lead from a name to addresses.
struct Section {
    struct Alias {
        std::string owner, target;
        std::uint32_t ttl = 0;
    };
    struct Address {
        std::string owner;
        model::IpAddress address;
        std::uint32_t ttl = 0;
    };
    std::vector<Alias> aliases;
    std::vector<Address> addresses;
};

bool read_section(Reader& reader, std::uint16_t records, BytesView message, Section& out) {
    Record record;
    for (std::uint16_t i = 0; i < records; ++i) {
        if (!reader.record(record)) return false;
        if (record.class_ != kClassInternet) continue;
        if (record.type == RecordType::kCname) {
            Section::Alias alias{record.owner, {}, record.ttl};
            if (!reader.name_in(record, alias.target)) return false;
            out.aliases.push_back(std::move(alias));
        } else if (record.type == RecordType::kA) {
            if (record.size != 4) return reader.fail("an A record that has not 4 bytes");
            const auto* a = &message[record.data];
            out.addresses.push_back(
                {record.owner, model::IpAddress::v4(a[0], a[1], a[2], a[3]), record.ttl});
        } else if (record.type == RecordType::kAaaa) {
            if (record.size != 16) return reader.fail("an AAAA record that has not 16 bytes");
            model::IpAddress::Bytes bytes;
            std::copy_n(&message[record.data], bytes.size(), bytes.begin());
            out.addresses.push_back({record.owner, model::IpAddress(bytes), record.ttl});
        }
    }
    return true;
}

/// Follows the aliases from the question's name; their order in the message does not count, and a
/// circle ends where it closes.
void collect_addresses(Section& section, std::string name, Answer& out) {
    std::uint32_t ttl = 0x7fffffff;
    for (std::size_t followed = 0; followed < kMaxAliases; ++followed) {
        const auto alias = std::ranges::find(section.aliases, name, &Section::Alias::owner);
        if (alias == section.aliases.end()) break;
        ttl = std::min(ttl, alias->ttl);
        name = std::move(alias->target);
        alias->owner = "\\";  // no name: each is followed once
    }
    for (const Section::Address& one : section.addresses) {
        if (one.owner != name || out.addresses.size() == kMaxAddresses) continue;
        ttl = std::min(ttl, one.ttl);
        if (std::ranges::find(out.addresses, one.address) == out.addresses.end()) {
            out.addresses.push_back(one.address);
        }
    }
    out.ttl = out.addresses.empty() ? 0 : ttl;
}

bool read_answer(Reader& reader, BytesView message, const Query& query, Answer& out) {
    Header header;
    if (!reader.header(header)) return false;
    if ((header.flags & kResponse) == 0) return reader.fail("a query, not an answer");
    if ((header.flags & kOpcode) != 0) return reader.fail("its opcode is not QUERY");
    out.code = static_cast<ResponseCode>(header.flags & kCode);
    out.truncated = (header.flags & kTruncated) != 0;
    // Servers answer what they do not understand with a bare header.
    if (header.questions == 0 && header.answers == 0 && out.code != ResponseCode::kNoError) {
        return true;
    }
    if (header.questions != 1) return reader.fail("not exactly one question");
    std::string name;
    RecordType type{};
    std::uint16_t class_ = 0;
    if (!read_question(reader, name, type, class_)) return false;
    if (name != query.name || type != query.type || class_ != query.class_) {
        return reader.fail("the answer to another question");
    }
    if (class_ != kClassInternet) return true;
    Section section;
    if (!read_section(reader, header.answers, message, section)) return false;
    collect_addresses(section, std::move(name), out);
    return true;
}

void append_word(Bytes& out, std::uint16_t value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8));
    out.push_back(static_cast<std::uint8_t>(value));
}

}  // namespace

std::string to_string(RecordType type) {
    const auto number = static_cast<std::uint16_t>(type);
    const auto known = std::ranges::find(kTypeNames, number, &TypeName::number);
    if (known != kTypeNames.end()) return std::string(known->name);
    return fmt::format("TYPE{}", number);
}

std::string to_string(ResponseCode code) {
    static constexpr std::array<std::string_view, 6> kNames{"NOERROR",  "FORMERR", "SERVFAIL",
                                                            "NXDOMAIN", "NOTIMP",  "REFUSED"};
    const auto number = static_cast<std::size_t>(code);
    if (number < kNames.size()) return std::string(kNames[number]);
    return fmt::format("RCODE{}", number);
}

std::uint16_t id_of(BytesView message) noexcept {
    return static_cast<std::uint16_t>(message[0] << 8 | message[1]);
}
void set_id(std::span<std::uint8_t> message, std::uint16_t id) noexcept {
    message[0] = static_cast<std::uint8_t>(id >> 8);
    message[1] = static_cast<std::uint8_t>(id);
}

Result<Query> parse_query(BytesView message) {
    Reader reader(message);
    Query query;
    if (!read_query(reader, query)) return reader.error("query");
    return query;
}

Result<Answer> parse_answer(BytesView message, const Query& query) {
    Reader reader(message);
    Answer answer;
    if (!read_answer(reader, message, query, answer)) return reader.error("answer");
    return answer;
}

Bytes make_answer(BytesView query_message, const Query& query, ResponseCode code, bool prohibited) {
    Bytes out;
    std::uint16_t flags = kResponse | kRecursionAvailable | static_cast<std::uint16_t>(code);
    if (query.recursion_desired) flags |= kRecursionDesired;
    if (query.checking_disabled) flags |= kCheckingDisabled;
    append_word(out, query.id);
    append_word(out, flags);
    for (const int count : {1, 0, 0, query.edns ? 1 : 0}) {
        append_word(out, static_cast<std::uint16_t>(count));
    }
    const auto question = query_message.subspan(kHeaderBytes, query.question_end - kHeaderBytes);
    out.insert(out.end(), question.begin(), question.end());
    if (!query.edns) return out;
    out.push_back(0);
    append_word(out, static_cast<std::uint16_t>(RecordType::kOpt));
    append_word(out, kOurPayload);
    append_word(out, 0);
    append_word(out, query.dnssec_ok ? kDnssecOk : 0);
    append_word(out, prohibited ? 6 : 0);
    if (prohibited) {
        for (const std::uint16_t word : {kExtendedError, std::uint16_t{2}, kProhibited}) {
            append_word(out, word);
        }
    }
    return out;
}

Bytes make_format_error(BytesView message) {
    if (message.size() < kHeaderBytes || (message[2] & 0x80) != 0) return {};
    Bytes out(kHeaderBytes, 0);
    out[0] = message[0];
    out[1] = message[1];
    out[2] = static_cast<std::uint8_t>(0x80 | (message[2] & 0x79));  // opcode and RD as they came
    out[3] = static_cast<std::uint8_t>(ResponseCode::kFormatError);
    return out;
}

Result<std::string> parse_name(std::string_view text) {
    const auto wrong = [&](std::string_view what) {
        return invalid_argument(fmt::format("DNS name \"{}\": {}", text.substr(0, 300), what));
    };
    std::string out;
    if (text == ".") return out;
    std::string_view rest = text;
    if (rest.ends_with('.') && !rest.ends_with("\\.")) rest.remove_suffix(1);
    std::size_t label = 0, wire = 1;
    for (std::size_t i = 0; i < rest.size(); ++i) {
        if (rest[i] == '.') {
            if (label == 0) return wrong("an empty label");
            out += '.';
            ++wire;
            label = 0;
            continue;
        }
        auto byte = static_cast<std::uint8_t>(rest[i]);
        if (rest[i] == '\\') {
            const std::string_view digits = rest.substr(i + 1, 3);
            if (digits.size() != 3 ||
                !std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; })) {
                return wrong("expected three digits behind '\\'");
            }
            const int number = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0');
            if (number > 255) return wrong("expected a number below 256 behind '\\'");
            byte = static_cast<std::uint8_t>(number);
            i += 3;
        }
        append_byte(out, byte);
        ++wire;
        if (++label > kMaxLabel) return wrong("a label of more than 63 bytes");
    }
    if (!rest.empty() && label == 0) return wrong("an empty label");
    if (!rest.empty()) ++wire;
    if (wire > kMaxName) return wrong("more than 255 bytes");
    return out;
}

}  // namespace mesh::serve::dns
