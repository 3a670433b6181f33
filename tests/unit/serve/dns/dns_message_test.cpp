#include "serve/dns/dns_message.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "messages.hpp"

namespace mesh::serve::dns {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kAnswerFlags;
using testing::Message;

model::IpAddress ip(std::string_view text) {
    return *model::IpAddress::parse(text);
}

std::string why(const Bytes& query) {
    const auto parsed = parse_query(query);
    return parsed ? "" : parsed.error().detail();
}
std::string why_not_answer(const Bytes& answer, const Query& query) {
    const auto parsed = parse_answer(answer, query);
    return parsed ? "" : parsed.error().detail();
}

TEST(ParseQuery, ReadsTheQuestionInLowerCase) {
    const auto query = parse_query(testing::query("ApI.Example-1.com", 28, 0xbeef));
    ASSERT_TRUE(query) << query.error().message();
    EXPECT_EQ(query->id, 0xbeef);
    EXPECT_EQ(query->name, "api.example-1.com");
    EXPECT_EQ(query->type, RecordType::kAaaa);
    EXPECT_EQ(query->class_, 1);
    EXPECT_TRUE(query->recursion_desired);
    EXPECT_FALSE(query->edns);
}

TEST(ParseQuery, ReadsEdns) {
    const auto query =
        parse_query(Message(7, 0x0110, {1, 0, 0, 1}).question("a").opt(true).bytes());
    ASSERT_TRUE(query) << query.error().message();
    EXPECT_TRUE(query->edns);
    EXPECT_TRUE(query->dnssec_ok);
    EXPECT_TRUE(query->checking_disabled);
}

TEST(ParseQuery, TheRootHasAnEmptyName) {
    const auto query = parse_query(testing::query("", 2));
    ASSERT_TRUE(query) << query.error().message();
    EXPECT_EQ(query->name, "");
}

TEST(ParseQuery, ADotInALabelPartsNothing) {
    Message message(7, 0, {1});
    message.byte(3).byte('a').byte('.').byte(0xff).name("com").word(1).word(1);
    const auto query = parse_query(message.bytes());
    ASSERT_TRUE(query) << query.error().message();
    EXPECT_EQ(query->name, "a\\046\\255.com");
}

TEST(ParseQuery, ReadsTheLongestName) {
    const std::string label(63, 'x');
    // 3 × 64 + 62 + 1 = 255 bytes
    const std::string name = label + "." + label + "." + label + "." + std::string(61, 'y');
    const auto query = parse_query(testing::query(name));
    ASSERT_TRUE(query) << query.error().message();
    EXPECT_EQ(query->name, name);
    EXPECT_THAT(why(testing::query(name + "z")), HasSubstr("more than 255 bytes"));
}

TEST(ParseQuery, RefusesWhatServersMayReadInAnotherWay) {
    EXPECT_THAT(why({}), HasSubstr("ends too early"));
    EXPECT_THAT(why(Bytes(11, 0)), HasSubstr("ends too early"));
    EXPECT_THAT(why(Message(1, 0, {0}).bytes()), HasSubstr("not exactly one question"));
    EXPECT_THAT(why(Message(1, 0, {2}).question("a").question("b").bytes()),
                HasSubstr("not exactly one question"));
    EXPECT_THAT(why(Message(1, 0x8000, {1}).question("a").bytes()), HasSubstr("an answer"));
    EXPECT_THAT(why(Message(1, 0x2800, {1}).question("a").bytes()), HasSubstr("opcode"));
    EXPECT_THAT(why(Message(1, 0, {1, 1}).question("a").a("a", 1, 1).bytes()),
                HasSubstr("answers in a query"));
    EXPECT_THAT(why(Message(1, 0, {1}).question("a").byte(0).bytes()),
                HasSubstr("bytes behind the last record"));
    EXPECT_THAT(why(Message(1, 0, {1}).name("a").word(1).bytes()), HasSubstr("ends too early"));
    EXPECT_THAT(why(Message(1, 0, {1, 0, 0, 1}).question("a").bytes()), HasSubstr("ends"));
    EXPECT_THAT(why(Message(1, 0, {1, 0, 0, 2}).question("a").opt().opt().bytes()),
                HasSubstr("OPT"));
    EXPECT_THAT(why(Bytes(70'000, 0)), HasSubstr("longer than 65535"));
}

TEST(ParseQuery, RefusesNamesThatRunInCircles) {
    // To itself, forward, into the header, and a label of a kind nobody knows.
    EXPECT_THAT(why(Message(1, 0, {1}).pointer(12).word(1).word(1).bytes()), HasSubstr("astray"));
    EXPECT_THAT(why(Message(1, 0, {1}).pointer(20).word(1).word(1).name("a").bytes()),
                HasSubstr("astray"));
    EXPECT_THAT(why(Message(1, 0, {1}).pointer(4).word(1).word(1).bytes()), HasSubstr("astray"));
    EXPECT_THAT(why(Message(1, 0, {1}).labels("abc").pointer(12).word(1).word(1).bytes()),
                HasSubstr("astray"));
    EXPECT_THAT(why(Message(1, 0, {1}).byte(0x41).bytes()), HasSubstr("unknown kind"));
    EXPECT_THAT(why(Message(1, 0, {1}).byte(0x80).byte(0).bytes()), HasSubstr("unknown kind"));
    EXPECT_THAT(why(Message(1, 0, {1}).byte(9).byte('a').bytes()), HasSubstr("ends in a name"));
    EXPECT_THAT(why(Message(1, 0, {1}).byte(0xc0).bytes()), HasSubstr("ends in a name"));
}

class ParseAnswer : public ::testing::Test {
  protected:
    Query query_ = *parse_query(testing::query("api.example.com"));
    [[nodiscard]] Answer parse(const Message& message) const {
        auto answer = parse_answer(message.bytes(), query_);
        EXPECT_TRUE(answer) << answer.error().message();
        return answer ? *answer : Answer{};
    }
};

TEST_F(ParseAnswer, TakesTheAddressesOfTheName) {
    Message message(7, kAnswerFlags, {1, 3});
    message.question("API.example.com");
    message.pointer(12).fixed(1, 300, 4).number(0x0a000001);
    message.pointer(12).fixed(1, 200, 4).number(0x0a000002);
    message.pointer(12).fixed(1, 250, 4).number(0x0a000001);
    const Answer answer = parse(message);
    EXPECT_EQ(answer.code, ResponseCode::kNoError);
    EXPECT_THAT(answer.addresses, ElementsAre(ip("10.0.0.1"), ip("10.0.0.2")));
    EXPECT_EQ(answer.ttl, 200U);
}

TEST_F(ParseAnswer, TakesIpv6) {
    Message message(7, kAnswerFlags, {1, 1});
    message.question("api.example.com").pointer(12).fixed(28, 60, 16);
    message.number(0xfd000000).number(0).number(0).number(9);
    EXPECT_THAT(parse(message).addresses, ElementsAre(ip("fd00::9")));
}

TEST_F(ParseAnswer, FollowsAliasesInAnyOrder) {
    Message message(7, kAnswerFlags, {1, 4});
    message.question("api.example.com")
        .a("edge.cdn.net", 300, 0x0a000001)
        .cname("b.example.com", 30, "Edge.CDN.net")
        .cname("api.example.com", 100, "b.example.com")
        .a("other.net", 1, 0x0a000009);
    const Answer answer = parse(message);
    EXPECT_THAT(answer.addresses, ElementsAre(ip("10.0.0.1")));
    EXPECT_EQ(answer.ttl, 30U);
}

TEST_F(ParseAnswer, ReadsACompressedAlias) {
    Message message(7, kAnswerFlags, {1, 2});
    message.question("api.example.com");
    message.pointer(12).fixed(5, 100, 6).labels("www").pointer(16);
    message.labels("www").pointer(16).fixed(1, 50, 4).number(0x0a000003);
    EXPECT_THAT(parse(message).addresses, ElementsAre(ip("10.0.0.3")));
}

TEST_F(ParseAnswer, OfOtherNamesNothingIsTaken) {
    // Beside the answer, before an alias leads away, behind an alias of somebody else, of another
    // class, in other sections.
    Message message(7, kAnswerFlags, {1, 5, 1, 1});
    message.question("api.example.com")
        .a("bank.com", 300, 0x0a000001)
        .cname("api.example.com", 100, "b.example.com")
        .cname("bank.com", 100, "evil.com")
        .a("evil.com", 300, 0x0a000002);
    message.name("b.example.com").fixed(1, 300, 4, 3).number(0x0a000003);
    message.a("b.example.com", 300, 0x0a000004).a("b.example.com", 300, 0x0a000005);
    EXPECT_THAT(parse(message).addresses, IsEmpty());
}

TEST_F(ParseAnswer, AnAliasInACircleEnds) {
    Message message(7, kAnswerFlags, {1, 3});
    message.question("api.example.com")
        .cname("api.example.com", 1, "b.com")
        .cname("b.com", 1, "api.example.com")
        .a("api.example.com", 300, 0x0a000001);
    // The circle closes at the question's own name.
    EXPECT_THAT(parse(message).addresses, ElementsAre(ip("10.0.0.1")));
    Message self(7, kAnswerFlags, {1, 1});
    self.question("api.example.com").cname("api.example.com", 1, "api.example.com");
    EXPECT_THAT(parse(self).addresses, IsEmpty());
}

TEST_F(ParseAnswer, ATtlWithItsHighestBitIsZero) {
    Message message(7, kAnswerFlags, {1, 1});
    message.question("api.example.com").a("api.example.com", 0x80000001, 1);
    EXPECT_EQ(parse(message).ttl, 0U);
}

TEST_F(ParseAnswer, TellsCodeAndTruncation) {
    const Answer refused = parse(Message(7, 0x8385, {1}).question("api.example.com"));
    EXPECT_EQ(refused.code, ResponseCode::kRefused);
    EXPECT_TRUE(refused.truncated);
    EXPECT_EQ(parse(Message(7, 0x8001, {0})).code, ResponseCode::kFormatError);
}

TEST_F(ParseAnswer, RefusesWhatDoesNotAnswerTheQuestion) {
    EXPECT_THAT(why_not_answer(Message(7, 0x0100, {1}).question("api.example.com").bytes(), query_),
                HasSubstr("a query"));
    EXPECT_THAT(why_not_answer(Message(7, kAnswerFlags, {1}).question("x.com").bytes(), query_),
                HasSubstr("another question"));
    EXPECT_THAT(why_not_answer(
                    Message(7, kAnswerFlags, {1}).question("api.example.com", 28).bytes(), query_),
                HasSubstr("another question"));
    EXPECT_THAT(why_not_answer(Message(7, kAnswerFlags, {0}).bytes(), query_),
                HasSubstr("not exactly one question"));
    EXPECT_THAT(
        why_not_answer(Message(7, 0x8183, {0, 1}).a("api.example.com", 1, 1).bytes(), query_),
        HasSubstr("not exactly one question"));
}

TEST_F(ParseAnswer, RefusesMalformedRecords) {
    const auto with = [&] {
        Message message(7, kAnswerFlags, {1, 1});
        message.question("api.example.com");
        return message;
    };
    EXPECT_THAT(why_not_answer(with().bytes(), query_), HasSubstr("ends"));
    EXPECT_THAT(why_not_answer(with().pointer(12).fixed(1, 1, 5).number(1).byte(1).bytes(), query_),
                HasSubstr("not 4 bytes"));
    EXPECT_THAT(why_not_answer(with().pointer(12).fixed(28, 1, 4).number(1).bytes(), query_),
                HasSubstr("not 16 bytes"));
    EXPECT_THAT(why_not_answer(with().pointer(12).fixed(5, 1, 4).name("a").byte(0).bytes(), query_),
                HasSubstr("CNAME's length"));
    EXPECT_THAT(why_not_answer(with().pointer(12).fixed(16, 1, 500).bytes(), query_),
                HasSubstr("ends in a record"));
}

TEST(MakeAnswer, KeepsTheQuestionAsItWasAsked) {
    const Bytes asked = testing::query("ApI.eXample.com", 28, 0x1234);
    const Query query = *parse_query(asked);
    const Bytes refused = make_answer(asked, query, ResponseCode::kRefused);
    EXPECT_EQ(refused, Message(0x1234, 0x8185, {1}).question("ApI.eXample.com", 28).bytes());
    const auto parsed = parse_answer(refused, query);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->code, ResponseCode::kRefused);
}

TEST(MakeAnswer, AnswersEdnsWithTheReason) {
    const Bytes asked = Message(9, 0, {1, 0, 0, 1}).question("a").opt(true).bytes();
    const Bytes answer = make_answer(asked, *parse_query(asked), ResponseCode::kNameError, true);
    Message expected(9, 0x8083, {1, 0, 0, 1});
    expected.question("a").byte(0).word(41).word(1232).number(0x8000).word(6);
    expected.word(15).word(2).word(18);
    EXPECT_EQ(answer, expected.bytes());
}

TEST(MakeFormatError, AnswersQueriesOnly) {
    const Bytes answer = make_format_error(Message(3, 0x2100, {9}).bytes());
    EXPECT_EQ(answer, Message(3, 0xa101, {0}).bytes());
    EXPECT_THAT(make_format_error(Message(3, 0x8000, {9}).bytes()), IsEmpty());
    EXPECT_THAT(make_format_error(Bytes(5, 1)), IsEmpty());
}

TEST(ParseName, TakesTextForms) {
    EXPECT_EQ(*parse_name("."), "");
    EXPECT_EQ(*parse_name("Example.COM."), "example.com");
    EXPECT_EQ(*parse_name("a\\046b.com"), "a\\046b.com");
    EXPECT_EQ(*parse_name("my printer"), "my\\032printer");
    for (const char* bad : {"a..b", ".a", "a\\4.com", "a\\999", "a\\"}) {
        EXPECT_FALSE(parse_name(bad)) << bad;
    }
    EXPECT_FALSE(parse_name(std::string(64, 'a')));
}

// Any damage to a message makes no more than an error of it.
TEST(ParseAnswer2, SurvivesDamage) {
    std::mt19937 random(20261127);
    Message whole(7, kAnswerFlags, {1, 3, 0, 1});
    whole.question("api.example.com");
    whole.pointer(12).fixed(5, 100, 6).labels("www").pointer(16);
    whole.labels("www").pointer(16).fixed(1, 50, 4).number(0x0a000003);
    whole.a("www.example.com", 10, 0x0a000004).opt();
    const Query query = *parse_query(testing::query("api.example.com"));
    std::size_t good = 0;
    for (int round = 0; round < 20'000; ++round) {
        Bytes bytes = whole.bytes();
        for (unsigned i = 0; i < 1 + random() % 3; ++i) {
            bytes[random() % bytes.size()] = static_cast<std::uint8_t>(random());
        }
        bytes.resize(random() % 4 == 0 ? random() % bytes.size() : bytes.size());
        if (const auto answer = parse_answer(bytes, query)) good += !answer->addresses.empty();
        static_cast<void>(parse_query(bytes));
    }
    EXPECT_GT(good, 0U);
}

}  // namespace
}  // namespace mesh::serve::dns
