#include "model/utf8.hpp"

#include <gtest/gtest.h>

namespace mesh::model {
namespace {

TEST(Printable, KeepsTextThatIsFitToBeShown) {
    EXPECT_EQ(printable("", 4), "");
    EXPECT_EQ(printable("c1/n\u00e9\u20ac\U0001f600 ~", 64), "c1/n\u00e9\u20ac\U0001f600 ~");
    EXPECT_EQ(printable("\u00a0", 4), "\u00a0");
}

TEST(Printable, ReplacesWhatIsIllFormedAndControlCharacters) {
    EXPECT_EQ(printable("a\xff\xc3", 64), "a\ufffd\ufffd");
    EXPECT_EQ(printable("\xe2\x82", 64), "\ufffd\ufffd") << "a sequence without its end";
    EXPECT_EQ(printable("\xed\xa0\x80", 64), "\ufffd\ufffd\ufffd") << "a surrogate";
    EXPECT_EQ(printable(std::string_view("\0\n\x1b\x7f", 4), 64), "????");
    EXPECT_EQ(printable("\u0080\u0085\u009b", 64), "???") << "terminals obey these, too";
}

TEST(Printable, CutsBetweenTwoCharacters) {
    EXPECT_EQ(printable("abcd", 4), "abcd");
    EXPECT_EQ(printable("abcde", 4), "abcd...");
    EXPECT_EQ(printable("abc\u00e9", 4), "abc...");
    EXPECT_EQ(printable("abc\u00e9", 5), "abc\u00e9");
    EXPECT_EQ(printable("ab\xff", 4), "ab...") << "the limit is of the result";
    EXPECT_EQ(printable("a", 0), "...");
}

TEST(Printable, HasNothingMoreToDoOnItsOwnResult) {
    for (const std::string_view text : {"a\xff\n\u00e9z", "\u0085\xf0\x9f", "plain"}) {
        const std::string once = printable(text, 64);
        EXPECT_EQ(printable(once, 64), once);
    }
}

}  // namespace
}  // namespace mesh::model
