//! What the README promises of a store that is well, over plain HTTP and through every member.

use std::time::Duration;

use annulus_tests::processes::{Answer, Dev, Http, until};
use bytes::Bytes;
use http::Method;

/// A request with a body and at most one header.
async fn ask(method: Method, address: &str, path: &str, header: Option<(&str, &str)>, body: &'static str) -> Answer {
    let headers: Vec<(&str, &str)> = header.into_iter().collect();
    let answer = Http::default().send(method, address, path, &headers, body).await;
    answer.unwrap_or_else(|failure| panic!("{path}: {failure}"))
}

async fn get(address: &str, path: &str) -> Answer {
    ask(Method::GET, address, path, None, "").await
}

#[tokio::test]
async fn what_one_member_is_told_every_member_tells() {
    let dev = Dev::ready().await;
    let mut version = 0;
    for (number, address) in dev.addresses().iter().enumerate() {
        let value = ["hello", "hi", "good day"][number];
        let put = ask(Method::PUT, address, "/v1/kv/greeting", None, value).await;
        assert_eq!(put.status, if number == 0 { 201 } else { 204 });
        assert!(put.version() > Some(version), "versions rise: {put:?}");
        version = put.version().expect("a put is answered with its version");
        for other in dev.addresses() {
            let got = get(&other, "/v1/kv/greeting").await;
            assert_eq!((got.status, &*got.text(), got.version()), (200, value, Some(version)));
            assert_eq!(got.header("annulus-epoch"), put.header("annulus-epoch"));
        }
    }
}

#[tokio::test]
async fn conditions_hold_writes_and_reads_to_a_version() {
    let dev = Dev::ready().await;
    let [first, second, third] = dev.addresses().try_into().expect("there are three members");
    let path = "/v1/kv/greeting";
    let absent = Some(("if-none-match", "*"));
    let created = ask(Method::PUT, &first, path, absent, "hello").await;
    assert_eq!(created.status, 201);
    let etag = created.header("etag").to_owned();
    let again = ask(Method::PUT, &second, path, absent, "hello").await;
    assert_eq!((again.status, again.header("etag")), (412, &*etag));
    assert_eq!(again.header("content-type"), "application/problem+json");
    assert_eq!(ask(Method::GET, &third, path, Some(("if-none-match", &etag)), "").await.status, 304);

    let replaced = ask(Method::PUT, &third, path, Some(("if-match", &etag)), "hi").await;
    assert_eq!(replaced.status, 204);
    let late = ask(Method::PUT, &first, path, Some(("if-match", &etag)), "late").await;
    assert_eq!((late.status, late.header("etag")), (412, replaced.header("etag")));
    assert_eq!(get(&second, path).await.text(), "hi");

    assert_eq!(ask(Method::DELETE, &first, path, Some(("if-match", &etag)), "").await.status, 412);
    assert_eq!(ask(Method::DELETE, &second, path, Some(("if-match", replaced.header("etag"))), "").await.status, 204);
    assert_eq!(ask(Method::DELETE, &third, path, None, "").await.status, 404);
    for address in [&first, &second, &third] {
        assert_eq!(get(address, path).await.status, 404);
    }
    let back = ask(Method::PUT, &first, path, None, "back").await;
    assert!(back.status == 201 && back.version() > replaced.version(), "versions rise across a delete: {back:?}");
}

#[tokio::test]
async fn a_key_with_a_time_to_live_goes_away_by_itself() {
    let dev = Dev::ready().await;
    let put = ask(Method::PUT, &dev.address(0), "/v1/kv/session/7?ttl=300ms", None, "x").await;
    assert_eq!(put.status, 201);
    until("the key goes away", Duration::from_secs(10), async || {
        (get(&dev.address(1), "/v1/kv/session/7").await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_of_all_partitions_are_listed_in_order_page_by_page_through_every_member() {
    let dev = Dev::ready().await;
    let http = Http::default();
    let keys: Vec<String> = (0..300).map(|number| format!("list/{number:03}")).collect();
    for (number, key) in keys.iter().enumerate() {
        let put = http.put(&dev.address(number % 3), key, format!("value of {key}")).await.expect("it is answered");
        assert_eq!(put.status, 201, "{key}: {}", put.text());
    }
    // Neighbours of the prefix on either side.
    for key in ["list", "list.", "list0"] {
        assert_eq!(http.put(&dev.address(0), key, Bytes::new()).await.expect("it is answered").status, 201);
    }
    for address in dev.addresses() {
        let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = get(&address, &format!("/v1/kv?prefix=list/&limit=70&values=true{cursor}")).await;
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            pages += 1;
            for item in page["items"].as_array().expect("a page has items") {
                let key = item["key"].as_str().expect("these keys are text").to_owned();
                assert_eq!(item["value"], format!("value of {key}"));
                assert!(item["version"].as_u64() > Some(0));
                found.push(key);
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((&found, pages), (&keys, 5), "through {address}");
    }
}

#[tokio::test]
async fn every_member_tells_the_same_ring_and_how_it_is() {
    let dev = Dev::ready().await;
    let ids: Vec<String> = dev.members().into_iter().map(|member| member.id).collect();
    for address in dev.addresses() {
        let ring = until("the ring has all leaders", Duration::from_secs(10), async || {
            let ring = get(&address, "/v1/ring").await.json();
            let assignments = ring["assignments"].as_array()?;
            assignments.iter().all(|assignment| assignment["leader"].is_string()).then_some(ring)
        })
        .await;
        assert_eq!((ring["partitions"].as_u64(), ring["replication_factor"].as_u64()), (Some(128), Some(3)));
        let members = ring["members"].as_array().expect("a ring has members");
        assert_eq!(members.len(), 3);
        for place in dev.members() {
            let member = members.iter().find(|member| member["id"] == place.id).expect("every member is listed");
            assert_eq!((member["name"].as_str(), member["state"].as_str()), (Some(&*place.name), Some("active")));
            assert_eq!(member["client_address"], place.client_address);
        }
        let assignments = ring["assignments"].as_array().expect("a ring has assignments");
        assert_eq!(assignments.len(), 128);
        for (number, assignment) in assignments.iter().enumerate() {
            assert_eq!(assignment["partition"].as_u64(), Some(number as u64));
            let replicas: Vec<&str> =
                assignment["replicas"].as_array().expect("it has").iter().filter_map(|id| id.as_str()).collect();
            assert!(ids.iter().all(|id| replicas.contains(&&**id)), "three of three hold it: {assignment}");
        }

        assert_eq!(get(&address, "/healthz").await.status, 200);
        assert_eq!(get(&address, "/readyz").await.status, 200);
        let metrics = get(&address, "/metrics").await;
        assert!(metrics.status == 200 && metrics.text().contains("# TYPE annulus_"), "{}", metrics.text());
        let description = get(&address, "/openapi.json").await.json();
        assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
        assert!(description["paths"]["/v1/ring"].is_object());
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_as_a_problem() {
    let dev = Dev::ready().await;
    for (path, status) in [("/v1/kv/", 400), ("/v1/kv?limit=-1", 400), ("/v1/nothing", 404), ("/v1/kv/absent", 404)] {
        let answer = get(&dev.address(2), path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert!(problem["type"].is_string() && problem["detail"].is_string(), "{path}: {problem}");
    }
}
