//! The verbs as a shell sees them: what stands on stdout, what on stderr, and the exit code.

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use std::io::Write;
use std::process::{Output, Stdio};

use fake::{CLUSTER, Fake, Turn, answer, ring, versioned};
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
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((ended, &told["cluster"], &told["assignments"][0]["partition"]), (0, &CLUSTER.into(), &0.into()));
    let (ended, stdout, _) = run(&fake.address, &["status"]).await;
    assert_eq!(ended, 0);
    let line = stdout.lines().last().unwrap();
    assert!(line.contains("yes") && line.contains("NO"), "{stdout}");
}

#[tokio::test]
async fn a_bench_counts_what_failed_and_goes_on() {
    let script = [versioned(201, 1), answer(503), answer(429), Turn::Break, versioned(201, 2)];
    let refusals = std::iter::repeat_n(answer(400), 100_000);
    let fake = Fake::start(script.into_iter().chain(refusals)).await;
    let (ended, stdout, stderr) =
        run(&fake.address, &["bench", "--clients", "1", "--secs", "1", "--keys", "1", "-o", "json"]).await;
    assert_eq!(ended, 0, "{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["operations"]["put"]["count"], 2);
    let errors = &told["errors"];
    assert_eq!(
        (&errors["unavailable"], &errors["overloaded"], &errors["outcome-unknown"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert!(errors["refused"].as_u64().unwrap() > 0);
    assert!(fake.seen().iter().all(|seen| seen.path == "/v1/kv/bench/000000000000"));
}
