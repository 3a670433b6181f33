// meshctl workload register, list.
#include "meshctl/workload_commands.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "meshctl/commands.hpp"
#include "meshctl/etcd_store.hpp"
#include "meshctl/workload_register.hpp"
#include "model/keys.hpp"
#include "model/utf8.hpp"
#include "model/workload.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::ctl {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;

struct RegisterFlags {
    RegisterOptions options;
    std::vector<std::string> ips, labels, backends;
    std::uint32_t lease_ttl_seconds = 15, timeout_seconds = 0;
};

Result<RegisterOptions> read_flags(const RegisterFlags& flags) {
    RegisterOptions options = flags.options;
    for (const std::string& text : flags.ips) {
        auto address = model::IpAddress::parse(text);
        if (!address) return address.error().with_prefix("--ip");
        options.workload.ips.push_back(*address);
    }
    for (const std::string& text : flags.labels) {
        const auto equals = text.find('=');
        if (equals == std::string::npos) {
            return invalid_argument("--label: expected key=value, got \"" + text + "\"");
        }
        options.workload.labels.insert_or_assign(text.substr(0, equals),
                                                 model::Text(text.substr(equals + 1)));
    }
    for (const std::string& text : flags.backends) {
        MESH_TRY(auto backend, parse_backend(text));
        options.workload.backends.push_back(std::move(backend));
    }
    model::normalise(options.workload);
    MESH_CHECK(model::check_workload(options.workload));
    options.lease_ttl = std::chrono::seconds(flags.lease_ttl_seconds);
    options.timeout = std::chrono::seconds(flags.timeout_seconds);
    return options;
}

void add_workload_flags(CLI::App* command, RegisterFlags& flags) {
    model::Workload& workload = flags.options.workload;
    workload.namespace_ = "default";
    command->add_option("--name", workload.name, "Its name: a DNS label that no other has")
        ->required();
    command->add_option("--namespace", workload.namespace_, "Its namespace")->capture_default_str();
    command->add_option("--ip", flags.ips, "An address of this host, IPv4 or IPv6; repeatable")
        ->required()
        ->delimiter(',');
    command->add_option("--label", flags.labels,
                        "A label, key=value, as of a pod: what policies select; repeatable");
    command->add_option("--backend", flags.backends,
                        "A port that serves a Service: namespace/name:[port name:]port[/protocol]; "
                        "repeatable");
    command->add_option("--zone", workload.zone, "Its zone, topology.kubernetes.io/zone");
    command->add_flag("--node", workload.node, "It is a node of the cluster, too, without pods");
}

void add_register(CLI::App& parent, Context& context) {
    auto flags = std::make_shared<RegisterFlags>();
    RegisterOptions& options = flags->options;
    CLI::App* command = parent.add_subcommand(
        "register",
        "Register this host in its cluster, as long as this runs: SIGTERM or Ctrl-C takes it out\n"
        "at once; killed, it is gone after --lease-ttl");
    add_workload_flags(command, *flags);
    add_etcd_flags(command, options.etcd,
                   "write mesh/local/workloads/v1/NAME, and to read it and "
                   "mesh/local/workload-status/v1/NAME");
    auto* name = command->add_option(
        "--cluster-name", options.cluster_name,
        "The cluster whose etcd it is to be: another one is refused (needs the right to read "
        "cilium/cluster-config/)");
    command->add_option("--cluster-id", options.cluster_id, "Its id")->needs(name);
    // Below it a busy machine would lose its lease; etcd grants at least its election's time.
    command
        ->add_option("--lease-ttl", flags->lease_ttl_seconds,
                     "Seconds that it stays when this is killed, or cut off from etcd")
        ->check(CLI::Range(2, 86400))
        ->capture_default_str();
    command
        ->add_option("--timeout", flags->timeout_seconds,
                     "Seconds in which it has to be published, else exit code 3; 0 = keeps trying")
        ->check(CLI::Range(0, 86400))
        ->capture_default_str();
    command->footer(
        "Each change of its state is a line: pending, published or refused, and why; then left.\n"
        "Exit codes: 0 it has left, 1 failed, 2 wrong usage or another cluster's etcd, 3 not\n"
        "published in time. Under systemd, Type=notify says when it is published.\n"
        "Examples:\n"
        "  meshctl workload register --name vm1 --ip 192.0.2.7 --namespace shop --label app=web "
        "--backend shop/web:http:8080/TCP --etcd-config /etc/libmesh/etcd.yaml --cluster-name "
        "cluster1 --cluster-id 1\n"
        "  meshctl workload register --name db --ip 192.0.2.9,2001:db8::9 --zone z1 --backend "
        "shop/db:5432 --etcd-config etcd.yaml --timeout 30");
    on_chosen(command, context, [flags, &context]() -> Result<void> {
        MESH_TRY(const RegisterOptions read, read_flags(*flags));
        context.exit_code = register_workload(context, read);
        return {};
    });
}

/// A workload and what was said of it.
struct Listed {
    std::string name, value;
    std::int64_t revision = 0, lease = 0;
    std::optional<model::WorkloadStatus> decision;
};
using List = std::map<std::string, Listed>;

asio::awaitable<Result<List>> read_list(etcd::Client& client) {
    List list;
    etcd::RangeRequest request;
    request.range = etcd::prefix_range(model::kLocalWorkloadsPrefix);
    etcd::PageCallback page = [&](const etcd::Header&, std::span<const etcd::KeyValueView> kvs) {
        for (const auto& kv : kvs) {
            std::string name(kv.key.substr(model::kLocalWorkloadsPrefix.size()));
            Listed one{name, std::string(kv.value), kv.mod_revision, kv.lease, {}};
            list.insert_or_assign(std::move(name), std::move(one));
        }
    };
    MESH_CO_TRY(const auto header, co_await client.async_list(std::move(request), std::move(page)));
    request = {};
    request.range = etcd::prefix_range(model::kLocalWorkloadStatusPrefix);
    request.revision = header.revision;
    page = [&](const etcd::Header&, std::span<const etcd::KeyValueView> kvs) {
        for (const auto& kv : kvs) {
            const auto found =
                list.find(std::string(kv.key.substr(model::kLocalWorkloadStatusPrefix.size())));
            const auto decision = model::parse_workload_status(kv.key, kv.value);
            if (found == list.end() || !decision) continue;
            found->second.decision = *decision;
        }
    };
    MESH_CO_CHECK(co_await client.async_list(std::move(request), std::move(page)));
    co_return list;
}

asio::awaitable<void> run_list(etcd::Client& client, std::optional<Result<List>>& out) {
    client.start();
    out.emplace(co_await read_list(client));
    co_await client.async_stop();
}

Result<List> ask_list(Context& context, const EtcdFlags& flags) {
    MESH_TRY(const EtcdStore store, find_etcd(context, flags));
    asio::io_context loop(1);
    auto options = sources::config::client_options(store.config);
    options.probe_key.clear();
    MESH_TRY(const auto client, etcd::Client::make(loop.get_executor(), std::move(options),
                                                   context.clock, Rng(), Logger()));
    std::optional<Result<List>> list;
    std::exception_ptr thrown;
    asio::co_spawn(loop, run_list(*client, list),
                   [&thrown](std::exception_ptr error) { thrown = std::move(error); });
    loop.run();
    if (thrown || !list) return Error(Errc::kInternal, "the list ended by an exception");
    return *std::move(list);
}

json::object document(const Listed& one) {
    const auto workload = model::parse_workload(model::local_workload_key(one.name), one.value);
    const bool judged = one.decision && one.decision->revision == one.revision;
    json::object out{{"name", model::printable(one.name, 256)},
                     {"namespace", workload ? workload->namespace_ : ""},
                     {"state", !judged                  ? "pending"
                               : one.decision->accepted ? "accepted"
                                                        : "refused"},
                     {"reason", judged ? model::printable(one.decision->reason, 1024)
                                       : "the cluster's operator has not answered yet"},
                     {"lease", fmt::format("{:x}", one.lease)}};
    json::array ips;
    json::object labels;
    json::array backends;
    if (workload) {
        for (const auto& ip : workload->ips) ips.emplace_back(ip.to_string());
        for (const auto& [key, value] : workload->labels) labels[key.view()] = value.view();
        for (const auto& backend : workload->backends) {
            backends.push_back({{"service", backend.service},
                                {"portName", backend.port_name},
                                {"port", backend.port},
                                {"protocol", backend.protocol}});
        }
        out["zone"] = workload->zone;
        out["node"] = workload->node;
    }
    out["ips"] = std::move(ips);
    out["labels"] = std::move(labels);
    out["backends"] = std::move(backends);
    return out;
}

std::string joined(const json::array& items) {
    std::string text;
    for (const json::value& item : items) {
        if (!text.empty()) text += ' ';
        text += std::string_view(item.as_string());
    }
    return text;
}

void print_workloads(const json::array& all) {
    Table table({"NAME", "NAMESPACE", "STATE", "ADDRESSES", "SERVICES", "LABELS", "REASON"});
    for (const json::value& item : all) {
        const json::object& one = item.as_object();
        json::array services;
        for (const json::value& backend : one.at("backends").as_array()) {
            const auto name = std::string_view(backend.at("portName").as_string());
            services.emplace_back(
                fmt::format("{}:{}{}{}/{}", std::string_view(backend.at("service").as_string()),
                            name, name.empty() ? "" : ":", backend.at("port").to_number<int>(),
                            std::string_view(backend.at("protocol").as_string())));
        }
        json::array labels;
        for (const auto& label : one.at("labels").as_object()) {
            labels.emplace_back(fmt::format("{}={}", std::string_view(label.key()),
                                            std::string_view(label.value().as_string())));
        }
        const auto text = [&](const char* field) {
            return std::string(std::string_view(one.at(field).as_string()));
        };
        table.add({text("name"), text("namespace"), text("state"), joined(one.at("ips").as_array()),
                   joined(services), joined(labels), text("reason")});
    }
    table.drop_empty_columns();
    table.print();
}

void add_list(CLI::App& parent, Context& context) {
    auto flags = std::make_shared<EtcdFlags>();
    CLI::App* command = parent.add_subcommand(
        "list", "Workloads that registered themselves, and what the operator says of each");
    add_etcd_flags(command, *flags,
                   "read mesh/local/workloads/v1/ and mesh/local/workload-status/v1/");
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl workload list --cluster cluster1\n"
        "  meshctl workload list --etcd-config /etc/libmesh/etcd.yaml -o json");
    on_chosen(command, context, [flags, &context]() -> Result<void> {
        MESH_TRY(const List list, ask_list(context, *flags));
        json::array all;
        for (const auto& [name, one] : list) all.push_back(document(one));
        if (context.json()) {
            print_json(all);
        } else if (all.empty()) {
            context.say("no workload has registered itself");
        } else {
            print_workloads(all);
        }
        return {};
    });
}

}  // namespace

void add_workload_commands(CLI::App& app, Context& context) {
    CLI::App* workload =
        app.add_subcommand("workload", "Hosts and processes that no Kubernetes object describes");
    workload->require_subcommand(1);
    add_register(*workload, context);
    add_list(*workload, context);
}

}  // namespace mesh::ctl
