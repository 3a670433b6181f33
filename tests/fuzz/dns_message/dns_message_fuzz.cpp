// Any bytes as a query and the answer to it (a byte tells the query's length): no crash, no
// unbounded work, names in the one form that rules are written for, and our own answers are ones.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "serve/dns/dns_message.hpp"
#include "serve/dns/dns_rules.hpp"

namespace {

using namespace mesh::serve::dns;

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken promise: %s\n", what);
    std::abort();
}

void check_name(const std::string& name) {
    const auto again = parse_name(name.empty() ? "." : name);
    require(again && *again == name, "a name is its own text");
    require(matches_pattern("*", name), "a lone star selects every name");
    require(matches_pattern(name, name) || name.empty(), "a name selects itself");
}

void check_own(const Query& query, BytesView message, ResponseCode code) {
    const Bytes own = make_answer(message, query, code, true);
    const auto answer = parse_answer(own, query);
    require(answer && answer->code == code, "our answer answers the question");
    require(answer->addresses.empty(), "our answer gives no address");
    require(id_of(own) == query.id, "our answer has the query's id");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const BytesView all(data + 1, size - 1);
    const std::size_t length = std::min<std::size_t>(data[0], all.size());
    const BytesView asked = all.first(length), answered = all.subspan(length);
    const Bytes error = make_format_error(asked);
    require(error.empty() || error.size() == kHeaderBytes, "a format error is a header");
    const auto query = parse_query(asked);
    if (!query) return 0;
    check_name(query->name);
    check_own(*query, asked, ResponseCode::kRefused);
    check_own(*query, asked, ResponseCode::kNameError);
    const auto answer = parse_answer(answered, *query);
    if (!answer) return 0;
    require(answer->ttl <= 0x7fffffff, "a TTL has 31 bits");
    require(answer->addresses.size() <= answered.size() / 15, "each address has a record");
    return 0;
}
