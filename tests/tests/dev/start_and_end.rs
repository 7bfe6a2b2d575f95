//! How `dev` starts, ends, and refuses to start.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use annulus_tests::processes::{Dev, Http, Load, tell, until};

/// How long after Ctrl-C everything has to be over.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Two seconds is what a person should wait; the bound is looser, for machines that do other things too.
#[tokio::test]
async fn a_new_store_acknowledges_its_first_write_soon_after_its_start() {
    let mut dev = Dev::new().await;
    let (http, began) = (Http::default(), Instant::now());
    dev.start();
    until("the first write is acknowledged", Duration::from_secs(10), async || {
        http.put(&dev.address(0), "first", "value").await.ok().filter(|answer| answer.status == 201)
    })
    .await;
    tell(format!("from the start of dev to the first acknowledged write: {:.2} s", began.elapsed().as_secs_f64()));
    dev.until_ready().await;
}

#[tokio::test]
async fn dev_json_says_who_the_members_are_and_where() {
    let dev = Dev::ready().await;
    let members = dev.members();
    assert_eq!(members.len(), 3);
    for (place, member) in (0_u16..).zip(&members) {
        let address = |offset: u16| format!("127.0.0.1:{}", dev.client_port() + offset + place);
        assert_eq!(member.name, format!("node-{}", place + 1));
        assert!(member.id.len() == 16 && u64::from_str_radix(&member.id, 16).is_ok(), "{}", member.id);
        assert!(member.pid.is_some());
        let addresses = [&member.client_address, &member.admin_address, &member.peer_address];
        assert_eq!(addresses, [&address(0), &address(100), &address(200)]);
        assert!(member.data.starts_with(dev.data()) && member.data.join("identity").exists());
        let status = Http::default().get(&member.admin_address, "/admin/v1/status").await.expect("it answers").json();
        assert_eq!((status["id"].as_str(), status["name"].as_str()), (Some(&*member.id), Some(&*member.name)));
    }
    let output = dev.output();
    assert!(output.contains("Annulus is up") && output.contains("curl -X PUT"), "{output}");
}

#[tokio::test]
async fn ctrl_c_ends_every_process_and_the_next_start_has_every_key() {
    let mut dev = Dev::ready().await;
    let load = Load::begin(&dev);
    load.more(200).await;
    let began = Instant::now();
    let ended = dev.interrupt(END_PATIENCE).await;
    assert!(ended.success(), "{ended}: {}", dev.output());
    assert!(!dev.data().join("dev.json").exists(), "nothing runs, so there is nothing to tell of");
    tell(format!("from Ctrl-C under load to the end of all processes: {:.2} s", began.elapsed().as_secs_f64()));
    dev.start();
    dev.until_ready().await;
    load.more(100).await;
    assert_eq!(load.end().await.violations(), []);
}

#[tokio::test]
async fn a_second_dev_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let mut dev = Dev::ready().await;
    let (ended, said) = dev.start_another().await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("another `annulus dev` (process ") && said.contains("End it, or"), "{said}");
    dev.until_ready().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_by_name() {
    let dev = Dev::new().await;
    let taken = dev.client_port() + 101;
    let _listener = TcpListener::bind(("127.0.0.1", taken)).expect("the port was free");
    let (ended, said) = dev.start_another().await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{taken}, the admin port of node-2")), "{said}");
}
