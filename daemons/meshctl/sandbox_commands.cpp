// meshctl sandbox ...
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include "meshctl/commands.hpp"
#include "meshctl/documents.hpp"
#include "pki/files.hpp"
#include "sandbox/process.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxManifest = std::size_t{4} << 20;
constexpr const char* kClusterwidePolicy = "CiliumClusterwideNetworkPolicy";

Result<std::string> read_input(const std::string& file) {
    if (file != "-") return pki::read_file(file, kMaxManifest);
    return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

template <class List>
std::string joined(const List& list) {
    std::string out;
    for (const auto& item : list) out += (out.empty() ? "" : ",") + item.to_string();
    return out;
}

CLI::Option* add_cluster(CLI::App* command, std::string& target) {
    return command->add_option("--cluster", target, "Name of the sandbox")->type_name("NAME");
}

void add_create(CLI::App& parent, Context& context) {
    auto options = std::make_shared<sandbox::CreateOptions>();
    auto etcd = std::make_shared<std::string>("embedded");
    auto no_daemons = std::make_shared<bool>(false);
    CLI::App* command = parent.add_subcommand("create", "Make a cluster on this machine");
    command->add_option("--name", options->name, "Name of the cluster")->required();
    command->add_option("--cluster-id", options->cluster_id, "Its own in the mesh, from 1")
        ->required();
    command->add_option("--max-connected-clusters", options->max_clusters,
                        "255 (default) or 511, equal in all clusters of the mesh");
    command
        ->add_option("--pod-cidr", options->pod_cidr,
                     "IPv4 block of its pods; for two families 10.10.0.0/16,fd00:10::/48")
        ->required();
    command->add_option("--service-cidr", options->service_cidr, "Block of its cluster IPs")
        ->required();
    command->add_option("--nodes", options->nodes, "Number of nodes (default 1)");
    command->add_option("--inherit-ca", options->inherit_ca,
                        "Another sandbox's name, or a folder with ca.crt and ca.key: clusters of "
                        "one CA can be connected");
    command->add_option("--etcd", *etcd, "real: etcd processes; embedded: mesh-proxy's own store")
        ->check(CLI::IsMember({"real", "embedded"}));
    command
        ->add_option("--routing", options->routing,
                     "How pods reach pods of other nodes. tunnel: VXLAN; native: routes")
        ->check(CLI::IsMember({"tunnel", "native"}))
        ->capture_default_str();
    command
        ->add_option("--encryption", options->encryption,
                     "What encrypts packets of pods between nodes: wireguard, or none")
        ->capture_default_str();
    command->add_flag("--encryption-strict", options->encryption_strict,
                      "Drop what would go between nodes with keys in plain");
    command->add_flag("--no-daemons", *no_daemons, "Nodes and pods only");
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl sandbox create --name cluster1 --cluster-id 1 --pod-cidr 10.10.0.0/16 "
        "--service-cidr 10.11.0.0/16 --nodes 2\n"
        "  meshctl sandbox create --name cluster2 --cluster-id 2 --pod-cidr 10.20.0.0/16 "
        "--service-cidr 10.21.0.0/16 --inherit-ca cluster1 --etcd real");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        options->real_etcd = *etcd == "real";
        options->daemons = !*no_daemons;
        MESH_CHECK(sandbox::create(context.environment(), *options));
        context.say(fmt::format("sandbox {} created", options->name));
        if (!context.json()) return {};
        MESH_TRY(sandbox::State state, sandbox::describe(context.environment(), options->name));
        context.answer(sandbox_document({options->name, std::move(state), 0}));
        return {};
    });
}

void add_delete(CLI::App& parent, Context& context) {
    auto names = std::make_shared<std::vector<std::string>>();
    auto missing_ok = std::make_shared<bool>(false);
    CLI::App* command = parent.add_subcommand(
        "delete", "Remove a cluster with all that it put on this machine, however it was left");
    command->add_option("--name,name", *names, "Name of the cluster")->required();
    command->add_flag("--ignore-not-found", *missing_ok, "No such cluster is no failure");
    add_output_flag(*command, context);
    command->footer(
        "With -o json one name gives an object, several give a list.\n"
        "Examples:\n  meshctl sandbox delete --name cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        json::array documents;
        for (const std::string& name : *names) {
            auto done = sandbox::destroy(context.environment(), name);
            const bool missing = !done && done.error().code() == Errc::kNotFound;
            documents.push_back(deleted_document(name, !missing));
            if (missing && *missing_ok) continue;
            MESH_CHECK(done);
            context.say(fmt::format("sandbox {} deleted", name));
        }
        context.answer(names->size() == 1 ? documents.front() : json::value(documents));
        return {};
    });
}

void add_list(CLI::App& parent, Context& context) {
    CLI::App* command = parent.add_subcommand("list", "The clusters on this machine");
    add_output_flag(*command, context);
    on_chosen(command, context, [&context]() -> Result<void> {
        MESH_TRY(const auto all, sandbox::list(context.environment()));
        json::array documents;
        Table table({"NAME", "ID", "PODS FROM", "SERVICES FROM", "NODES", "ETCD", "DAEMONS", "PODS",
                     "STATE"});
        for (const sandbox::Summary& summary : all) {
            documents.push_back(sandbox_document(summary));
            if (!summary.state) {
                table.add({summary.name, "", "", "", "", "", "", "", "incomplete"});
                continue;
            }
            const sandbox::State& state = *summary.state;
            const bool all_run = summary.running_daemons == state.daemons.size();
            table.add({state.name, std::to_string(state.cluster_id), joined(state.pod_cidrs),
                       joined(state.service_cidrs), std::to_string(state.nodes), state.etcd,
                       fmt::format("{}/{}", summary.running_daemons, state.daemons.size()),
                       std::to_string(state.objects.pods.size()),
                       !state.complete ? "incomplete"
                       : all_run       ? "running"
                                       : "not ready"});
        }
        if (context.json()) {
            print_json(documents);
        } else {
            table.print();
        }
        return {};
    });
}

void add_pods(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand("pods", "A cluster's pods and their state");
    add_cluster(command, *cluster);
    add_output_flag(*command, context);
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string name, context.cluster(*cluster));
        MESH_TRY(sandbox::State state, sandbox::describe(context.environment(), name));
        if (context.json()) {
            print_json(sandbox_document({name, std::move(state), 0}).at("pods"));
            return {};
        }
        Table table({"NAMESPACE", "NAME", "READY", "STATE", "NODE", "IP", "MESSAGE"});
        for (const auto& [key, pod] : state.objects.pods) {
            const std::string end =
                pod.exit_code ? fmt::format("exit code {}. ", *pod.exit_code) : "";
            std::string message = end + pod.message;
            std::replace(message.begin(), message.end(), '\n', ' ');
            table.add({pod.namespace_, pod.name, pod.ready ? "yes" : "no",
                       std::string(pod.terminating ? "Terminating" : to_string(pod.phase)),
                       pod.node, joined(pod.ips), message});
        }
        table.print();
        return {};
    });
}

void say_changes(const Context& context, const std::vector<sandbox::Change>& changes) {
    for (const sandbox::Change& change : changes) {
        context.say(fmt::format("{} {}", change.object.to_string(), change.what));
    }
}

void add_apply(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto space = std::make_shared<std::string>("default");
    auto files = std::make_shared<std::vector<std::string>>();
    CLI::App* command = parent.add_subcommand(
        "apply",
        "Make a cluster hold the objects of manifests: Namespace, Service, Pod, Deployment, "
        "EndpointSlice, NetworkPolicy, CiliumNetworkPolicy, "
        "CiliumClusterwideNetworkPolicy.\nA Pod's command runs as a process in a network namespace "
        "of its own; its "
        "container's image is not looked at.");
    add_cluster(command, *cluster);
    command->add_option("-f,--filename", *files, "Manifest; - is standard input")->required();
    command->add_option("-n,--namespace", *space, "For objects that name none (default default)");
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl sandbox apply --cluster cluster1 -f app.yaml");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string name, context.cluster(*cluster));
        std::vector<sandbox::Change> all;
        for (const std::string& file : *files) {
            MESH_TRY(const std::string text, read_input(file));
            MESH_TRY(const auto changes,
                     sandbox::apply(context.environment(), name, text, file, *space));
            say_changes(context, changes);
            all.insert(all.end(), changes.begin(), changes.end());
        }
        context.answer(changes_document(all));
        return {};
    });
}

Result<sandbox::ObjectRef> parse_ref(const std::string& text, const std::string& space) {
    static const std::map<std::string, std::string> kinds = {{"pod", "Pod"},
                                                             {"pods", "Pod"},
                                                             {"po", "Pod"},
                                                             {"service", "Service"},
                                                             {"services", "Service"},
                                                             {"svc", "Service"},
                                                             {"deployment", "Deployment"},
                                                             {"deployments", "Deployment"},
                                                             {"deploy", "Deployment"},
                                                             {"namespace", "Namespace"},
                                                             {"namespaces", "Namespace"},
                                                             {"ns", "Namespace"},
                                                             {"endpointslice", "EndpointSlice"},
                                                             {"networkpolicy", "NetworkPolicy"},
                                                             {"netpol", "NetworkPolicy"},
                                                             {"cnp", "CiliumNetworkPolicy"},
                                                             {"ccnp", kClusterwidePolicy}};
    const std::size_t slash = text.find('/');
    const auto kind =
        kinds.find(slash == std::string::npos ? std::string() : text.substr(0, slash));
    if (kind == kinds.end() || slash + 1 == text.size()) {
        return invalid_argument(fmt::format(
            "\"{}\": expected <kind>/<name>, e.g. deployment/echo or pod/client", text));
    }
    const bool spaceless = kind->second == "Namespace" || kind->second == kClusterwidePolicy;
    return sandbox::ObjectRef{kind->second, spaceless ? "" : space, text.substr(slash + 1)};
}

void add_remove(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto space = std::make_shared<std::string>("default");
    auto files = std::make_shared<std::vector<std::string>>();
    auto named = std::make_shared<std::vector<std::string>>();
    CLI::App* command = parent.add_subcommand(
        "remove", "Remove objects; a Namespace's and a Deployment's own go with it");
    add_cluster(command, *cluster);
    command->add_option("-f,--filename", *files, "Manifest that names them; - is standard input");
    command->add_option("-n,--namespace", *space, "Where they are (default default)");
    command->add_option("objects", *named, "deployment/echo, pod/client, service/echo ...");
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl sandbox remove --cluster cluster2 -n shop deployment/echo\n"
        "  meshctl sandbox remove --cluster cluster2 -f app.yaml");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        if (files->empty() && named->empty()) {
            return invalid_argument("expected -f or objects to remove");
        }
        MESH_TRY(const std::string name, context.cluster(*cluster));
        std::vector<sandbox::ObjectRef> refs;
        for (const std::string& text : *named) {
            MESH_TRY(sandbox::ObjectRef ref, parse_ref(text, *space));
            refs.push_back(std::move(ref));
        }
        for (const std::string& file : *files) {
            MESH_TRY(const std::string text, read_input(file));
            MESH_TRY(const auto objects, sandbox::parse_objects(text, file, *space));
            for (const auto& object : objects) refs.push_back(object.ref);
        }
        MESH_TRY(const auto changes, sandbox::remove(context.environment(), name, refs));
        say_changes(context, changes);
        // One that was named by hand and is not there is worth a failure; a manifest's is not.
        for (std::size_t i = 0; i < named->size(); ++i) {
            const bool removed = std::any_of(changes.begin(), changes.end(),
                                             [&](const auto& c) { return c.object == refs[i]; });
            if (!removed) return not_found(fmt::format("no {} in {}", refs[i].to_string(), name));
        }
        context.answer(changes_document(changes));
        return {};
    });
}

void add_exec(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto node = std::make_shared<std::string>();
    auto pod = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand(
        "exec", "Run a command in a pod's network namespace and cgroup, or on a node");
    add_cluster(command, *cluster);
    auto* on_node = command->add_option("--node", *node, "On this node rather than in a pod");
    command->add_option("pod", *pod, "NAMESPACE/POD, or POD in namespace default")
        ->excludes(on_node);
    command->footer(
        "Examples:\n"
        "  meshctl sandbox exec --cluster cluster1 shop/client -- curl -s http://10.11.0.2/\n"
        "  meshctl sandbox exec --cluster cluster1 --node node1 -- ip route\n"
        "The exit code is the command's; 127 if there is no such program.");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string name, context.cluster(*cluster));
        if (pod->empty() && node->empty()) return invalid_argument("expected a pod, or --node");
        if (context.command.empty()) {
            return invalid_argument("expected a command: POD -- COMMAND ARGUMENT...");
        }
        MESH_TRY(const auto spec,
                 sandbox::prepare_exec(context.environment(), name, *pod, *node, context.command));
        std::fflush(nullptr);
        const Error error = sandbox::become_process(spec);
        (void)fail(error);
        // As a shell says it.
        constexpr int kNoSuchProgram = 127;
        constexpr int kNotExecutable = 126;
        context.exit_code = error.code() == Errc::kNotFound     ? kNoSuchProgram
                            : error.code() == Errc::kPermission ? kNotExecutable
                                                                : kExitFailed;
        return {};
    });
}

void add_logs(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto what = std::make_shared<std::string>();
    auto node = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand("logs", "What a pod or a daemon wrote");
    add_cluster(command, *cluster);
    command->add_option("--node", *node, "Of the daemon on this node");
    command->add_option("of", *what, "NAMESPACE/POD or a daemon's name")->required();
    command->footer(
        "Examples:\n"
        "  meshctl sandbox logs --cluster cluster1 shop/client\n"
        "  meshctl sandbox logs --cluster cluster1 mesh-agent --node node2");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string name, context.cluster(*cluster));
        MESH_TRY(const sandbox::State state, sandbox::describe(context.environment(), name));
        const std::size_t slash = what->find('/');
        std::vector<std::string> paths;
        if (slash != std::string::npos) {
            paths.push_back(context.environment().paths(name).log(
                fmt::format("pod.{}.{}", what->substr(0, slash), what->substr(slash + 1))));
        }
        for (const auto& daemon : state.daemons) {
            if (daemon.name == *what && (node->empty() || daemon.node == *node)) {
                paths.push_back(daemon.log);
            }
        }
        if (paths.empty()) return not_found(fmt::format("no pod or daemon {} in {}", *what, name));
        for (const std::string& path : paths) {
            MESH_TRY(const std::string text, pki::read_file(path, std::size_t{1} << 30));
            fmt::print("{}", text);
        }
        return {};
    });
}

void add_daemon_commands(CLI::App& parent, Context& context) {
    for (const bool kill : {true, false}) {
        auto cluster = std::make_shared<std::string>();
        auto node = std::make_shared<std::string>();
        auto daemon = std::make_shared<std::string>();
        CLI::App* command = parent.add_subcommand(
            kill ? "kill" : "start",
            kill ? "End a daemon as a crash would (SIGKILL)" : "Start the daemons that do not run");
        add_cluster(command, *cluster);
        command->add_option("--node", *node, "On this node only");
        auto* which =
            command->add_option("daemon", *daemon, "etcd, mesh-proxy, mesh-operator or mesh-agent");
        if (kill) which->required();
        add_output_flag(*command, context);
        command->footer(fmt::format("Examples:\n  meshctl sandbox {} --cluster cluster1 mesh-proxy",
                                    kill ? "kill" : "start"));
        on_chosen(command, context, [=, &context]() -> Result<void> {
            MESH_TRY(const std::string name, context.cluster(*cluster));
            const auto act = kill ? sandbox::kill_daemons : sandbox::start_daemons;
            MESH_TRY(const std::size_t count, act(context.environment(), name, *daemon, *node));
            context.say(fmt::format("{} {}", count, kill ? "killed" : "started"));
            context.answer(daemons_document(*daemon, count));
            return {};
        });
    }
}

void add_supervise(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto pod = std::make_shared<std::string>();
    auto ready_fd = std::make_shared<int>(-1);
    CLI::App* command = parent.add_subcommand("supervise", "")->group("");
    command->add_option("--root", context.root, "");
    add_cluster(command, *cluster);
    command->add_option("--ready-fd", *ready_fd, "");
    command->add_option("pod", *pod, "")->required();
    on_chosen(command, context, [=, &context]() -> Result<void> {
        return sandbox::supervise(context.environment(), *cluster, *pod, *ready_fd);
    });
}

}  // namespace

void add_sandbox_commands(CLI::App& app, Context& context) {
    CLI::App* sandbox = app.add_subcommand(
        "sandbox", "Clusters on this machine: nodes and pods are network namespaces (needs root)");
    sandbox->require_subcommand(1);
    add_create(*sandbox, context);
    add_delete(*sandbox, context);
    add_list(*sandbox, context);
    add_apply(*sandbox, context);
    add_remove(*sandbox, context);
    add_pods(*sandbox, context);
    add_exec(*sandbox, context);
    add_logs(*sandbox, context);
    add_daemon_commands(*sandbox, context);
    add_supervise(*sandbox, context);
}

}  // namespace mesh::ctl
