//! `kube sidecars`: the pods that have a store on their localhost, and the locks that each of them holds.

use std::io::{self, Write};
use std::time::Duration;

use annulus_crds::inject;
use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::args;
use super::connect::Server;
use super::proxy;
use crate::exit::Failure;
use crate::output::{self, Format};

/// Pods that are asked for at once.
const PAGE: u32 = 500;
/// Most pods that are listed.
const MOST: usize = 10_000;
/// Sidecars that are asked at once.
const AT_ONCE: usize = 16;
/// How long a sidecar has for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long all of them have: after that those that are left are not asked any more.
const ALL_LIMIT: Duration = Duration::from_secs(20);

/// A pod with a sidecar.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    pod: String,
    node: String,
    /// The version that the sidecar tells, else that of the operator that put it there.
    version: String,
    cluster: String,
    ready: bool,
    /// The pod's phase, such as `Running`.
    phase: String,
    /// How many locks it holds; `None`: it does not tell.
    locks: Option<usize>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent: Option<String>,
    #[serde(skip)]
    port: u16,
}

/// What a sidecar tells, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    version: String,
    locks: Vec<serde::de::IgnoredAny>,
}

/// Shows them.
pub(super) async fn run(server: &Server, arguments: &args::Sidecars) -> Result<(), Failure> {
    let (mut rows, is_cut) = listed(server, arguments.cluster.as_deref()).await?;
    ask(server, &mut rows).await;
    let mut out = io::stdout().lock();
    match arguments.output {
        Format::Json => {
            serde_json::to_writer(&mut out, &serde_json::json!({"namespace": server.namespace, "sidecars": rows}))
                .map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => {
            for line in screen(&rows, &server.namespace, arguments.cluster.as_deref()) {
                writeln!(out, "{line}")?;
            }
        }
    }
    if is_cut {
        eprintln!("annulus: there are more pods than {MOST}; name a cluster to see fewer");
    }
    Ok(out.flush()?)
}

/// The pods of the namespace that have a sidecar, and whether there are more.
async fn listed(server: &Server, cluster: Option<&str>) -> Result<(Vec<Row>, bool), Failure> {
    let api = Api::<Pod>::namespaced(server.client.clone(), &server.namespace);
    let selector = cluster.map_or(inject::SIDECAR.to_owned(), |cluster| format!("{}={cluster}", inject::SIDECAR));
    let mut parameters = ListParams::default().labels(&selector).limit(PAGE);
    let mut rows = Vec::new();
    loop {
        let page = server.asked("list pods", api.list(&parameters)).await?;
        rows.extend(page.items.iter().map(row));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(_) if rows.len() >= MOST => return Ok((rows, true)),
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok((rows, false)),
        }
    }
}

fn row(pod: &Pod) -> Row {
    let status = pod.status.clone().unwrap_or_default();
    let sidecar = |status: &&ContainerStatus| status.name == inject::CONTAINER;
    let ready = status.init_container_statuses.iter().flatten().find(sidecar).is_some_and(|status| status.ready);
    let port = pod.annotations().get(inject::STATUS_PORT).and_then(|port| port.parse().ok());
    let phase = if pod.metadata.deletion_timestamp.is_some() { Some("Terminating".to_owned()) } else { status.phase };
    Row {
        pod: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        version: pod.annotations().get(inject::VERSION).cloned().unwrap_or_default(),
        cluster: pod.labels().get(inject::SIDECAR).cloned().unwrap_or_default(),
        ready,
        phase: phase.unwrap_or_default(),
        locks: None,
        silent: None,
        port: port.unwrap_or(inject::DEFAULT_STATUS_PORT),
    }
}

/// Asks all that run, some at once, for the locks that they hold.
async fn ask(server: &Server, rows: &mut [Row]) {
    let asked = rows.iter_mut().filter(|row| matches!(row.phase.as_str(), "Running" | "Terminating"));
    let mut answers = stream::iter(asked)
        .map(async |row| {
            let answer = timeout(ANSWER_LIMIT, proxy::get_at(server, &row.pod, row.port, "sidecar/locks")).await;
            take(
                row,
                match answer {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(too_long()),
                },
            );
        })
        .buffer_unordered(AT_ONCE);
    // Those that have not been asked by then do not tell.
    let _ = timeout(ALL_LIMIT, async { while answers.next().await.is_some() {} }).await;
}

fn too_long() -> String {
    format!("no answer within {} s", ANSWER_LIMIT.as_secs())
}

fn take(row: &mut Row, answer: Result<String, String>) {
    match answer.and_then(|text| serde_json::from_str::<Told>(&text).map_err(|error| error.to_string())) {
        Ok(told) => {
            row.locks = Some(told.locks.len());
            if !told.version.is_empty() {
                row.version = told.version;
            }
        }
        Err(why) => row.silent = Some(why),
    }
}

/// The table, and why some do not tell their locks.
fn screen(rows: &[Row], namespace: &str, cluster: Option<&str>) -> Vec<String> {
    if rows.is_empty() {
        let of = cluster.map(|cluster| format!(" of {cluster}")).unwrap_or_default();
        return vec![format!(
            "no pod of namespace {namespace} has a sidecar{of}; a pod gets one by the annotation {}: CLUSTER",
            inject::INJECT
        )];
    }
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let cells = |row: &Row| {
        vec![
            row.pod.clone(),
            or_dash(&row.node),
            or_dash(&row.version),
            or_dash(&row.cluster),
            match (row.phase.as_str(), row.ready) {
                ("Running", true) => "yes".to_owned(),
                ("Running", false) => "NO".to_owned(),
                (phase, _) => or_dash(phase),
            },
            row.locks.map_or_else(|| "-".to_owned(), |locks| locks.to_string()),
        ]
    };
    let head = ["pod", "node", "version", "cluster", "ready", "locks"];
    let mut lines = output::table(&head, &[5], &rows.iter().map(cells).collect::<Vec<_>>());
    let mut silent = rows.iter().filter_map(|row| Some((&row.pod, row.silent.as_ref()?)));
    if let Some((pod, why)) = silent.next() {
        let more = match silent.count() {
            0 => String::new(),
            1 => "; 1 more does not either".to_owned(),
            more => format!("; {more} more do not either"),
        };
        lines.extend([String::new(), format!("{pod} does not tell its locks: {why}{more}")]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Row {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"annulus.dev/sidecar": "demo"},
                         "annotations": {"annulus.dev/sidecar-version": "0.4.0"}},
            "spec": {"nodeName": "worker-a", "containers": []},
            "status": {"phase": "Running", "initContainerStatuses": [
                {"name": "annulus-sidecar", "ready": true, "restartCount": 0, "image": "", "imageID": ""},
            ]},
        });
        change(&mut pod);
        row(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pods_are_told_with_their_locks_or_with_why_not() {
        let mut rows = [
            pod("web-1", |_| {}),
            pod("web-2", |pod| pod["status"]["initContainerStatuses"][0]["ready"] = json!(false)),
            pod("job-1", |pod| pod["status"]["phase"] = json!("Succeeded")),
            pod("web-3", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z")),
            pod("web-4", |pod| (pod["spec"], pod["status"]) = (Value::Null, Value::Null)),
        ];
        take(
            &mut rows[0],
            Ok(json!({"version": "0.5.0", "owner": "web-1", "locks": [{"name": "a"}, {"name": "b"}]}).to_string()),
        );
        take(&mut rows[1], Err(too_long()));
        take(&mut rows[3], Ok("junk".to_owned()));
        let screen = screen(&rows, "shop", None);
        let golden = "
            pod    node      version  cluster  ready        locks
            web-1  worker-a  0.5.0    demo     yes              2
            web-2  worker-a  0.4.0    demo     NO               -
            job-1  worker-a  0.4.0    demo     Succeeded        -
            web-3  worker-a  0.4.0    demo     Terminating      -
            web-4  -         0.4.0    demo     -                -

            web-2 does not tell its locks: no answer within 3 s; 1 more does not either";
        assert_eq!(screen, golden.lines().skip(1).map(str::trim).collect::<Vec<_>>(), "\n{}", screen.join("\n"));
    }

    #[test]
    fn the_status_port_is_the_one_that_the_pod_names() {
        assert_eq!(pod("a", |_| {}).port, 7071);
        for (text, port) in [("8071", 8071), ("x", 7071)] {
            let row = pod("a", |pod| pod["metadata"]["annotations"]["annulus.dev/sidecar-status-port"] = json!(text));
            assert_eq!(row.port, port);
        }
    }

    #[test]
    fn where_there_is_none_it_is_said_how_to_get_one() {
        assert!(screen(&[], "shop", Some("demo"))[0].contains("annulus.dev/inject: CLUSTER"));
    }
}
