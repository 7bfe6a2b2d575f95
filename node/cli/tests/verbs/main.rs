//! The verbs as a shell sees them: what stands on stdout, what on stderr, and the exit code.

#[path = "../../../client/tests/fake/mod.rs"]
mod fake;
mod locks;
mod txns;

use std::io::Write;
use std::process::{Output, Stdio};

use fake::{CLUSTER, Fake, Turn, answer, member, ring, versioned};
use serde_json::{Value, json};
use tokio::process::Command;

const ABSENT: &str = r#"{"type":"https://annulus.dev/problems/not-found","status":404}"#;

fn annulus(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command.env("ANNULUS_ENDPOINT", endpoint).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(endpoint: &str, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = annulus(endpoint, arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn a_value_goes_to_stdout_as_it_is_and_nothing_else_does() {
    let fake = Fake::start([
        versioned(201, 7),
        Turn::Answer(200, vec![("etag", "\"7\"".into())], "no line end"),
        Turn::Answer(200, vec![("etag", "\"7\"".into())], "x"),
        Turn::Answer(200, vec![("etag", "\"7\"".into())], "x"),
        answer(204),
    ])
    .await;
    let at = &fake.address;
    assert_eq!(run(at, &["put", "k", "v"]).await, (0, String::new(), String::new()));
    assert_eq!(run(at, &["get", "k"]).await, (0, "no line end".into(), String::new()));
    assert_eq!(run(at, &["get", "k", "-v"]).await, (0, "x".into(), "version 7\n".into()));
    let json = "{\"key\":\"k\",\"value\":\"x\",\"version\":7}\n";
    assert_eq!(run(at, &["get", "k", "-o", "json"]).await, (0, json.into(), String::new()));
    assert_eq!(run(at, &["delete", "k", "-v"]).await, (0, String::new(), "deleted `k`\n".into()));
}

#[tokio::test]
async fn the_exit_code_tells_how_it_ended() {
    for (turn, arguments, code, words) in [
        (Turn::Answer(404, vec![], ABSENT), &["get", "k"][..], 1, "not found"),
        (answer(404), &["delete", "k"], 1, "not found"),
        (problem(409, "stale-token", &json!({})), &["put", "k", "v", "--fence", "l=7"], 1, "stale token"),
        (problem(409, "stale-token", &json!({})), &["delete", "k", "--fence", "l=7"], 1, "newer holder"),
        (versioned(412, 9), &["put", "k", "v", "--if-version", "3"], 1, "the key has version 9"),
        (answer(409), &["put", "k", "v", "--idempotency-key", "n"], 1, "conflict"),
        (answer(413), &["put", "k", "v"], 1, "refused"),
        (Turn::Break, &["put", "k", "v"], 3, "outcome unknown"),
        (answer(504), &["delete", "k"], 3, "outcome unknown"),
        (answer(507), &["put", "k", "v"], 4, "disk is full"),
        (Turn::Answer(503, vec![("retry-after", "60".into())], ""), &["put", "k", "v"], 4, "Nothing was changed"),
    ] {
        let fake = Fake::start([turn.clone()]).await;
        let (ended, stdout, stderr) = run(&fake.address, arguments).await;
        assert_eq!((ended, stdout.as_str()), (code, ""), "{turn:?} {stderr}");
        assert!(stderr.contains(words), "{turn:?} {stderr}");
    }
    let (ended, _, stderr) = run("127.0.0.1:1", &["get", "k"]).await;
    assert_eq!(ended, 4);
    assert!(stderr.contains("127.0.0.1:1") && stderr.contains("annulus dev"), "{stderr}");
}

#[tokio::test]
async fn a_usage_error_is_told_before_anything_is_sent() {
    let fake = Fake::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    let huge = folder.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(2 << 20).unwrap();
    let huge = huge.to_str().unwrap();
    for (arguments, words) in [
        (&["put", "k", "--file", "/none"][..], "No such file"),
        (&["put", "k", "--file", huge], "2097152 bytes"),
        (&["put", "k"], "VALUE"),
        (&["put", "", "v"], "the key is empty"),
        (&["put", "k", "v", "--ttl", "0s"], "above 0"),
        (&["put", "k", "v", "--fence", "l"], "NAME=TOKEN"),
        (&["lock", "l"], "CMD"),
        (&["lock", "l", "--ttl", "1ms", "--", "true"], "500ms to 24h"),
        (&["gte", "k"], "'get'"),
        (&["get", "k", "--consistency", "starle"], "'stale'"),
    ] {
        let (ended, _, stderr) = run(&fake.address, arguments).await;
        assert_eq!(ended, 2, "{arguments:?} {stderr}");
        assert!(stderr.contains(words), "{arguments:?} {stderr}");
    }
    let (ended, _, stderr) = run("no-port", &["get", "k"]).await;
    assert!(ended == 2 && stderr.contains("host:port"), "{stderr}");
    assert_eq!(fake.rings_told(), 0);
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_a_usage_error_that_names_both() {
    let (one, two) = (Fake::start([]).await, Fake::start([]).await);
    let other = "ffffffff-0405-0607-0809-0a0b0c0d0e0f";
    two.set_ring(ring(other, 1, &[&two.address], 0));
    let (ended, _, stderr) = run(&format!("{},{}", one.address, two.address), &["put", "k", "v"]).await;
    assert!(ended == 2 && stderr.contains(CLUSTER) && stderr.contains(other), "{stderr}");
}

#[tokio::test]
async fn an_interrupted_write_has_an_unknown_outcome() {
    let fake = Fake::start([Turn::Hang]).await;
    let mut child = annulus(&fake.address, &["put", "k", "v"]).stderr(Stdio::piped()).spawn().unwrap();
    // The signals are listened for before the request is sent.
    while fake.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn a_value_comes_from_stdin_or_a_file_byte_for_byte() {
    let fake = Fake::start([versioned(201, 1), versioned(204, 2)]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\xff\0\n").unwrap();
    let input = std::fs::File::open(file.path()).unwrap();
    let piped = annulus(&fake.address, &["put", "k", "-"]).stdin(input).status().await.unwrap();
    let path = file.path().to_str().unwrap();
    assert!(piped.success() && run(&fake.address, &["put", "k", "--file", path]).await.0 == 0);
    assert!(fake.seen().iter().all(|seen| &seen.body[..] == b"\xff\0\n"));
}

#[tokio::test]
async fn a_scan_writes_a_key_a_line_and_goes_on_to_the_limit() {
    let first = r#"{"items":[{"key":"a","version":1,"value":"1\n"},{"key_base64":"/w==","version":2,"value":""}],"cursor":"c"}"#;
    let last = r#"{"items":[{"key":"b","version":3,"value":"2"}],"cursor":null}"#;
    let pages = || [Turn::Answer(200, vec![], first), Turn::Answer(200, vec![], last)];
    let fake = Fake::start(pages().into_iter().chain(pages()).chain(pages())).await;
    let at = &fake.address;
    assert_eq!(run(at, &["scan"]).await, (0, "a\n%FF\nb\n".into(), String::new()));
    assert_eq!(run(at, &["scan", "--values"]).await, (0, "a\t1%0A\n%FF\t\nb\t2\n".into(), String::new()));
    let json = "{\"key\":\"a\",\"version\":1}\n";
    assert_eq!(run(at, &["scan", "-o", "json", "--limit", "1"]).await, (0, json.into(), String::new()));
}

#[tokio::test]
async fn ring_and_status_are_plain_when_nobody_watches() {
    let fake = Fake::start([answer(200), answer(503)]).await;
    let (ended, stdout, _) = run(&fake.address, &["ring"]).await;
    assert_eq!((ended, stdout.lines().count(), stdout.contains('\x1b')), (0, 2, false), "{stdout}");
    let (ended, stdout, _) = run(&fake.address, &["ring", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((ended, &told["cluster"], &told["assignments"][0]["partition"]), (0, &CLUSTER.into(), &0.into()));
    let (ended, stdout, _) = run(&fake.address, &["status"]).await;
    assert_eq!(ended, 0);
    let line = stdout.lines().last().unwrap();
    assert!(line.contains("yes") && line.contains("NO"), "{stdout}");
}

/// A plan of which this much is left, of a store of two members that are all at one address.
fn plan(address: &str, epoch: u64, moves_left: u64) -> Value {
    let planned = |id: &str, name: &str| {
        let mut member = member(id, name, "active", address);
        let more = json!({"replicas": 2, "leads": 1, "epoch": epoch, "heard_ms": 40});
        member.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        member
    };
    let gate = json!({"name": "move-slots", "member": null, "message": "others are under way"});
    let moving = json!({"group": 1, "partition": 0, "from": "0000000000000001", "to": "0000000000000002",
                        "step": "waiting", "gate": gate, "bytes": 0, "bytes_sent": 0});
    let moves: Vec<&Value> = (0..moves_left).map(|_| &moving).collect();
    json!({
        "epoch": epoch, "settled": moves_left == 0, "moves_left": moves_left, "moves_under_way": 0, "bytes_left": 10,
        "bytes_per_second": 0, "seconds_left": null, "moves": moves,
        "members": [planned("0000000000000002", "node-2"), planned("0000000000000001", "node-1")],
    })
}

fn problem(status: u16, kind: &str, more: &Value) -> Turn {
    let mut problem = json!({"type": format!("https://annulus.dev/problems/{kind}"), "detail": "it can't be"});
    problem.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Turn::Json(status, problem)
}

fn changed(epoch: u64) -> Turn {
    Turn::Json(200, json!({"epoch": epoch, "joined": [], "leaving": ["0000000000000002"], "updated": []}))
}

fn body(fake: &Fake, request: usize) -> Value {
    serde_json::from_slice(&fake.seen()[request].body).unwrap()
}

#[tokio::test]
async fn members_plan_and_history_are_told_to_people_and_to_programs() {
    let event = json!({"epoch": 13, "first_epoch": 13, "at": null, "reason": "members", "message": "node-2 joins"});
    let fake = Fake::start([Turn::Json(200, json!({"events": [event]}))]).await;
    let at = &fake.address;
    fake.set_plans([plan(at, 13, 2)]);
    let (ended, stdout, _) = run(at, &["members"]).await;
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((ended, lines.len()), (0, 3), "{stdout}");
    assert!(lines[1].starts_with("node-1") && lines[1].contains("40 ms") && lines[1].contains(at), "{stdout}");
    let (_, stdout, _) = run(at, &["members", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&told["members"][0]["name"], &told["epoch"]), (&json!("node-1"), &json!(13)));
    let (_, stdout, _) = run(at, &["plan"]).await;
    assert!(stdout.starts_with("2 moves left") && stdout.contains("2 moves wait: others are under way"), "{stdout}");
    let (_, stdout, _) = run(at, &["plan", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), plan(at, 13, 2));
    let (ended, stdout, _) = run(at, &["history"]).await;
    assert!(ended == 0 && stdout.contains("node-2 joins"), "{stdout}");
}

#[tokio::test]
async fn a_plan_is_watched_until_nothing_is_left() {
    let fake = Fake::start([]).await;
    let at = &fake.address;
    fake.set_plans([plan(at, 13, 2), plan(at, 13, 2), plan(at, 14, 1), plan(at, 15, 0)]);
    let (ended, stdout, _) = run(at, &["plan", "--watch"]).await;
    assert_eq!((ended, stdout.lines().count()), (0, 3), "{stdout}");
    assert!(stdout.lines().last().unwrap().starts_with("settled"), "{stdout}");
}

#[tokio::test]
async fn a_drained_member_is_waited_for_until_the_plan_knows_of_it_and_is_settled() {
    let busy = problem(409, "change-in-progress", &json!({}));
    let fake = Fake::start([busy, Turn::Json(200, json!({"epoch": 14}))]).await;
    let at = &fake.address;
    // The first is settled, but has not heard of the change.
    fake.set_plans([plan(at, 13, 0), plan(at, 14, 3), plan(at, 17, 0)]);
    let (ended, stdout, stderr) = run(at, &["members", "drain", "node-1", "--wait", "--operator-fence", "7"]).await;
    assert_eq!((ended, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains("node-1: draining (epoch 14)") && stderr.contains("(epoch 17)"), "{stderr}");
    let seen = fake.seen().remove(1);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/admin/v1/members/node-1/drain"));
    assert!(seen.headers.contains(&("annulus-operator-fence".to_owned(), "7".to_owned())), "{seen:?}");
}

#[tokio::test]
async fn a_member_leaves_by_being_named_no_more_for_the_epoch_that_was_read() {
    let fake = Fake::start([problem(409, "map-changed", &json!({"current": 14})), Turn::Break, changed(15)]).await;
    let at = &fake.address;
    fake.set_plans([plan(at, 13, 0), plan(at, 14, 0)]);
    let (ended, stdout, stderr) = run(at, &["members", "remove", "node-2", "-o", "json"]).await;
    assert_eq!((ended, stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["leaving"], json!(["0000000000000002"]));
    assert_eq!((&body(&fake, 0)["epoch"], &body(&fake, 2)["epoch"]), (&json!(13), &json!(14)));
    let named = body(&fake, 2)["members"].as_array().unwrap().clone();
    assert_eq!((named.len(), &named[0]["name"]), (1, &json!("node-1")));
}

#[tokio::test]
async fn a_change_that_the_store_refuses_is_told_with_its_partitions_and_one_of_unknown_fate_as_such() {
    for (turn, code, words) in [
        (problem(409, "member-holds-replicas", &json!({"partitions": [3, 5]})), 1, "Partitions: 3, 5"),
        (problem(409, "stale-fence", &json!({"given": 1, "highest": 9})), 1, "fence 9"),
        (problem(404, "unknown-member", &json!({})), 1, "`annulus members` lists them"),
        (Turn::Break, 3, "The change may have been made"),
    ] {
        let fake = Fake::start([turn.clone()]).await;
        let (ended, stdout, stderr) = run(&fake.address, &["members", "remove", "node-2", "--now"]).await;
        assert_eq!((ended, stdout.as_str()), (code, ""), "{turn:?} {stderr}");
        assert!(stderr.contains(words), "{turn:?} {stderr}");
    }
    let fake = Fake::start([]).await;
    fake.set_plans([plan(&fake.address, 13, 0)]);
    let (ended, _, stderr) = run(&fake.address, &["members", "remove", "node-7"]).await;
    assert!(ended == 1 && stderr.contains("`node-7`; the members are node-1, node-2"), "{stderr}");
}

#[tokio::test]
async fn a_new_node_is_asked_who_it_is_and_one_of_another_cluster_is_refused() {
    let status = |cluster: Option<&str>| {
        Turn::Json(
            200,
            json!({"id": "0000000000000003", "name": "node-3", "zone": "", "cluster": cluster, "weight": 100,
                               "client_address": "n:1", "peer_address": "n:2", "admin_address": "n:3"}),
        )
    };
    let other = "ffffffff-0405-0607-0809-0a0b0c0d0e0f";
    let joined = json!({"epoch": 14, "joined": ["0000000000000003"], "leaving": [], "updated": []});
    let (store, node) =
        (Fake::start([Turn::Json(200, joined)]).await, Fake::start([status(Some(other)), status(None)]).await);
    store.set_plans([plan(&store.address, 13, 0)]);
    let add = ["members", "add", &node.address, "--weight", "200"];
    let (ended, _, stderr) = run(&store.address, &add).await;
    assert!(ended == 1 && stderr.contains(other) && stderr.contains(CLUSTER), "{stderr}");
    assert!(store.seen().is_empty());
    let (ended, _, stderr) = run(&store.address, &add).await;
    assert!(ended == 0 && stderr.contains("(epoch 14)"), "{stderr}");
    let named = body(&store, 0)["members"].as_array().unwrap().clone();
    assert_eq!((named.len(), &named[2]["name"], &named[2]["weight"]), (3, &json!("node-3"), &json!(200)));
    let (ended, _, stderr) = run(&store.address, &["members", "add", "127.0.0.1:1"]).await;
    assert!(ended == 4 && stderr.contains("127.0.0.1:1") && stderr.contains("admin port"), "{stderr}");
}

#[tokio::test]
async fn a_bench_counts_what_failed_and_goes_on() {
    let script = [versioned(201, 1), answer(503), answer(429), Turn::Break, versioned(201, 2)];
    let refusals = std::iter::repeat_n(answer(400), 100_000);
    let fake = Fake::start(script.into_iter().chain(refusals)).await;
    let (ended, stdout, stderr) =
        run(&fake.address, &["bench", "--clients", "1", "--secs", "1", "--keys", "1", "-o", "json"]).await;
    assert_eq!(ended, 0, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["operations"]["put"]["count"], 2);
    let errors = &told["errors"];
    assert_eq!(
        (&errors["unavailable"], &errors["overloaded"], &errors["outcome-unknown"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert!(errors["refused"].as_u64().unwrap() > 0);
    assert!(fake.seen().iter().all(|seen| seen.path == "/v1/kv/bench/000000000000"));
}
