//! The same requests, sent to a member and to a sidecar, are answered alike.

use ::http::Method;
use annulus_tests::processes::{Answer, Dev, Http, Sidecar, problem};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A method, a path, headers and a body, in which `@` stands for the prefix that keeps the two apart.
type Request = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// Sent in this order. Tokens are those that a lock of its own gets first: they are read from the answer before.
const REQUESTS: &[Request] = &[
    ("PUT", "/v1/kv/@/a", &[], "one"),
    ("PUT", "/v1/kv/@/a", &[], "two"),
    ("GET", "/v1/kv/@/a", &[], ""),
    ("HEAD", "/v1/kv/@/a", &[], ""),
    ("GET", "/v1/kv/@/none?consistency=stale&timeout=5s", &[], ""),
    ("GET", "/v1/kv/@/a?consistency=quorum", &[], ""),
    ("GET", "/v1/kv/@/none", &[], ""),
    ("HEAD", "/v1/kv/@/none", &[], ""),
    ("PUT", "/v1/kv/@/a", &[("if-match", "\"1\"")], "three"),
    ("PUT", "/v1/kv/@/a", &[("if-none-match", "*")], "three"),
    ("PUT", "/v1/kv/@/b%2F%00%ff?ttl=1h", &[("if-none-match", "*"), ("idempotency-key", "once")], "bytes"),
    ("PUT", "/v1/kv/@/b%2F%00%ff?ttl=1h", &[("if-none-match", "*"), ("idempotency-key", "once")], "bytes"),
    ("PUT", "/v1/kv/@/b%2F%00%ff", &[("idempotency-key", "once")], "others"),
    ("PUT", "/v1/kv/@/c?ttl=1", &[], "x"),
    ("PUT", "/v1/kv/@/c?tll=1s", &[], "x"),
    ("PUT", "/v1/kv/@/c?timeout=61s", &[], "x"),
    ("PUT", "/v1/kv/%zz", &[], "x"),
    ("PUT", "/v1/kv/", &[], "x"),
    ("PUT", "/v1/kv/@/c", &[("if-match", "nonsense")], "x"),
    ("PUT", "/v1/kv/@/c", &[("annulus-unknown", "1")], "x"),
    ("PUT", "/v1/kv/@/c", &[("annulus-operator-fence", "1")], "x"),
    ("POST", "/v1/kv/@/c", &[], "x"),
    ("PUT", "/v1/kv/@/empty", &[], ""),
    ("GET", "/v1/kv/@/empty", &[], ""),
    ("GET", "/v1/kv?prefix=@/&values=true", &[], ""),
    ("GET", "/v1/kv?prefix=@/&limit=1", &[], ""),
    ("HEAD", "/v1/kv?prefix=@/&limit=1", &[], ""),
    ("GET", "/v1/kv?prefix=@/&limit=0", &[], ""),
    ("GET", "/v1/kv?cursor=nonsense", &[], ""),
    ("DELETE", "/v1/kv/@/a", &[], ""),
    ("DELETE", "/v1/kv/@/a", &[], ""),
    (
        "POST",
        "/v1/txn",
        &[],
        r#"{"id":"@-1","if":[{"key":"@/t","exists":false}],"then":[{"put":{"key":"@/t","value":"v"}},{"put":{"key":"@/u","value":"v"}}]}"#,
    ),
    (
        "POST",
        "/v1/txn",
        &[],
        r#"{"id":"@-1","if":[{"key":"@/t","exists":false}],"then":[{"put":{"key":"@/t","value":"v"}},{"put":{"key":"@/u","value":"v"}}]}"#,
    ),
    ("POST", "/v1/txn", &[], r#"{"id":"@-1","then":[{"put":{"key":"@/t","value":"another"}}]}"#),
    (
        "POST",
        "/v1/txn?timeout=3s",
        &[],
        r#"{"if":[{"key":"@/t","value":"no"}],"then":[{"delete":{"key":"@/t"}}],"else":[{"get":{"key":"@/t"}}]}"#,
    ),
    ("POST", "/v1/txn", &[], r#"{"then":[{"get":{"key":"@/t"}},{"get":{"key":"@/none"}}]}"#),
    ("POST", "/v1/txn", &[], r#"{"then":[]}"#),
    ("POST", "/v1/txn", &[], "{"),
    ("POST", "/v1/txn", &[], r#"{"then":[{"put":{"key":"@/t"}}]}"#),
    ("POST", "/v1/txn", &[], r#"{"id":"~@","then":[{"put":{"key":"@/t","value":""}}]}"#),
    ("POST", "/v1/txn?timeout=61s", &[], r#"{"then":[{"put":{"key":"@/t","value":""}}]}"#),
    ("POST", "/v1/txn", &[("if-match", "*")], r#"{"then":[{"put":{"key":"@/t","value":""}}]}"#),
    ("GET", "/v1/txn/@-1", &[], ""),
    ("GET", "/v1/txn/@-none", &[], ""),
    ("GET", "/v1/txn/@-1?timeout=61s", &[], ""),
    ("GET", "/v1/txn/@-1?timeout=1s&timeout=2s", &[], ""),
    ("GET", "/v1/txn/@-1?timeout=2s", &[], ""),
    ("POST", "/v1/txn?timeout=1s&timeout=2s", &[], r#"{"then":[{"put":{"key":"@/t","value":""}}]}"#),
    ("GET", "/v1/txn/", &[], ""),
    ("GET", "/v1/txns", &[], ""),
    ("POST", "/v1/locks/@%2Fl", &[("idempotency-key", "wish")], r#"{"owner":"me","ttl_ms":60000,"description":"d"}"#),
    ("POST", "/v1/locks/@%2Fl", &[("idempotency-key", "wish")], r#"{"owner":"me","ttl_ms":60000}"#),
    ("POST", "/v1/locks/@%2Fl", &[], r#"{"owner":"you","ttl_ms":60000}"#),
    ("POST", "/v1/locks/@%2Fl", &[], r#"{"owner":"you","ttl_ms":60000,"wait_ms":200}"#),
    ("POST", "/v1/locks/@%2Fl", &[], r#"{"owner":"you","ttl_ms":1}"#),
    ("POST", "/v1/locks/@%2Fl", &[], r#"{"owner":"you","ttl_ms":60000,"mode":"mine"}"#),
    ("POST", "/v1/locks/@%2Fl", &[], "nonsense"),
    ("POST", "/v1/locks/", &[], r#"{"owner":"you","ttl_ms":60000}"#),
    ("GET", "/v1/locks/@%2Fl", &[], ""),
    ("GET", "/v1/locks?prefix=@/", &[], ""),
    ("POST", "/v1/locks/@%2Fl/renew", &[], r#"{"token":TOKEN,"ttl_ms":30000}"#),
    ("POST", "/v1/locks/@%2Fl/renew", &[], r#"{"token":999999,"ttl_ms":30000}"#),
    (
        "POST",
        "/v1/renewals",
        &[],
        r#"{"locks":[{"name":"@/l","token":TOKEN,"ttl_ms":30000},{"name":"@/none","token":1,"ttl_ms":500}]}"#,
    ),
    ("POST", "/v1/renewals", &[], r#"{"locks":[]}"#),
    ("PUT", "/v1/kv/@/fenced", &[("annulus-fence", "@%2Fl=TOKEN")], "x"),
    ("PUT", "/v1/kv/@/fenced", &[("annulus-fence", "@%2Fl=1")], "x"),
    ("PUT", "/v1/kv/@/fenced", &[("annulus-fence", "nonsense")], "x"),
    ("DELETE", "/v1/locks/@%2Fl?token=999999", &[], ""),
    ("DELETE", "/v1/locks/@%2Fl?token=TOKEN", &[], ""),
    ("DELETE", "/v1/locks/@%2Fl?token=TOKEN", &[], ""),
    ("DELETE", "/v1/locks/@%2Fl", &[], ""),
    ("GET", "/v1/locks/@%2Fl", &[], ""),
    ("GET", "/v1/locks/a/b", &[], ""),
    ("GET", "/v1/ring", &[], ""),
    ("GET", "/v1/ring?a=1", &[], ""),
    ("GET", "/healthz", &[], ""),
    ("GET", "/readyz", &[], ""),
    ("GET", "/v1/nothing", &[], ""),
    ("GET", "/admin/v1/status", &[], ""),
];

/// Headers that say something, and the body, with what differs from one store of data to the next taken out.
fn told(answer: &Answer, prefix: &str, is_named: bool) -> Value {
    let headers = ["content-type", "allow", "annulus-epoch", "retry-after"].map(|name| answer.header(name).to_owned());
    let text = answer.text().replace(prefix, "@");
    let body = match serde_json::from_str::<Value>(&text) {
        Ok(mut json) => {
            plain(&mut json, is_named);
            json
        }
        Err(_) => json!(text),
    };
    let lacks_length = answer.header("content-length").is_empty();
    json!({"status": answer.status, "headers": headers, "etag": answer.header("etag").is_empty(), "length": lacks_length, "body": body})
}

/// Takes out numbers that are never the same twice, and names that were drawn.
fn plain(value: &mut Value, is_named: bool) {
    match value {
        Value::Object(fields) => {
            // A member that leads does not say so; a write that has a name is refused by its key's partition, not by its lock's.
            ["leader", "holder_token", "newest_token"].iter().for_each(|name| drop(fields.remove(*name)));
            // What else there is in the store while it is asked.
            if fields.contains_key("more") {
                fields.remove("items");
            }
            for (name, value) in fields {
                let is_drawn = matches!(
                    name.as_str(),
                    "version"
                        | "current_version"
                        | "key_base64"
                        | "token"
                        | "held_ms"
                        | "left_ms"
                        | "valid_ms"
                        | "cursor"
                );
                if is_drawn || name == "id" && !is_named {
                    *value = json!(value.is_null());
                } else if name == "detail" {
                    let text = value.as_str().unwrap_or_default();
                    *value = json!(text.replace(|sign: char| sign.is_ascii_digit(), ""));
                } else {
                    plain(value, is_named);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| plain(item, is_named)),
        _ => {}
    }
}

/// Sends everything to one address; what was told.
async fn all(http: &Http, address: &str, prefix: &str) -> Vec<Value> {
    let mut token = String::new();
    let mut told_all = Vec::new();
    for (method, path, headers, body) in REQUESTS {
        let fill = |text: &str| text.replace('@', prefix).replace("TOKEN", &token);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, fill(value))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let method: Method = method.parse().expect("a method");
        let answer = http.send(method, address, &fill(path), &headers, fill(body)).await.expect("an answer");
        if answer.status == 200 && path.starts_with("/v1/locks/") && answer.text().starts_with("{\"token\"") {
            token = answer.json()["token"].to_string();
        }
        told_all.push(told(&answer, prefix, body.contains("\"id\"") || path.contains("-1")));
    }
    told_all
}

#[tokio::test]
async fn what_a_member_answers_the_sidecar_answers() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let http = Http::default();
    let by_member = all(&http, &dev.address(0), "qmb").await;
    let by_sidecar = all(&http, &sidecar.address(), "qsc").await;
    let mut differences = Vec::new();
    for ((request, member), sidecar) in REQUESTS.iter().zip(by_member).zip(by_sidecar) {
        let (method, path, ..) = request;
        let kind =
            |told: &Value| told["body"]["type"].as_str().and_then(|kind| kind.rsplit('/').next()).map(str::to_owned);
        if ["unknown-path", "method-not-allowed"].map(str::to_owned).contains(&kind(&sidecar).unwrap_or_default()) {
            // The sidecar says it by itself: it names its own paths, and knows of no epoch.
            assert_eq!((&member["status"], kind(&member)), (&sidecar["status"], kind(&sidecar)), "{method} {path}");
            assert_eq!(member["headers"][1], sidecar["headers"][1], "{method} {path}");
            continue;
        }
        if *path == "/v1/ring" {
            // A member tells the leaders that it knows of.
            assert_eq!(member["body"]["members"], sidecar["body"]["members"]);
            continue;
        }
        if member != sidecar {
            differences.push(format!("{method} {path}\n  of a member:  {member}\n  of the sidecar: {sidecar}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn the_description_is_that_of_a_member_with_what_a_sidecar_adds() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let http = Http::default();
    let described = async |address: &str| http.get(address, "/openapi.json").await.expect("an answer");
    let (members, ours) = (described(&dev.address(0)).await, described(&sidecar.address()).await);
    assert_eq!((ours.status, ours.header("content-type")), (200, members.header("content-type")));
    let (members, described) = (members.json(), ours.json());
    assert_eq!(described["openapi"], members["openapi"]);
    assert!(ours.text().contains("Annulus-Lock") && described["paths"]["/admin/v1/status"].is_null());
    // Whatever is described is there.
    for (path, _) in described["paths"].as_object().expect("paths") {
        let there = http.get(&sidecar.address(), &path.replace(['{', '}'], "")).await.expect("an answer");
        assert_ne!(problem(&there), "unknown-path", "{path}");
    }
    let head = http.send(Method::HEAD, &sidecar.address(), "/openapi.json", &[], "").await.expect("an answer");
    assert_eq!(head.header("content-length"), ours.body.len().to_string());
}

#[tokio::test]
async fn the_status_port_tells_of_the_sidecar_and_takes_no_requests() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    let http = Http::default();
    http.put(&sidecar.address(), "a", "x").await.expect("an answer");
    let body = r#"{"ttl_ms":60000,"mode":"shared"}"#;
    let granted = http.send(Method::POST, &sidecar.address(), "/v1/locks/%ff", &[], body).await.expect("an answer");
    assert_eq!((granted.status, &granted.json()["owner"]), (200, &json!("pod-1")));
    let status = sidecar.status_address();
    for (path, expected) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/kv/a", 404), ("/v1/ring", 404)]
    {
        assert_eq!(http.get(&status, path).await.expect("an answer").status, expected, "{path}");
    }
    let metrics = http.get(&status, "/metrics").await.expect("an answer").text();
    for line in [r#"annulus_sidecar_requests_total{route="key",status="2xx"} 1"#, "annulus_sidecar_locks_held 1"] {
        assert!(metrics.contains(line), "{line}\nin\n{metrics}");
    }
    let kept = http.get(&status, "/sidecar/locks").await.expect("an answer").json();
    assert_eq!((&kept["owner"], kept["cluster"].as_str().map(str::len)), (&json!("pod-1"), Some(36)));
    let lock = &kept["locks"][0];
    assert_eq!(
        (&lock["name_base64"], &lock["mode"], &lock["state"]),
        (&json!("/w=="), &json!("shared"), &json!("held"))
    );
    let not_here = http.get(&sidecar.address(), "/sidecar/locks").await.expect("an answer");
    assert_eq!(not_here.status, 404, "the application's port has the API, and no more");
}

#[tokio::test]
async fn the_store_is_on_a_unix_socket_too_and_over_http_2() {
    let dev = Dev::ready().await;
    let sidecar = Sidecar::of(dev.addresses(), "pod-1").await;
    Http::default().put(&sidecar.address(), "a", "x").await.expect("an answer");
    let mut socket = UnixStream::connect(sidecar.socket()).await.expect("it listens");
    socket.write_all(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it is sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nx"), "{answer}");
    // What a client of HTTP/2 says first, and an empty SETTINGS frame: it is answered with one.
    let mut http2 = tokio::net::TcpStream::connect(sidecar.address()).await.expect("it listens");
    http2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it is sent");
    let mut frame = [0; 9];
    http2.read_exact(&mut frame).await.expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS: {frame:?}");
}
