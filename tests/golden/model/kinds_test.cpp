// Each record of kinds.txt parses, and encodes to itself or to the line after its "->".
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"

namespace mesh::model {
namespace {

struct Record {
    std::string title, key, value, encoded;
};

std::vector<Record> read_records() {
    std::ifstream in(MESH_SOURCE_DIR "/tests/golden/model/kinds.txt");
    std::vector<Record> records;
    std::string line;
    while (std::getline(in, line)) {
        if (line.empty() || line.starts_with('#')) continue;
        Record& record = records.emplace_back();
        record.title = line;
        std::getline(in, record.key);
        std::getline(in, record.value);
        record.encoded = record.value;
        if (std::getline(in, line) && line.starts_with("-> ")) record.encoded = line.substr(3);
    }
    return records;
}

template <class T>
std::string encoded(const Result<T>& parsed) {
    return parsed ? encode(*parsed) : parsed.error().message();
}

std::string again(std::string_view key_text, std::string_view value) {
    const ParsedKey key = parse_key(key_text);
    switch (key.kind) {
        case KeyKind::kClusterConfig:
            return encoded(parse_cluster_config(key.full, value));
        case KeyKind::kNode:
            return encoded(parse_node(key.full, value));
        case KeyKind::kService:
            return encoded(parse_service(key.full, value));
        case KeyKind::kServiceExport:
            return encoded(parse_service_export(key.full, value));
        case KeyKind::kIp:
            return encoded(parse_ip(key.full, value));
        case KeyKind::kIdentity:
            return encoded(parse_identity(key.full, value));
        case KeyKind::kLocalService:
            return encoded(parse_local_service(key.full, value));
        case KeyKind::kSynced:
        case KeyKind::kHeartbeat: {
            const auto seconds = parse_timestamp(key.full, value);
            return seconds ? encode_timestamp(*seconds) : seconds.error().message();
        }
        default:
            return "unknown key";
    }
}

TEST(Kinds, EveryRecordEncodesAsItSays) {
    std::set<std::string> kinds;
    for (const Record& record : read_records()) {
        kinds.insert(record.title.substr(0, record.title.find(' ')));
        EXPECT_EQ(again(record.key, record.value), record.encoded) << record.title;
        // What we write ourselves is stable.
        EXPECT_EQ(again(record.key, record.encoded), record.encoded) << record.title;
    }
    EXPECT_EQ(kinds, (std::set<std::string>{"cluster-config", "node", "service", "ip", "identity",
                                            "export", "synced", "heartbeat", "local-service"}));
}

}  // namespace
}  // namespace mesh::model
