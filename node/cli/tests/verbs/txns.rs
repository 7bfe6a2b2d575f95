//! Transactions as a shell sees them, and the loads of locks and transactions.

use std::io::Write;

use serde_json::{Value, json};

use crate::fake::{Fake, Turn, answer};
use crate::{annulus, body, problem, run};

fn done(committed: bool, results: &Value) -> Turn {
    Turn::Json(200, json!({"id": "t", "committed": committed, "results": results}))
}

#[tokio::test]
async fn a_transaction_stands_in_arguments_a_file_or_stdin_and_its_results_in_a_table() {
    let results = json!([{"version": 9}, {"deleted": false}, {"key": "c", "version": 4, "value": "x\n"}]);
    let fake = Fake::start([done(true, &results), done(true, &results), done(true, &json!(null))]).await;
    let at = &fake.address;
    let arguments = ["txn", "--put", "a=1=2", "--delete", "b", "--get", "c", "--if-version", "a=5", "--if-absent", "b"];
    let more = ["--if-held", "l=7", "--if-value", "c=x", "--if-exists", "c", "--id", "t", "--fence", "l=7"];
    let (ended, stdout, stderr) = run(at, &[&arguments[..], &more].concat()).await;
    let table = "operation  key  version  value\nput        a          9\ndelete     b             (was not there)\n\
                 get        c          4  x%0A\n";
    assert_eq!((ended, stdout.as_str(), stderr.as_str()), (0, table, ""));
    let sent = json!({
        "id": "t",
        "if": [{"key": "a", "version": 5}, {"key": "c", "value": "x"}, {"key": "c", "exists": true},
               {"key": "b", "exists": false}, {"lock": "l", "token": 7}],
        "then": [{"put": {"key": "a", "value": "1=2"}}, {"delete": {"key": "b"}}, {"get": {"key": "c"}}],
    });
    assert_eq!(body(&fake, 0), sent);
    assert!(fake.seen()[0].headers.contains(&("annulus-fence".to_owned(), "l=7".to_owned())));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(sent.to_string().as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let (ended, stdout, _) = run(at, &["txn", "-f", path, "-o", "json"]).await;
    assert_eq!(
        (ended, serde_json::from_str::<Value>(&stdout).unwrap()),
        (0, json!({"id": "t", "committed": true, "results": results}))
    );
    assert_eq!(body(&fake, 1), sent);

    let input = std::fs::File::open(file.path()).unwrap();
    let output = annulus(at, &["txn", "-f", "-", "--id", "mine"]).stdin(input).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("too long to be kept"), "{stderr}");
    assert_eq!(body(&fake, 2)["id"], "mine");
}

#[tokio::test]
async fn the_exit_code_tells_what_became_of_a_transaction() {
    let gotten = json!([{"key": "b", "version": null, "value": null}]);
    let fake = Fake::start([done(false, &json!([])), done(false, &gotten)]).await;
    let (ended, stdout, stderr) = run(&fake.address, &["txn", "--put", "a=1", "--if-exists", "b"]).await;
    assert_eq!((ended, stdout.as_str()), (1, ""));
    assert!(stderr.contains("a condition did not hold; nothing was done"), "{stderr}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(br#"{"if":[{"key":"b","exists":true}],"else":[{"get":{"key":"b"}}]}"#).unwrap();
    let (ended, stdout, stderr) = run(&fake.address, &["txn", "-f", file.path().to_str().unwrap()]).await;
    assert!(ended == 1 && stdout.ends_with("get        b             (not there)\n"), "{stdout}");
    assert!(stderr.contains("`else` was done"), "{stderr}");

    let conflicts = || std::iter::repeat_n(problem(409, "txn-conflict", &json!({})), 1000).collect();
    for (script, code, words) in [
        (conflicts(), 1, "Try again"),
        (vec![problem(409, "stale-token", &json!({}))], 1, "stale token"),
        (vec![problem(409, "idempotency-conflict", &json!({}))], 1, "conflict"),
        (vec![problem(400, "txn-key-twice", &json!({}))], 1, "it can't be"),
        (vec![answer(504), Turn::Hang], 3, "annulus txn --status t"),
        (vec![Turn::Answer(503, vec![("retry-after", "60".into())], "")], 4, "Nothing was changed"),
    ] {
        let fake = Fake::start(script).await;
        let (ended, stdout, stderr) =
            run(&fake.address, &["txn", "--put", "a=1", "--id", "t", "--timeout", "300ms"]).await;
        assert_eq!((ended, stdout.as_str()), (code, ""), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    let fake = Fake::start([]).await;
    for (json, words) in [("{", "EOF"), (r#"{"then":[{"pot":{}}]}"#, "pot"), ("{}", "must have 1 to 128")] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(json.as_bytes()).unwrap();
        let (ended, _, stderr) = run(&fake.address, &["txn", "-f", file.path().to_str().unwrap()]).await;
        assert!(ended == 2 && stderr.contains(words), "{stderr}");
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn a_transaction_is_asked_about_later_and_open_ones_are_listed() {
    let committed = json!({"id": "t", "state": "committed", "committed": true, "results": [{"version": 9}]});
    let item = json!({"id": "t", "attempt": 1, "partition": 3, "anchor": 2, "state": "prepared", "age_ms": 1040, "keys": 2,
                      "participants": [2, 3]});
    let open = || Turn::Json(200, json!({"items": [item], "more": true}));
    let fake = Fake::start([
        Turn::Json(200, committed.clone()),
        Turn::Json(200, committed.clone()),
        Turn::Json(200, json!({"id": "t", "state": "aborted"})),
        Turn::Json(200, json!({"id": "t", "state": "pending"})),
        problem(404, "txn-not-found", &json!({})),
        open(),
        open(),
    ])
    .await;
    let at = &fake.address;
    let (ended, stdout, _) = run(at, &["txn", "--status", "t"]).await;
    assert!(
        ended == 0 && stdout.starts_with("committed\n") && stdout.ends_with("put        ?          9\n"),
        "{stdout}"
    );
    let (ended, stdout, _) = run(at, &["txn", "--status", "t", "-o", "json"]).await;
    assert_eq!((ended, serde_json::from_str::<Value>(&stdout).unwrap()), (0, committed));
    for (code, words) in [(1, "aborted"), (3, "not settled"), (1, "not found")] {
        let (ended, stdout, stderr) = run(at, &["txn", "--status", "t"]).await;
        assert_eq!((ended, stdout.as_str()), (code, ""));
        assert!(stderr.contains(words), "{stderr}");
    }
    let (ended, stdout, stderr) = run(at, &["txns"]).await;
    let row: Vec<&str> = stdout.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((ended, row), (0, vec!["t", "1", "prepared", "1.0", "s", "3", "2", "2", "2,", "3"]));
    assert!(stderr.contains("there are more"), "{stderr}");
    let (_, stdout, _) = run(at, &["txns", "-o", "json", "--limit", "7"]).await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), item);
    assert_eq!(fake.seen().last().unwrap().path, "/v1/txns?limit=7");
}

/// What a load of one client for a second tells, against this script.
async fn bench(operation: &str, script: impl IntoIterator<Item = Turn>) -> (Fake, i32, Value) {
    let refusals = std::iter::repeat_n(answer(400), 10_000);
    let fake = Fake::start(script.into_iter().chain(refusals)).await;
    let load = ["bench", "--op", operation, "--clients", "1", "--secs", "1", "--keys", "2", "-o", "json"];
    let (ended, stdout, _) = run(&fake.address, &load).await;
    let told = serde_json::from_str(&stdout).unwrap();
    (fake, ended, told)
}

fn granted(token: u64) -> Turn {
    Turn::Json(200, json!({"token": token, "valid_ms": 60_000}))
}

#[tokio::test]
async fn a_load_of_locks_gives_each_back_and_sees_disorder() {
    let (fake, ended, told) = bench("lock", [granted(7), answer(204), granted(8), answer(204)]).await;
    let counts = ["acquire", "release"].map(|part| told["operations"][part]["count"].as_u64());
    assert_eq!((ended, counts), (0, [Some(2); 2]));
    assert!(fake.seen()[1].path.starts_with("/v1/locks/bench%2F00000000000"), "{:?}", fake.seen()[1]);
    let script = || [granted(7), answer(204), granted(9), answer(204)];
    let (_, ended, told) = bench("queue", script()).await;
    assert_eq!((ended, &told["operations"]["hand-over"]["count"]), (0, &json!(1)));
    assert_eq!(told["queue"], json!({"grants": 2, "out_of_order": 0, "overlapping": 0}));
    let (_, ended, told) = bench("queue", script().into_iter().chain([granted(8), answer(204)])).await;
    assert_eq!((ended, &told["queue"]["out_of_order"]), (1, &json!(1)));
}

#[tokio::test]
async fn a_load_of_transactions_counts_what_is_committed_and_conflicts_apart() {
    for operation in ["txn", "txn-one"] {
        let (fake, ended, told) = bench(operation, [done(true, &json!([])), Turn::Break, done(true, &json!([]))]).await;
        assert_eq!((ended, &told["operations"]["txn"]["count"]), (0, &json!(2)));
        assert_eq!(told["errors"]["outcome-unknown"], 1);
        let mut keys = ["0", "1"].map(|at| body(&fake, 0)["then"][at.parse::<usize>().unwrap()]["put"]["key"].clone());
        keys.sort_by_key(ToString::to_string);
        assert_eq!(keys, ["bench/000000000000", "bench/000000000001"]);
    }
    let items = json!([{"key": "a", "version": 5, "value": ""}, {"key": "b", "version": null, "value": null}]);
    let read = || done(true, &items);
    let script = [
        read(),
        done(true, &json!([])),
        read(),
        done(false, &json!([])),
        read(),
        problem(409, "txn-conflict", &json!({})),
    ];
    let (fake, ended, told) = bench("rmw", script).await;
    assert_eq!(
        (ended, &told["operations"]["rmw"]["count"], &told["of_one_client"]["fewest"]),
        (0, &json!(1), &json!(1))
    );
    assert_eq!(told["conflicts"], json!({"condition-failed": 1, "txn-conflict": 1}));
    assert_eq!(body(&fake, 1)["if"].as_array().unwrap().len(), 2);
}
