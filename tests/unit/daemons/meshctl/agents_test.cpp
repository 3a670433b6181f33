#include "meshctl/agents.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "meshctl/output.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

json::object object(const char* text) {
    return json::parse(text).as_object();
}

AgentStatus agent(const char* text) {
    return {"node1", "/s", object(text), ""};
}

TEST(NotReady, NamesNodeClusterAndCause) {
    EXPECT_THAT(not_ready_reasons({}, {}), ElementsAre("no agents"));
    EXPECT_THAT(not_ready_reasons({agent(R"({"local":{"ready":true},"remotes":[]})")}, {}),
                IsEmpty());
    EXPECT_THAT(
        not_ready_reasons(
            {agent(R"({"local":{"ready":true},"remotes":[{"name":"c2","ready":true}]})")}, {"c2"}),
        IsEmpty());
    EXPECT_THAT(not_ready_reasons({agent(R"({"local":{"ready":true},"remotes":[]})")}, {"c2"}),
                ElementsAre(HasSubstr("c2 is configured but not seen")));
    EXPECT_THAT(
        not_ready_reasons({agent(R"({"local":{"ready":false,"state":"syncing"},"remotes":[
                        {"name":"c2","state":"stale","ready":false,"last_failure":"reset"}]})")},
                          {}),
        ElementsAre("node1: own cluster is syncing", "node1: c2 is stale, last failure: reset"));
    EXPECT_THAT(not_ready_reasons({{"node2", "/s", std::nullopt, "nobody listens"}}, {}),
                ElementsAre("node2: nobody listens"));
    EXPECT_THAT(not_ready_reasons({agent(R"({"local":{"ready":true},"remotes":[],"ready":false,
                    "config_errors":[{"file":"c3","error":"c3:1: endpoints: expected a list"}]})")},
                                  {}),
                ElementsAre("node1: c3:1: endpoints: expected a list"));
    EXPECT_THAT(not_ready_reasons({agent(R"({"local":{"ready":true},"ready":false})")}, {}),
                ElementsAre("node1: not ready"));
    EXPECT_THAT(not_ready_reasons({agent(R"({"local":{"ready":true},"ready":false,"datapath":{
                    "last_error":"cannot write settings",
                    "route_failures":["route 10.1.0.0/16: no such device", 7]}})")},
                                  {}),
                ElementsAre("node1: datapath: cannot write settings",
                            "node1: route 10.1.0.0/16: no such device"));
    // What an agent of another version says must not pass for ready, nor end the program.
    EXPECT_FALSE(not_ready_reasons({agent(R"({"local":[],"remotes":{}})")}, {}).empty());
    EXPECT_FALSE(not_ready_reasons({agent(R"({"local":{"ready":"yes"}})")}, {}).empty());
}

TEST(CapacityWarnings, EveryTableThatIsFullIsNamedWithItsFlag) {
    EXPECT_THAT(capacity_warnings({{"node2", "/s", std::nullopt, "nobody listens"}}), IsEmpty());
    EXPECT_THAT(capacity_warnings({agent(R"({"pods":null,"datapath":{"rejected":[]}})")}),
                IsEmpty());
    EXPECT_THAT(capacity_warnings({agent(R"({"pods":{"ipcache_refused":0,"nodes_refused":0}})")}),
                IsEmpty());
    EXPECT_THAT(
        capacity_warnings({agent(R"({"pods":{"ipcache_refused":7,"max_ipcache":64,
            "nodes_refused":2,"max_nodes":4},"datapath":{"max_services":9,"max_backends":8,
            "rejected":[{}],"truncated":[{"left_out":3},{"left_out":2}]}})")}),
        ElementsAre(
            "node1: ipcache found no room for 7 entries, it has room for 64 (--ipcache-entries)",
            "node1: nodes found no room for 2 entries, it has room for 4 (--node-entries)",
            "node1: services found no room for 1 entries, it has room for 9 (--service-entries)",
            "node1: backends found no room for 5 entries, it has room for 8 (--backend-entries)"));
}

TEST(MergeService, BackendIsUsedOnlyIfEveryNodeUsesIt) {
    const char* one = R"({"namespace":"n","name":"s","frontends":[{"address":"10.0.0.1","port":80,
        "protocol":"TCP","backends":[
        {"address":"1.1.1.1","port":8,"cluster":"a","selected":true,"reason":"active"},
        {"address":"1.1.1.2","port":8,"cluster":"b","selected":true,"reason":"active"},
        {"address":"1.1.1.3","port":8,"cluster":"b","selected":true,"reason":"active"}]}]})";
    const char* two = R"({"namespace":"n","name":"s","frontends":[{"address":"10.0.0.1","port":80,
        "protocol":"TCP","backends":[
        {"address":"1.1.1.1","port":8,"cluster":"a","selected":true,"reason":"active"},
        {"address":"1.1.1.2","port":8,"cluster":"b","selected":false,"reason":"terminating"},
        {"address":"1.1.1.4","port":8,"cluster":"b","selected":true,"reason":"active"}]}]})";
    const json::object merged = merge_service({{"node1", object(one)}, {"node2", object(two)}});
    const json::array& backends = merged.at("frontends").as_array().at(0).at("backends").as_array();
    ASSERT_EQ(backends.size(), 4U);
    EXPECT_EQ(backends[0].at("selected"), true);
    EXPECT_EQ(backends[1].at("selected"), false);
    EXPECT_EQ(backends[1].at("reason"), "terminating (on node2)");
    EXPECT_EQ(backends[2].at("reason"), "not known on node2");
    EXPECT_EQ(backends[3].at("reason"), "known on node2 only");
    EXPECT_EQ(merge_service({{"node1", object(one)}}), object(one));
    EXPECT_EQ(merge_service({{"node1", object(one)}, {"node2", object("{}")}})
                  .at("frontends")
                  .at_pointer("/0/backends/0/selected"),
              false);
}

TEST(MergeService, NodePortsAreOfTheirNode) {
    const char* const one = R"({"frontends":[
        {"address":"192.0.2.1","port":30001,"protocol":"TCP","node_port":true,"backends":[
            {"address":"10.1.0.1","port":80,"cluster":"a","selected":true}]}]})";
    const char* const two = R"({"frontends":[
        {"address":"192.0.2.2","port":30001,"protocol":"TCP","node_port":true,"backends":[]}]})";
    const json::object merged = merge_service({{"node1", object(one)}, {"node2", object(two)}});
    const json::array& frontends = merged.at("frontends").as_array();
    ASSERT_EQ(frontends.size(), 2U);
    EXPECT_EQ(frontends[0], object(one).at("frontends").as_array()[0]);
    EXPECT_EQ(frontends[1].as_object().at("address"), "192.0.2.2");
}

TEST(Table, ColumnsAreAligned) {
    Table table({"A", "LONGER"});
    table.add({"wide cell", "x"});
    table.add({"\xc3\xa9", ""});
    EXPECT_EQ(table.text(), "A          LONGER\nwide cell  x\n\xc3\xa9          -\n");
}

TEST(Table, ColumnWithoutAnyCellIsDropped) {
    Table table({"A", "B", "C"});
    table.add({"1", "", "3"});
    table.add({"1", "", ""});
    table.drop_empty_columns();
    EXPECT_EQ(table.text(), "A  C\n1  3\n1  -\n");
}

TEST(ExitCodes, TellUsageFromFailure) {
    EXPECT_EQ(exit_code_of(invalid_argument("x")), 2);
    EXPECT_EQ(exit_code_of(not_found("x")), 1);
}

}  // namespace
}  // namespace mesh::ctl
