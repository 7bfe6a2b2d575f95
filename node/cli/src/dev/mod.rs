//! `annulus dev`: a store on this machine, each member a process of its own.
//!
//! ```text
//! folder locked, ports free ─▶ members started ─▶ who are they? ─▶ bootstrapped (once) ─▶ all ready ─▶ watched
//!                                   │ one ends             │ not who they were                          │ one ends
//!                                   ▼                      ▼                                            ▼
//!                              all end, with the reason and its log                             started again
//! ```
//!
//! What it never does: change who the members of a store are; start on a folder that another `dev` runs on; outlive or
//! be outlived by its members: they end on SIGTERM, and when their stdin closes, as it does when this process is killed.

mod folder;
mod herd;
mod layout;
mod start;

use std::io::Write;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args;
use crate::exit::Failure;
use folder::{Folder, Store};
use herd::{Event, Herd};
use layout::Layout;

/// Runs a store until Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: args::Dev) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let folder = Folder::open(arguments.data.clone())?;
    let ended = run_in(&folder, &mut stop, arguments).await;
    folder.close();
    ended
}

async fn run_in(folder: &Folder, stop: &mut Stop, arguments: args::Dev) -> Result<(), Failure> {
    let began = Instant::now();
    let layout = Layout::new(folder.root(), arguments.members, arguments.client_port);
    let store = folder.store()?;
    if let Some(store) = &store {
        store.check_flags(&layout, folder.root())?;
    }
    layout.wait_for_ports(folder.left_in_haste()).await?;
    let program = match arguments.program {
        Some(program) => program,
        None => std::env::current_exe().map_err(|error| Failure::system("this program can't be found", &error))?,
    };
    let mut herd = Herd::new(&layout, program);
    let watched = tokio::select! {
        // Without an order, whatever is ready is taken: a stop is never starved by members that die all the time.
        () = stop.asked() => Ok(()),
        failed = bring_up_and_watch(&mut herd, folder, store, arguments.no_restart, began) => failed,
    };
    eprintln!("Ending the members; once more Ctrl-C kills them.");
    herd.end(stop.asked()).await;
    watched
}

/// Brings the store up and watches over it. Ends only with an error.
async fn bring_up_and_watch(
    herd: &mut Herd<'_>,
    folder: &Folder,
    store: Option<Store>,
    no_restart: bool,
    began: Instant,
) -> Result<(), Failure> {
    let layout = herd.layout();
    for place in 0..layout.members.len() {
        herd.start(place)?;
    }
    let starting = start::Start::new(layout, folder);
    let members = tokio::select! {
        members = starting.identify(store.as_ref()) => members?,
        failure = herd.ended_early() => return Err(failure),
    };
    herd.set_ids(members.iter().map(|member| member.id.to_string()).collect());
    folder.write_dev(&herd.dev_file())?;
    tokio::select! {
        ready = starting.bootstrap(store, &members) => ready?,
        failure = herd.ended_early() => return Err(failure),
    }
    announce(layout, folder, herd, began);
    watch(herd, folder, no_restart).await
}

/// Watches the members: says which one died and starts it again. Ends only with an error.
async fn watch(herd: &mut Herd<'_>, folder: &Folder, no_restart: bool) -> Result<(), Failure> {
    loop {
        match herd.event().await {
            Event::Ended(ended) => {
                eprintln!("{}", herd.obituary(&ended, no_restart));
                if !no_restart {
                    herd.start_later(&ended);
                }
            }
            Event::Due(place) => {
                if let Err(failure) = herd.start(place) {
                    eprintln!("annulus: {failure}");
                    herd.start_later_after_failure(place);
                }
            }
        }
        folder.write_dev(&herd.dev_file())?;
    }
}

/// Says where everything is, and what to try first.
fn announce(layout: &Layout, folder: &Folder, herd: &Herd<'_>, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let root = folder.root().display();
    let count = layout.members.len();
    let mut text = format!(
        "Annulus is up: {count} {} after {seconds:.1} s. Data and logs: {root}\n",
        if count == 1 { "member" } else { "members" }
    );
    for (member, pid) in layout.members.iter().zip(herd.pids()) {
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        let (name, client, admin) = (&member.name, &member.client_address, &member.admin_address);
        text.push_str(&format!("  {name:<8} http://{client}   admin {admin}   pid {pid}\n"));
    }
    let first = &layout.members[0].client_address;
    let last = &layout.members[count - 1].client_address;
    let endpoint = if layout.client_port == 7070 { String::new() } else { format!(" --endpoint {first}") };
    text.push_str(&format!(
        "\nTry it:\n  curl -X PUT http://{first}/v1/kv/greeting --data-binary hello\n  curl http://{last}/v1/kv/greeting\n  \
         annulus ring{endpoint}\n\nCtrl-C ends it; the data stays.\n"
    ));
    // Whoever started this may not read what it says; the store runs all the same.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Ctrl-C or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::system("signals can't be received", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
