//! `/v1/kv?prefix=`.

use annulus_core::lane::Refusal;

use super::*;

/// All pages of a listing, as (keys, number of pages).
async fn all_pages(server: &Server, query: &str) -> (Vec<String>, usize) {
    let (mut keys, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let answer = server.get(&format!("/v1/kv?{query}{cursor}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        keys.extend(json["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()));
        pages += 1;
        match json["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (keys, pages),
        }
    }
}

#[test]
fn every_key_under_a_prefix_is_listed_once_and_in_order_however_small_the_pages() {
    client_port(async |server| {
        let keys: Vec<String> = (0..100).map(|n| format!("a/{n:03}")).collect();
        server.fake.fill(keys.iter().map(String::as_str), "v");
        server.fake.fill(["a", "a.", "a0", "b"], "outside");
        for page_keys in [1, 2, 7, 1000] {
            server.fake.page_keys.set(page_keys);
            for (limit, pages) in [(1000, 1), (100, 1), (99, 2), (33, 4), (7, 15), (1, 100)] {
                let listed = all_pages(&server, &format!("prefix=a/&limit={limit}")).await;
                assert_eq!(listed, (keys.clone(), pages), "{page_keys} {limit}");
            }
        }
        assert_eq!(all_pages(&server, "").await.0.len(), 104);
        assert_eq!(all_pages(&server, "prefix=c").await, (Vec::new(), 1));
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn keys_that_are_there_throughout_are_listed_once_while_others_come_and_go() {
    client_port(async |server| {
        let keep: Vec<String> = (0..60).map(|n| format!("k{n:03}")).collect();
        server.fake.fill(keep.iter().map(String::as_str), "v");
        server.fake.page_keys.set(3);
        let (mut listed, mut cursor, mut round) = (Vec::new(), String::new(), 0);
        loop {
            let json = server.get(&format!("/v1/kv?prefix=k&limit=7{cursor}")).await.json();
            let page = json["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned());
            listed.extend(page.filter(|key| !key.contains('-')));
            round += 1;
            server.fake.fill((0..60).map(|n| format!("k{n:03}-{round}")), "v");
            server.fake.keys.borrow_mut().retain(|key, _| !key.ends_with(format!("-{}", round - 1).as_bytes()));
            match json["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(listed, keep);
    });
}

#[test]
fn an_item_shows_text_as_text_and_other_bytes_in_base64() {
    client_port(async |server| {
        server.fake.put("a", "text");
        server.fake.put(b"\xff\xfe".to_vec(), b"\x00\xff".to_vec());
        let with = server.get("/v1/kv?values=true").await;
        assert_eq!((with.header("content-type"), with.header("annulus-epoch")), (Some("application/json"), Some("5")));
        let expected = serde_json::json!({
            "items": [
                {"key": "a", "version": 17, "value": "text"},
                {"key_base64": "//4=", "version": 18, "value_base64": "AP8="},
            ],
            "cursor": null,
        });
        assert_eq!(with.json(), expected);
        let without = server.get("/v1/kv?prefix=a").await;
        assert_eq!(without.json()["items"], serde_json::json!([{"key": "a", "version": 17}]));
        assert_eq!(server.get("/v1/kv?prefix=%FF").await.json()["items"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_page_ends_at_its_bytes_too_but_never_before_its_first_item() {
    let limits = Limits { max_page_bytes: 100, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        server.fake.fill((0..10).map(|n| format!("k{n}")), &"x".repeat(48));
        let (keys, pages) = all_pages(&server, "values=true").await;
        assert_eq!((keys.len(), pages), (10, 5));
        server.fake.put("k", "x".repeat(500));
        assert_eq!(server.get("/v1/kv?values=true").await.json()["items"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_limit_or_a_cursor_that_cannot_be_is_400() {
    client_port(async |server| {
        server.fake.fill((0..9).map(|n| format!("a{n}")), "v");
        for limit in ["-1", "0", "1001", "ten"] {
            let problem = server.get(&format!("/v1/kv?limit={limit}")).await.problem(400, "invalid-parameter");
            assert_eq!((&problem["parameter"], &problem["maximum"]), (&"limit".into(), &1000.into()));
        }
        let json = server.get("/v1/kv?prefix=a&limit=3").await.json();
        let cursor = json["cursor"].as_str().unwrap();
        assert_eq!(server.get(&format!("/v1/kv?prefix=a&cursor={cursor}")).await.status, 200);
        for query in [
            format!("prefix=b&cursor={cursor}"),
            format!("cursor={cursor}"),
            format!("prefix=a&cursor={}", &cursor[1..]),
            format!("prefix=a&cursor=A{cursor}"),
            "cursor=forged".to_owned(),
            "cursor=".to_owned(),
            "cursor=%00".to_owned(),
        ] {
            server.get(&format!("/v1/kv?{query}")).await.problem(400, "invalid-cursor");
        }
        server.get("/v1/kv?prefix=%zz").await.problem(400, "invalid-parameter");
        server.get("/v1/kv?perfix=a").await.problem(400, "unknown-parameter");
        server.get("/v1/kv?values=yes").await.problem(400, "invalid-parameter");
    });
}

#[test]
fn a_partition_that_cannot_answer_leaves_no_page_at_all() {
    client_port(async |server| {
        server.fake.put("a", "v");
        server.fake.script(Reply::Refused(Refusal::NotLeader { leader: None }));
        server.get("/v1/kv").await.problem(503, "no-leader");
        server.fake.script(Reply::Scan(Page { items: Vec::new(), more: true }));
        server.get("/v1/kv").await.problem(500, "internal");
    });
}

#[test]
fn a_listing_that_would_take_too_much_memory_is_429() {
    let limits = Limits { max_bytes_in_flight: 1000, ..Limits::default() };
    with_limits(Port::Client, limits, async |server| {
        server.fake.fill((0..10).map(|n| format!("k{n}")), &"x".repeat(400));
        server.get("/v1/kv?values=true").await.problem(429, "overloaded");
        assert_eq!(server.get("/v1/kv").await.status, 200);
        assert_eq!(server.resources.metrics.http.bytes_in_flight.get(), 0);
    });
}

#[test]
fn a_page_counts_as_bytes_in_flight_until_its_client_has_read_it() {
    client_port(async |server| {
        let bytes = 32 << 20;
        server.fake.put("a", vec![b'x'; bytes]);
        let mut client = server.connect().await;
        client.send(b"GET /v1/kv?values=true HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.read().await, "the page has begun to arrive, and does not fit into the sockets");
        assert!(server.resources.metrics.http.bytes_in_flight.get() > 32 << 20, "the page with its JSON");
        drop(client);
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while server.resources.metrics.http.bytes_in_flight.get() > 0 {
            tick.tick().await;
        }
    });
}
