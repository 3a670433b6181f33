// The access file: what is taken, Cilium's own form of it, and one clear message for each mistake.
#include "sources/config/access_file.hpp"

#include <gtest/gtest.h>

namespace mesh::sources::config {
namespace {

std::string mistake(std::string_view text) {
    const auto parsed = parse_access_file(text, "access.yaml");
    EXPECT_FALSE(parsed) << text;
    return parsed ? "" : parsed.error().detail();
}

TEST(AccessFile, CiliumsFileOfUsers) {
    const auto parsed = parse_access_file(
        "users:\n- name: remote-cluster2\n  role: remote\n"
        "- name: remote-cluster3\n  role: remote\n",
        "users.yaml");
    ASSERT_TRUE(parsed) << parsed.error().message();
    ASSERT_EQ(parsed->users.size(), 2U);
    EXPECT_EQ(parsed->users[1], (AccessUser{AccessUser::By::kName, {"remote-cluster3"}, "remote"}));
    EXPECT_TRUE(parsed->roles.empty());
    // As its chart writes it for a mesh of one.
    const auto none = parse_access_file("users:\n", "users.yaml");
    ASSERT_TRUE(none) << none.error().message();
    EXPECT_TRUE(none->users.empty());
}

TEST(AccessFile, AllFields) {
    const auto parsed = parse_access_file(R"(
users:
- {name: "remote-*", role: remote}
- {dns: "*", role: none}
- {uri: "spiffe://mesh/{cluster}/*", role: operator}
- {uri: "spiffe://mesh/{cluster}/*", role: operator}
roles:
  operator:
    listeners: [local]
    read: ["*"]
    write: [cilium/cache/*, "cilium/cluster-config/{cluster}"]
    transactions: yes
    status: true
    maintenance: false
    limits: {streams: 3, watches: 0, requests-per-second: 20, request-burst: 40, waiting-requests: 7,
             bytes-in-per-second: 1000, bytes-out-per-second: 2Mi}
    limits-per-name: {streams: 9}
  remote: {}
)",
                                          "access.yaml");
    ASSERT_TRUE(parsed) << parsed.error().message();
    ASSERT_EQ(parsed->users.size(), 3U) << "a user that comes twice with its role is one";
    EXPECT_EQ(parsed->users[0].pattern, (AccessPattern{"remote-", true}));
    EXPECT_EQ(parsed->users[1], (AccessUser{AccessUser::By::kDns, {"", true}, "none"}));
    EXPECT_EQ(parsed->users[2].pattern, (AccessPattern{"spiffe://mesh/{cluster}/", true}));
    ASSERT_EQ(parsed->roles.size(), 2U);
    const AccessRole& role = parsed->roles[0];
    EXPECT_EQ(role.listeners, std::vector<std::string>{"local"});
    EXPECT_EQ(role.read, (std::vector<AccessPattern>{{"", true}}));
    ASSERT_EQ(role.write->size(), 2U);
    EXPECT_EQ((*role.write)[1], (AccessPattern{"cilium/cluster-config/{cluster}", false}));
    EXPECT_EQ(role.transactions, true);
    EXPECT_EQ(role.status, true);
    EXPECT_EQ(role.maintenance, false);
    EXPECT_EQ(role.limits, (AccessLimits{3, 0, 20, 40, 7, 1000, 2 << 20}));
    EXPECT_EQ(role.limits_per_name, (AccessLimits{.streams = 9}));
    EXPECT_EQ(parsed->roles[1], (AccessRole{.name = "remote"}));
}

TEST(AccessFile, MistakesNameFileLineAndField) {
    EXPECT_EQ(mistake("users:\n- name: a\n  role: reader\n"),
              "access.yaml: line 3: users[0].role: expected one of the roles admin, local, none, "
              "remote, got \"reader\"");
    EXPECT_EQ(mistake("users:\n- name: a*b\n  role: remote\n"),
              "access.yaml: line 2: users[0].name: expected \"*\" only at the end, got \"a*b\"");
    EXPECT_EQ(mistake("users:\n- role: remote\n"),
              "access.yaml: line 2: users[0]: expected exactly one of name, dns, uri, got a map");
    EXPECT_EQ(mistake("users:\n- name: a\n  uri: b\n  role: remote\n"),
              "access.yaml: line 2: users[0]: expected exactly one of name, dns, uri, got a map");
    EXPECT_EQ(mistake("users:\n- name: a\n  role: remote\n- name: a\n  role: local\n"),
              "access.yaml: line 4: users[1]: expected no second role for \"a\", which has role "
              "remote, got a map");
    EXPECT_EQ(mistake("users:\n- nam: a\n  role: remote\n"),
              "access.yaml: line 2: users[0].nam: expected no such field, but one of name, dns, "
              "uri, role, got \"a\"");
    EXPECT_EQ(mistake("users: []\nroles:\n  r:\n    read: [\"{name}/x\"]\n"),
              "access.yaml: line 4: roles.r.read[0]: expected {cluster} as the only braces, got "
              "\"{name}/x\"");
    EXPECT_EQ(mistake("users: []\nroles:\n  r:\n    listeners: [both]\n"),
              "access.yaml: line 4: roles.r.listeners[0]: expected one of remote, local, got "
              "\"both\"");
    EXPECT_EQ(mistake("users: []\nroles:\n  none: {read: [\"*\"]}\n"),
              "access.yaml: line 3: roles.none: expected another name: \"none\" is the role that "
              "may do nothing, got a map");
    EXPECT_EQ(mistake("users: []\nroles:\n  r:\n    limits: {streams: many}\n"),
              "access.yaml: line 4: roles.r.limits.streams: expected an integer 0 to 10^12 (0 = no "
              "limit), got \"many\"");
    for (const char* amount : {"-1", "1.5", "2000000000000", "1Ti", "10000Gi", "\"5\"", "x", "[]"})
        EXPECT_NE(mistake("users: []\nroles:\n  r:\n    limits: {bytes-in-per-second: " +
                          std::string(amount) + "}\n")
                      .find("roles.r.limits.bytes-in-per-second: expected a number of bytes"),
                  std::string::npos)
            << amount;
    EXPECT_EQ(mistake("roles: {}\n"),
              "access.yaml: line 1: document: expected a list \"users\", be it empty, got a map");
}

TEST(AccessFile, WhatIsNoDocumentOfUsers) {
    // Also a file that somebody has just begun to write.
    EXPECT_NE(mistake("").find("access.yaml: expected one document"), std::string::npos);
    EXPECT_NE(mistake("# soon\n").find("expected one document"), std::string::npos);
    EXPECT_NE(mistake("users: []\n---\nusers: []\n").find("got 2 documents"), std::string::npos);
    EXPECT_NE(mistake("users: {").find("access.yaml: document 1: line 1"), std::string::npos);
    EXPECT_NE(mistake("- a\n").find("expected a map"), std::string::npos);
    EXPECT_NE(mistake("users: a\n").find("users: expected a list"), std::string::npos);
    EXPECT_NE(mistake("users: []\nusers: []\n").find("stands twice"), std::string::npos);
    EXPECT_NE(mistake("\x01\xff").find("access.yaml"), std::string::npos);
}

}  // namespace
}  // namespace mesh::sources::config
