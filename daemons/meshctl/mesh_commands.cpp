// meshctl ca, clustermesh, status, service.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <map>
#include <optional>

#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/documents.hpp"
#include "meshctl/targets.hpp"
#include "pki/files.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxCertificate = std::size_t{64} << 10;

std::string count_of(const json::object& member, std::string_view kind) {
    const json::value* objects = member.if_contains("objects");
    return objects != nullptr && objects->is_object() ? text_of(objects->get_object(), kind) : "";
}

std::string seconds_of(const json::object& member, std::string_view key) {
    const json::value* value = member.if_contains(key);
    if (value == nullptr || value->is_null()) return "";
    boost::system::error_code error;
    const double seconds = value->to_number<double>(error);
    return error ? "" : fmt::format("{:.1f}s", seconds);
}

std::int64_t refused_count(const json::object& member) {
    std::int64_t count = 0;
    if (const json::value* refused = member.if_contains("refused");
        refused != nullptr && refused->is_array()) {
        for (const json::value& item : refused->get_array()) {
            if (item.is_object()) count += integer_of(item.get_object(), "count");
        }
    }
    return count;
}

std::vector<std::string> member_row(const std::string& node, const std::string& name,
                                    const json::object& member) {
    return {node,
            name,
            text_of(member, "state"),
            count_of(member, "nodes"),
            count_of(member, "services"),
            count_of(member, "ips"),
            text_of(member, "revision"),
            text_of(member, "lag_revisions"),
            seconds_of(member, "last_proof_of_life_seconds"),
            text_of(member, "failures"),
            std::to_string(refused_count(member)),
            text_of(member, "endpoint")};
}

Table member_table() {
    return Table({"NODE", "CLUSTER", "STATE", "NODES", "SERVICES", "IPS", "REVISION", "LAG", "SEEN",
                  "FAILURES", "REFUSED", "ENDPOINT"});
}

std::vector<const json::object*> remotes_of(const AgentStatus& agent) {
    std::vector<const json::object*> remotes;
    if (!agent.status) return remotes;
    if (const json::value* list = agent.status->if_contains("remotes");
        list != nullptr && list->is_array()) {
        for (const json::value& item : list->get_array()) {
            if (item.is_object()) remotes.push_back(&item.get_object());
        }
    }
    return remotes;
}

// "bpf", with what went wrong there lately.
std::string datapath_of(const json::object& status) {
    const json::value* datapath = status.if_contains("datapath");
    if (datapath == nullptr || !datapath->is_object()) return text_of(status, "datapath");
    const std::string error = text_of(datapath->get_object(), "last_error");
    const std::string kind = text_of(datapath->get_object(), "kind");
    return error.empty() ? kind : fmt::format("{}, last error: {}", kind, error);
}

// Nodes and backends that do not answer probes, or have not yet, and how many do.
void print_health(const std::vector<AgentStatus>& agents) {
    Table table({"NODE", "PROBED", "CLUSTER", "HEALTH", "SINCE", "LAST ERROR"});
    std::string counts;
    for (const AgentStatus& agent : agents) {
        if (!agent.status) continue;
        const json::value* found = agent.status->if_contains("health");
        if (found == nullptr || !found->is_object()) continue;
        const json::object& health = found->get_object();
        std::size_t answering = 0, all = 0;
        const auto add = [&](std::string_view list, std::string_view kind) {
            const json::value* rows = health.if_contains(list);
            if (rows == nullptr || !rows->is_array()) return;
            for (const json::value& item : rows->get_array()) {
                if (!item.is_object()) continue;
                const json::object& row = item.get_object();
                const bool healthy = text_of(row, "state") == "healthy";
                if (list == "nodes") {
                    ++all;
                    answering += healthy ? 1 : 0;
                }
                if (healthy) continue;
                const std::string port =
                    list == "nodes" ? "" : fmt::format(" port {}", integer_of(row, "port"));
                table.add({agent.node, fmt::format("{} {}{}", kind, text_of(row, "address"), port),
                           text_of(row, "cluster"), text_of(row, "state"),
                           seconds_of(row, "since_seconds"), text_of(row, "last_error")});
            }
        };
        add("nodes", "node");
        add("other_backends", "backend");
        counts += fmt::format("{}{}: {}/{} nodes", counts.empty() ? "" : ", ", agent.node,
                              answering, all);
        if (const std::string error = text_of(health, "error"); !error.empty()) {
            table.add({agent.node, "itself", "", "no port", "", error});
        }
    }
    if (counts.empty()) return;
    fmt::print("\nanswer probes, of nodes with backends: {}\n", counts);
    if (table.empty()) return;
    table.drop_empty_columns();
    table.print();
}

void print_status(const std::vector<AgentStatus>& agents) {
    Table nodes({"NODE", "AGENT", "DATAPATH", "OWN CLUSTER", "REMOTES READY"});
    Table members = member_table();
    for (const AgentStatus& agent : agents) {
        if (!agent.status) {
            nodes.add({agent.node, "unreachable", "", "", ""});
            continue;
        }
        std::string own;
        if (const json::value* local = agent.status->if_contains("local");
            local != nullptr && local->is_object()) {
            own = text_of(local->get_object(), "state");
            members.add(member_row(agent.node, text_of(*agent.status, "cluster") + " (own)",
                                   local->get_object()));
        }
        const auto remotes = remotes_of(agent);
        const auto ready = std::count_if(remotes.begin(), remotes.end(), [](const auto* remote) {
            return flag_of(*remote, "ready");
        });
        for (const json::object* remote : remotes) {
            members.add(member_row(agent.node, text_of(*remote, "name"), *remote));
        }
        nodes.add({agent.node, "running", datapath_of(*agent.status), own,
                   fmt::format("{}/{}", ready, remotes.size())});
    }
    nodes.print();
    if (!members.empty()) {
        fmt::print("\n");
        members.drop_empty_columns();
        members.print();
    }
    print_health(agents);
}

json::object status_document(const Agents& agents, const std::vector<AgentStatus>& answers,
                             const std::vector<std::string>& reasons) {
    json::array nodes, why, warnings;
    for (const AgentStatus& agent : answers) {
        json::object entry{{"node", agent.node}, {"socket", agent.socket}};
        if (agent.status) {
            entry["status"] = *agent.status;
        } else {
            entry["error"] = agent.error;
        }
        nodes.push_back(std::move(entry));
    }
    for (const std::string& reason : reasons) why.emplace_back(reason);
    for (const std::string& warning : capacity_warnings(answers)) warnings.emplace_back(warning);
    return {{"cluster", agents.cluster},
            {"ready", reasons.empty()},
            {"not_ready", why},
            {"warnings", warnings},
            {"nodes", nodes}};
}

void add_ca(CLI::App& app, Context& context) {
    CLI::App* ca = app.add_subcommand("ca", "The certificate authority that clusters share");
    ca->require_subcommand(1);
    auto folder = std::make_shared<std::string>("mesh-ca");
    auto name = std::make_shared<std::string>("mesh CA");
    CLI::App* init = ca->add_subcommand("init", "Make ca.crt and ca.key (0600) in a folder");
    init->add_option("--dir", *folder, "Folder, made if missing (default mesh-ca)");
    init->add_option("--name", *name, "Common name (default \"mesh CA\")");
    add_output_flag(*init, context);
    init->footer(
        "Examples:\n"
        "  meshctl ca init --dir ./mesh-ca\n"
        "  meshctl sandbox create ... --inherit-ca ./mesh-ca");
    on_chosen(init, context, [=, &context]() -> Result<void> {
        MESH_CHECK(sandbox::init_ca(context.environment(), *folder, *name));
        context.say(fmt::format("{0}/ca.crt and {0}/ca.key written", *folder));
        if (!context.json()) return {};
        MESH_TRY(const std::string pem, pki::read_file(*folder + "/ca.crt", kMaxCertificate));
        MESH_TRY(const pki::CertificateInfo certificate, pki::inspect(pem));
        context.answer(authority_document(*folder, certificate));
        return {};
    });
}

void add_connect(CLI::App& parent, Context& context) {
    for (const bool connecting : {true, false}) {
        auto cluster = std::make_shared<std::string>();
        auto other = std::make_shared<std::string>();
        auto one_way = std::make_shared<bool>(false);
        CLI::App* command = parent.add_subcommand(
            connecting ? "connect" : "disconnect",
            connecting ? "Give two clusters each other's small secret: address, name, certificates"
                       : "Take it away: each forgets the other");
        command->add_option("--cluster", *cluster, "One cluster")->required();
        command->add_option(connecting ? "--to" : "--from", *other, "The other")->required();
        command->add_flag("--one-way", *one_way, "Only --cluster follows the other");
        add_output_flag(*command, context);
        command->footer(
            fmt::format("Agents act on it within a second, without a restart.\n"
                        "Examples:\n  meshctl clustermesh {} --cluster cluster1 {} cluster2",
                        connecting ? "connect" : "disconnect", connecting ? "--to" : "--from"));
        on_chosen(command, context, [=, &context]() -> Result<void> {
            const auto act = connecting ? sandbox::connect : sandbox::disconnect;
            const sandbox::Environment environment = context.environment();
            auto first = act(environment, *cluster, *other);
            // One that is gone already must not keep the other direction.
            if (!first && (connecting || *one_way || first.error().code() != Errc::kNotFound)) {
                return first;
            }
            if (!*one_way) {
                auto second = act(environment, *other, *cluster);
                if (!second && (connecting || second.error().code() != Errc::kNotFound)) {
                    return second;
                }
                if (!first && !second) return first;
            }
            context.say(fmt::format(
                "{} {} {}", *cluster,
                connecting ? (*one_way ? "->" : "<->") : "no longer connected to", *other));
            std::vector<std::pair<std::string, std::string>> directions{{*cluster, *other}};
            if (!*one_way) directions.emplace_back(*other, *cluster);
            context.answer(connections_document(directions, connecting));
            return {};
        });
    }
}

void add_mesh_status(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto wait = std::make_shared<bool>(false);
    auto timeout = std::make_shared<int>(60);
    CLI::App* command = parent.add_subcommand(
        "status", "The remote clusters as each node sees them; exit code 3 if one is not ready");
    add_target(command, *target);
    command->add_flag("--wait", *wait, "Until all are ready");
    command->add_option("--timeout", *timeout, "Seconds to wait (default 60)")
        ->check(CLI::Range(0, 86'400));
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl clustermesh status --cluster cluster1 --wait");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        std::vector<std::string> reasons;
        const auto answers =
            wait_ready(context, agents, *wait, std::chrono::seconds(*timeout), reasons);
        if (context.json()) {
            json::array remotes;
            for (const AgentStatus& agent : answers) {
                for (const json::object* remote : remotes_of(agent)) {
                    json::object entry = *remote;
                    entry["node"] = agent.node;
                    remotes.push_back(std::move(entry));
                }
            }
            json::object document = status_document(agents, answers, reasons);
            document.erase("nodes");
            document["remotes"] = std::move(remotes);
            print_json(document);
        } else {
            Table table = member_table();
            for (const AgentStatus& agent : answers) {
                for (const json::object* remote : remotes_of(agent)) {
                    table.add(member_row(agent.node, text_of(*remote, "name"), *remote));
                }
            }
            const bool any_answer = std::ranges::any_of(
                answers, [](const AgentStatus& agent) { return agent.status.has_value(); });
            if (!table.empty()) {
                table.drop_empty_columns();
                table.print();
            } else if (any_answer) {
                fmt::print("no remote clusters\n");
            }
            for (const std::string& reason : reasons) fmt::print("not ready: {}\n", reason);
        }
        if (!reasons.empty()) context.exit_code = kExitNotReady;
        return {};
    });
}

void add_status(CLI::App& app, Context& context) {
    auto target = std::make_shared<Target>();
    auto wait = std::make_shared<bool>(false);
    auto timeout = std::make_shared<int>(60);
    CLI::App* command = app.add_subcommand(
        "status", "A cluster's agents: own cluster, remotes, freshness; exit code 3 if not ready");
    add_target(command, *target);
    command->add_flag("--wait", *wait, "Until the own cluster and all remotes are ready");
    command->add_option("--timeout", *timeout, "Seconds to wait (default 60)")
        ->check(CLI::Range(0, 86'400));
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl status --cluster cluster1 --wait --timeout 30\n"
        "  meshctl status --socket /run/libmesh/mesh-agent.sock -o json");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        std::vector<std::string> reasons;
        const auto answers =
            wait_ready(context, agents, *wait, std::chrono::seconds(*timeout), reasons);
        if (context.json()) {
            print_json(status_document(agents, answers, reasons));
        } else {
            print_status(answers);
            for (const std::string& reason : reasons) fmt::print("not ready: {}\n", reason);
            for (const std::string& warning : capacity_warnings(answers)) {
                fmt::print("warning: {}\n", warning);
            }
        }
        if (!reasons.empty()) context.exit_code = kExitNotReady;
        return {};
    });
}

// "10.0.0.1:80", "[fd00::1]:80".
std::string endpoint_text(const json::object& object) {
    const std::string address = text_of(object, "address");
    const std::string host =
        address.find(':') == std::string::npos ? address : fmt::format("[{}]", address);
    return fmt::format("{}:{}", host, integer_of(object, "port"));
}

std::string frontend_text(const json::object& frontend) {
    return fmt::format("{}/{}", endpoint_text(frontend), text_of(frontend, "protocol"));
}

template <class On>
void for_each_object(const json::object& parent, std::string_view key, On&& on) {
    if (const json::value* list = parent.if_contains(key); list != nullptr && list->is_array()) {
        for (const json::value& item : list->get_array()) {
            if (item.is_object()) on(item.get_object());
        }
    }
}

/// On standard error: an answer goes without this one.
void note_missing(const Error& error) {
    fmt::print(stderr, "meshctl: left out: {}\n", error.detail());
}

/// "shop/echo", of "echo" "default/echo".
Result<std::string> full_name(const std::string& name) {
    const std::string full = name.find('/') == std::string::npos ? "default/" + name : name;
    const std::size_t slash = full.find('/');
    if (slash == 0 || slash + 1 == full.size() || full.find('/', slash + 1) != std::string::npos) {
        return invalid_argument(
            fmt::format("service \"{}\": expected NAMESPACE/NAME, or NAME", name));
    }
    return full;
}

void add_service_list(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    CLI::App* command =
        parent.add_subcommand("list", "All services and how many backends they use");
    add_target(command, *target);
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl service list --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        // Every node follows the same clusters; one is enough for a list.
        auto answer = ask(agents.sockets.front(), "/v1/services");
        for (std::size_t i = 1; !answer && i < agents.sockets.size(); ++i) {
            note_missing(answer.error());
            answer = ask(agents.sockets[i], "/v1/services");
        }
        if (!answer) return answer.error();
        const json::value& document = *answer;
        if (!document.is_array()) return Error(Errc::kCorrupt, "/v1/services: expected a list");
        if (context.json()) {
            print_json(document);
            return {};
        }
        Table table({"NAMESPACE", "NAME", "GLOBAL", "SHARED", "AFFINITY", "FRONTEND", "BACKENDS"});
        for (const json::value& item : document.get_array()) {
            if (!item.is_object()) continue;
            const json::object& service = item.get_object();
            const auto row = [&](const std::string& frontend, const std::string& backends) {
                table.add({text_of(service, "namespace"), text_of(service, "name"),
                           flag_of(service, "global") ? "yes" : "no",
                           flag_of(service, "shared") ? "yes" : "no", text_of(service, "affinity"),
                           frontend, backends});
            };
            bool any = false;
            for_each_object(service, "frontends", [&](const json::object& frontend) {
                any = true;
                std::map<std::string, int> counts;
                for_each_object(frontend, "backends", [&](const json::object& backend) {
                    counts[text_of(backend, "cluster")] += flag_of(backend, "selected") ? 1 : 0;
                });
                std::string text;
                for (const auto& [cluster, count] : counts) {
                    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", cluster, count);
                }
                row(frontend_text(frontend), text.empty() ? "none" : text);
            });
            if (!any) row("", "");
        }
        table.print();
        return {};
    });
}

void print_service(const json::object& service) {
    fmt::print("{}/{}  global: {}  shared: {}  affinity: {}\n", text_of(service, "namespace"),
               text_of(service, "name"), flag_of(service, "global") ? "yes" : "no",
               flag_of(service, "shared") ? "yes" : "no", text_of(service, "affinity"));
    Table table({"FRONTEND", "BACKEND", "CLUSTER", "STATE", "USED", "WHY"});
    for_each_object(service, "frontends", [&](const json::object& frontend) {
        bool any = false;
        for_each_object(frontend, "backends", [&](const json::object& backend) {
            any = true;
            table.add({frontend_text(frontend), endpoint_text(backend), text_of(backend, "cluster"),
                       text_of(backend, "state"), flag_of(backend, "selected") ? "yes" : "no",
                       text_of(backend, "reason")});
        });
        if (!any) table.add({frontend_text(frontend), "none", "", "", "", ""});
    });
    table.print();
    if (const json::value* notes = service.if_contains("notes");
        notes != nullptr && notes->is_array()) {
        for (const json::value& note : notes->get_array()) {
            if (note.is_string()) fmt::print("note: {}\n", std::string(note.get_string()));
        }
    }
}

void add_service_get(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto name = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand(
        "get", "One service: which backends, of which cluster, used or not, and why");
    command->add_option("service", *name, "NAMESPACE/NAME, or NAME in namespace default")
        ->required();
    add_target(command, *target);
    add_output_flag(*command, context);
    command->footer(
        "A backend counts as used when every node asked uses it.\n"
        "Examples:\n  meshctl service get shop/echo --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string full, full_name(*name));
        MESH_TRY(const Agents agents, find_agents(context, *target));
        std::optional<Error> failure;
        std::vector<std::pair<std::string, json::object>> by_node;
        for (const AgentSocket& agent : agents.sockets) {
            auto document = ask(agent, "/v1/services/" + full);
            if (!document) {
                if (document.error().code() == Errc::kNotFound) {
                    return not_found(fmt::format("no service {} on {}", full,
                                                 agent.node.empty() ? agent.path : agent.node));
                }
                failure = document.error();
                note_missing(*failure);
                continue;
            }
            if (document->is_object()) by_node.emplace_back(agent.node, document->get_object());
        }
        if (by_node.empty() && failure) return *failure;
        if (by_node.empty()) return Error(Errc::kCorrupt, "expected a service's document");
        const json::object merged = merge_service(by_node);
        if (context.json()) {
            print_json(merged);
        } else {
            print_service(merged);
        }
        return {};
    });
}

}  // namespace

void add_mesh_commands(CLI::App& app, Context& context) {
    CLI::App* clustermesh = app.add_subcommand(
        "clustermesh", "Which clusters follow which, and how fresh their view is");
    clustermesh->require_subcommand(1);
    add_connect(*clustermesh, context);
    add_mesh_status(*clustermesh, context);
    add_status(app, context);
    CLI::App* service = app.add_subcommand("service", "Services with the backends of all clusters");
    service->require_subcommand(1);
    add_service_list(*service, context);
    add_service_get(*service, context);
    add_ca(app, context);
}

}  // namespace mesh::ctl
