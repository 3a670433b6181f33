#include "etcdctl_watch.hpp"

#include <sys/wait.h>

#include <boost/json/parse.hpp>
#include <fstream>

#include "model/base64.hpp"

namespace json = boost::json;

namespace mesh::soak {

namespace {

// etcdctl prints Go's JSON of the messages: absent fields are zero, bytes are base64.
std::int64_t number(const json::object& from, std::string_view name) {
    const json::value* value = from.if_contains(name);
    return value == nullptr ? 0 : value->to_number<std::int64_t>();
}

std::string bytes(const json::object& from, std::string_view name) {
    const json::value* value = from.if_contains(name);
    std::string out;
    if (value != nullptr && value->is_string() &&
        !model::decode_base64(std::string_view(value->as_string()), out))
        return {};
    return out;
}

Change to_change(const json::object& event) {
    const json::object& kv = event.at("kv").as_object();
    Change change;
    change.key = bytes(kv, "key");
    change.revision = number(kv, "mod_revision");
    change.put = number(event, "type") == 0;
    if (change.put) {
        change.create = number(kv, "create_revision");
        change.version = number(kv, "version");
        digest(change, bytes(kv, "value"), number(kv, "lease"));
    } else {
        digest(change, {}, 0);
    }
    if (const json::value* prev = event.if_contains("prev_kv"); prev && prev->is_object())
        change.previous = number(prev->as_object(), "mod_revision");
    return change;
}

}  // namespace

EtcdctlWatch::EtcdctlWatch(Checker& checker, std::vector<std::string> command, std::string output,
                           Report& report)
    : checker_(checker),
      command_(std::move(command)),
      output_(std::move(output)),
      report_(report) {}

void EtcdctlWatch::start(std::int64_t after) {
    std::vector<std::string> command = command_;
    command.push_back("--rev=" + std::to_string(after + 1));
    file_ = output_ + "." + std::to_string(++runs_);
    read_ = 0;
    process_ = test::ChildProcess(command, file_, {{"ETCDCTL_API", "3"}});
    running_ = true;
}

bool EtcdctlWatch::ended() {
    // Its exit code is left for the object that waits for it.
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(process_.pid()), &info, WEXITED | WNOHANG | WNOWAIT) != 0)
        return true;
    return info.si_pid != 0;
}

void EtcdctlWatch::poll(std::int64_t now) {
    if (running_) {
        const bool over = ended();
        read();
        if (!over) return;
        process_.stop(SIGKILL);
        running_ = false;
        report_.count("etcdctl ended");
    }
    if (compacted_) {
        checker_.begin_after(now);
        compacted_ = false;
    }
    start(checker_.position());
}

void EtcdctlWatch::read() {
    std::ifstream in(file_, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(read_));
    std::string line;
    while (std::getline(in, line) && !in.eof()) {
        read_ += line.size() + 1;
        take(line);
    }
}

void EtcdctlWatch::take(const std::string& line) {
    boost::system::error_code bad;
    const json::value parsed = json::parse(line, bad);
    if (bad || !parsed.is_object()) {
        // Its log, or the error that it ends with.
        if (line.find("compacted") != std::string::npos) compacted_ = true;
        return;
    }
    const json::object& response = parsed.as_object();
    if (number(response, "CompactRevision") != 0) compacted_ = true;
    const json::value* events = response.if_contains("Events");
    if (events == nullptr || !events->is_array()) return;
    std::vector<Change> changes;
    for (const json::value& event : events->as_array())
        changes.push_back(to_change(event.as_object()));
    report_.count("events of etcdctl", changes.size());
    checker_.on_events(changes);
}

}  // namespace mesh::soak
