//! The verbs that change and show the ring, against a real store: what they print, and how they end.

use std::time::Duration;

use annulus_tests::processes::{Store, annulus, until};
use serde_json::Value;

/// How long what is not a move may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A shell that talks to one store.
struct Shell(String);

/// What a command came to.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Shell {
    fn run(&self, arguments: &str) -> Said {
        let output = annulus()
            .env("ANNULUS_ENDPOINT", &self.0)
            .env("NO_COLOR", "1")
            .args(arguments.split_whitespace())
            .output()
            .expect("the command line runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it says text");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What a command writes that is done.
    fn done(&self, arguments: &str) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "annulus {arguments}: {} {}", said.out, said.err);
        said.out
    }

    fn json(&self, arguments: &str) -> Value {
        let out = self.done(&format!("{arguments} -o json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("annulus {arguments} -o json: {error}: {out}"))
    }

    /// What a command says that ends with this code.
    fn fails(&self, arguments: &str, code: i32) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(code), "annulus {arguments}: {} {}", said.out, said.err);
        said.err
    }
}

fn names(json: &Value) -> Vec<&str> {
    json["members"].as_array().expect("members").iter().filter_map(|member| member["name"].as_str()).collect()
}

#[tokio::test]
async fn a_store_at_rest_is_shown_to_people_and_to_programs() {
    let store = Store::of(3).await;
    let shell = Shell(store.addresses(&[1]).remove(0));
    let members = shell.json("members");
    assert_eq!(names(&members), ["node-1", "node-2", "node-3"]);
    let text = shell.done("members");
    for place in 0..3 {
        let spec = store.spec(place);
        let line = text.lines().find(|line| line.starts_with(&spec.name)).expect("every member has a line");
        assert!(line.contains(&spec.id) && line.contains("active") && line.contains(&spec.admin_address), "{line}");
    }
    let plan = shell.json("plan");
    assert_eq!((&plan["settled"], &plan["epoch"]), (&Value::Bool(true), &members["epoch"]));
    assert_eq!(shell.done("plan").lines().count(), 1, "a settled store has no moves to list");
    assert_eq!(shell.json("ring")["assignments"].as_array().map(Vec::len), Some(128));
    assert!(shell.done("ring").contains("node-2"));
    let history = shell.json("history");
    let events = history["events"].as_array().expect("events");
    assert_eq!(events.last().expect("there is one")["reason"], "bootstrap");
    assert!(shell.done("history").contains("bootstrap"));
    assert_eq!(shell.json("history --epoch 1")["members"].as_array().map(Vec::len), Some(3));
    shell.done("status");

    assert!(shell.fails("members drain node-1", 1).contains("Nothing was changed"));
    assert!(shell.fails("members remove node-9", 1).contains("node-1, node-2, node-3"));
    assert!(shell.fails("members remove node-1 --now", 1).contains("Partitions: "));
    shell.fails("history --epoch 99", 1);
    shell.fails("members promote node-1", 2);
    shell.fails("members drain", 2);
    shell.fails("members add not-an-address", 2);
    shell.fails("members add 127.0.0.1:3 --timeout 1s", 4);
    let nowhere = Shell("127.0.0.1:3".to_owned());
    for verb in ["members", "plan", "history", "ring"] {
        nowhere.fails(&format!("{verb} --timeout 1s"), 4);
    }
    assert_eq!(shell.json("members")["epoch"], members["epoch"], "what was refused has changed nothing");
}

#[tokio::test]
async fn members_come_and_go_by_command_and_the_plan_says_what_it_waits_for() {
    let mut store = Store::slow(3).await;
    let shell = Shell(store.addresses(&[0]).remove(0));
    let new = store.add_node("node-4", "").await;
    let address = store.spec(new).admin_address.clone();
    let added = shell.json(&format!("members add {address}"));
    assert_eq!(added["joined"], serde_json::json!([store.spec(new).id]));
    let text = shell.done("plan");
    assert!(text.contains("node-4") && text.contains("partition"), "{text}");
    store.kill(new);
    let text = until("the plan says whom it waits for", PATIENCE, async || {
        let text = shell.done("plan");
        text.contains("member-unreachable").then_some(text)
    });
    let text = text.await;
    assert!(text.contains("node-4") && !text.contains(&store.spec(new).id), "people are told names: {text}");
    let plan = shell.json("plan");
    let gates = plan["moves"].as_array().expect("moves").iter().filter_map(|one| one["gate"]["name"].as_str());
    assert!(gates.into_iter().any(|gate| gate == "member-unreachable"), "{plan}");
    store.start(new);
    let watched = shell.done("plan --watch");
    assert!(watched.lines().count() > 1, "a line each time: {watched}");
    assert_eq!(shell.json("plan")["settled"], true);
    assert_eq!(shell.json(&format!("members add {address}"))["joined"], serde_json::json!([]), "it is one already");

    let drained = shell.json("members drain node-2 --wait --timeout 60s");
    assert_eq!(drained["state"], "draining");
    assert!(shell.done("members").lines().any(|line| line.starts_with("node-2") && line.contains("draining")));
    shell.done("members undrain node-2 --operator-fence 5");
    assert!(shell.fails("members drain node-2 --operator-fence 4", 1).contains("fence 5"));
    shell.done("members remove node-4 --wait --timeout 60s --operator-fence 5");
    assert_eq!(names(&shell.json("members")), ["node-1", "node-2", "node-3"]);
    let history = shell.done("history");
    assert!(["drain", "undrain", "members", "moves"].iter().all(|reason| history.contains(reason)), "{history}");
}
