//! Commands under locks, as a shell sees them: what they are told, when they end, and the exit code.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::fake::{Fake, Turn, answer};
use crate::{annulus, body, problem, run};

/// Nothing here should take longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn valid(token: u64, valid_ms: u64) -> Value {
    json!({"token": token, "owner": "me", "mode": "exclusive", "ttl_ms": valid_ms, "valid_ms": valid_ms})
}

fn granted(token: u64, valid_ms: u64) -> Turn {
    Turn::Json(200, valid(token, valid_ms))
}

fn held() -> Turn {
    let holder = json!({"token": 6, "owner": "pod-1", "description": "nightly"});
    problem(423, "lock-held", &json!({"holder": holder, "waiting": 1}))
}

/// `annulus` with a command that writes lines.
struct Started {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Started {
    fn new(endpoint: &str, arguments: &[&str]) -> Self {
        let mut command = annulus(endpoint, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("it says nothing").unwrap().expect("it has ended")
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id().unwrap()), signal).unwrap();
    }

    async fn ended(self) -> (Option<i32>, String) {
        let output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("it does not end").unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

/// Waits until a process is gone, or only still to be waited for by whoever took it over.
async fn is_gone(process: &str) {
    let process = pid(process.parse().unwrap());
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid()));
        test_kill_process(process).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    let gone = async {
        while is_there() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it does not end");
}

#[tokio::test]
async fn a_command_is_told_the_lock_and_its_exit_code_is_passed_on_when_the_lock_was_given_up() {
    let fake = Fake::start([granted(7, 60_000), answer(204)]).await;
    let script = r#"echo "$ANNULUS_LOCK $ANNULUS_TOKEN $ANNULUS_FENCE $ANNULUS_ENDPOINT"; exit 9"#;
    let arguments = ["lock", "a b", "--ttl", "60s", "--description", "d", "--", "sh", "-c", script];
    let (ended, stdout, stderr) = run(&fake.address, &arguments).await;
    assert_eq!((ended, stderr.as_str()), (9, ""));
    assert_eq!(stdout, format!("a b 7 a%20b=7 {}\n", fake.address));
    let wish = body(&fake, 0);
    assert_eq!((&wish["wait_ms"], &wish["ttl_ms"], &wish["mode"]), (&json!(0), &json!(60_000), &json!("exclusive")));
    assert!(wish["owner"].as_str().unwrap().contains(':'), "{wish}");
    let last = &fake.seen()[1];
    assert_eq!((last.method.as_str(), last.path.as_str()), ("DELETE", "/v1/locks/a%20b?token=7"));
}

#[tokio::test]
async fn how_a_command_ends_is_told_as_shells_tell_it() {
    for (command, code) in [(&["sh", "-c", "kill -TERM $$"][..], 143), (&["/none"], 127), (&["/"], 126), (&["true"], 0)]
    {
        let fake = Fake::start([granted(7, 60_000), answer(204)]).await;
        let (ended, _, stderr) = run(&fake.address, &[&["lock", "l", "--"], command].concat()).await;
        assert_eq!((ended, fake.seen().len()), (code, 2), "{command:?} {stderr}");
    }
}

#[tokio::test]
async fn who_does_not_get_the_lock_is_told_who_holds_it() {
    let fake = Fake::start([held(), held(), held()]).await;
    for wait in [&["--no-wait"][..], &["--wait", "1s"]] {
        let (ended, stdout, stderr) = run(&fake.address, &[&["lock", "l"], wait, &["--", "echo", "no"]].concat()).await;
        assert_eq!((ended, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("the lock `l` is held by `pod-1` (nightly) with token 6; 1 waits for it"), "{stderr}");
        assert_eq!(stderr.contains("waits for the lock"), wait.len() == 2, "{stderr}");
    }
    let (ended, _, stderr) = run("127.0.0.1:1", &["lock", "l", "--timeout", "1s", "--", "true"]).await;
    assert!(ended == 4 && stderr.contains("annulus dev"), "{stderr}");
}

#[tokio::test]
async fn who_waits_runs_its_command_when_its_turn_has_come() {
    let say = Arc::new(Notify::new());
    let fake = Fake::start([held(), Turn::Late(Arc::clone(&say), valid(8, 60_000)), answer(204)]).await;
    let mut started = Started::new(&fake.address, &["lock", "l", "--shared", "--", "sh", "-c", "echo $ANNULUS_TOKEN"]);
    while fake.seen().len() < 2 {
        tokio::task::yield_now().await;
    }
    say.notify_one();
    assert_eq!(started.line().await, "8");
    assert_eq!((started.ended().await.0, &body(&fake, 1)["mode"]), (Some(0), &json!("shared")));
}

#[tokio::test]
async fn who_waits_says_once_for_whom_and_a_signal_ends_the_wait() {
    let fake = Fake::start([held(), Turn::Hang]).await;
    let waiting = Started::new(&fake.address, &["lock", "l", "--", "true"]);
    while fake.seen().len() < 2 {
        tokio::task::yield_now().await;
    }
    waiting.signal(Signal::INT);
    let (ended, stderr) = waiting.ended().await;
    assert_eq!((ended, stderr.matches("waits for the lock `l`, which is held by `pod-1`").count()), (Some(130), 1));
    let key = |request: usize| fake.seen()[request].headers.iter().find(|(name, _)| name == "idempotency-key").cloned();
    assert_eq!(key(0), key(1));
}

#[tokio::test]
async fn a_command_whose_lock_is_lost_is_ended_with_its_children_first_gently_then_by_force() {
    for (trap, grace) in [("exit 0", "60s"), ("", "500ms")] {
        let fake = Fake::start([granted(7, 600), problem(409, "lock-not-held", &json!({}))]).await;
        let script = format!("trap '{trap}' TERM; sleep 1000 & echo $!; while :; do wait; done");
        let arguments = ["lock", "l", "--ttl", "600ms", "--grace", grace, "--", "sh", "-c", &script];
        let mut started = Started::new(&fake.address, &arguments);
        let child = started.line().await;
        let (ended, stderr) = started.ended().await;
        assert_eq!(ended, Some(1), "{stderr}");
        assert!(stderr.contains("the lock `l` was lost"), "{stderr}");
        is_gone(&child).await;
    }
}

#[tokio::test]
async fn a_command_is_ended_when_nobody_answers_until_the_lease_is_over() {
    let fake = Fake::start([granted(7, 600)].into_iter().chain(vec![Turn::Hang; 100])).await;
    let arguments = ["lock", "l", "--ttl", "600ms", "--timeout", "1s", "--", "sleep", "1000"];
    let (ended, _, stderr) = timeout(PATIENCE, run(&fake.address, &arguments)).await.unwrap();
    assert!(ended == 1 && stderr.contains("its lease ran out"), "{stderr}");
}

#[tokio::test]
async fn signals_are_passed_on_and_the_command_decides_when_it_ends() {
    let fake = Fake::start([granted(7, 60_000), answer(204)]).await;
    let script =
        "trap 'echo int' INT; trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut started = Started::new(&fake.address, &["lock", "l", "--ttl", "60s", "--", "sh", "-c", script]);
    assert_eq!(started.line().await, "ready");
    for (signal, said) in [(Signal::INT, "int"), (Signal::USR1, "usr1")] {
        started.signal(signal);
        assert_eq!(started.line().await, said);
    }
    started.signal(Signal::TERM);
    assert_eq!((started.ended().await.0, fake.seen().len()), (Some(3), 2));
}

#[tokio::test]
async fn a_command_ends_with_the_process_that_holds_its_lock() {
    let fake = Fake::start([granted(7, 60_000)]).await;
    let mut started =
        Started::new(&fake.address, &["lock", "l", "--ttl", "60s", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let command = started.line().await;
    started.signal(Signal::KILL);
    started.ended().await;
    is_gone(&command).await;
}

#[tokio::test]
async fn who_leads_stands_again_when_the_lock_is_lost_and_resigns_when_its_command_ends() {
    let lost = problem(409, "lock-not-held", &json!({}));
    let fake = Fake::start([granted(7, 600), lost, granted(9, 60_000), answer(204)]).await;
    let script = r#"echo "$ANNULUS_TOKEN"; [ "$ANNULUS_TOKEN" = 9 ] && exit 5; exec sleep 1000"#;
    let arguments = ["elect", "l", "--ttl", "600ms", "--", "sh", "-c", script];
    let (ended, stdout, stderr) = timeout(PATIENCE, run(&fake.address, &arguments)).await.unwrap();
    assert_eq!((ended, stdout.as_str()), (5, "7\n9\n"), "{stderr}");
    assert!(stderr.contains("leads `l` with token 7") && stderr.contains("Stands again"), "{stderr}");
    assert_eq!(fake.seen()[3].path, "/v1/locks/l?token=9");
}

#[tokio::test]
async fn who_stands_again_and_again_does_so_until_a_signal() {
    let fake = Fake::start([granted(7, 60_000), answer(204), granted(9, 60_000), answer(204)]).await;
    let script = r#"trap 'exit 0' TERM; echo "$ANNULUS_TOKEN"; while [ "$ANNULUS_TOKEN" = 9 ]; do sleep 0.05; done"#;
    let mut started = Started::new(&fake.address, &["elect", "l", "--again", "--ttl", "60s", "--", "sh", "-c", script]);
    assert_eq!((started.line().await, started.line().await), ("7".to_owned(), "9".to_owned()));
    started.signal(Signal::TERM);
    assert_eq!((started.ended().await.0, fake.seen().len()), (Some(0), 4));
}

#[tokio::test]
async fn locks_are_told_to_people_and_to_programs() {
    let place = |token: u64, owner: &str, since: &str| {
        json!({"token": token, "owner": owner, "description": "", "mode": "exclusive", "ttl_ms": 10_000, since: 61_000,
               "left_ms": 9000})
    };
    let lock = json!({"name": "a\n", "holders": [place(7, "pod-1", "held_ms")],
                      "waiting": [place(9, "pod-2", "waited_ms")], "waiting_count": 101});
    let page = || Turn::Json(200, json!({"items": [lock], "cursor": null}));
    let fake = Fake::start([page(), page(), page(), Turn::Json(200, json!({"items": [], "cursor": null}))]).await;
    let at = &fake.address;
    let (ended, stdout, _) = run(at, &["locks", "a/"]).await;
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((ended, lines.len()), (0, 2), "{stdout}");
    assert_eq!(lines[1], "a%0A  exclusive  pod-1       7  61 s       9.0 s  101, longest 61 s");
    let (_, stdout, _) = run(at, &["locks", "--waiters"]).await;
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines.len() == 4 && lines[2].contains("waits 1") && lines[3].ends_with("100 more wait"), "{stdout}");
    let (_, stdout, _) = run(at, &["locks", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), lock);
    assert_eq!(run(at, &["locks"]).await, (0, String::new(), String::new()));
    assert_eq!(fake.seen()[0].path, "/v1/locks?prefix=a/");
}
