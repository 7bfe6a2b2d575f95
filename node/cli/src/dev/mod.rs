//! `annulus dev`: a store on this machine, each member a process of its own.
//!
//! ```text
//! folder locked, ports free ─▶ processes started ─▶ who are they? ─┬─ a new store: bootstrapped ──┬─▶ ready ─▶ watched
//!                                   │ one ends             │       └─ not who is wanted: stated ──┘              │ one ends
//!                                   ▼                      ▼ of another store                                    ▼
//!                              all end, with the reason and its log                                       started again
//! ```
//!
//! When other members are wanted than the store has (`--members`, `--zones`, an emptied volume), it serves while the ring
//! changes: `keep.rs` states who the members should be until that is so, `wish.rs` decides it. Whoever has left the map is
//! ended, and its volume put aside.
//!
//! With `--file` a StorageCluster says what is wanted (`file.rs`); when that says another number of replicas, the store is scaled
//! the same way while it runs.
//!
//! What it never does: start on a folder that another `dev` runs on; use the volume of a member that has left; outlive or
//! be outlived by its members: they end on SIGTERM, and when their stdin closes, as it does when this process is killed.

mod file;
mod folder;
mod herd;
mod keep;
mod layout;
mod start;
mod wish;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Instant;

use annulus_client::node::Status;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args;
use crate::exit::Failure;
use file::{Change, Follower};
use folder::{Folder, Store};
use herd::{Event, Herd};
use keep::{Keeper, Round};
use layout::{Layout, Place, Shape};
use start::Start;

/// Runs a store until Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: args::Dev) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let follower = arguments.file.as_deref().map(Follower::open).transpose()?;
    let own = follower.as_ref().and_then(|follower| folder::cluster_root(&follower.wanted().name));
    let folder = Folder::open(arguments.data.clone().or(own))?;
    let ended = run_in(&folder, &mut stop, arguments, follower).await;
    folder.close();
    ended
}

async fn run_in(
    folder: &Folder,
    stop: &mut Stop,
    arguments: args::Dev,
    mut follower: Option<Follower>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let wanted = follower.as_ref().map(Follower::wanted);
    let members = wanted.map_or(arguments.members, |wanted| wanted.members);
    let shape = wanted.map_or(Shape::of(members), |wanted| wanted.shape);
    let environment = wanted.map(|wanted| wanted.environment.clone()).unwrap_or_default();
    let mut store = folder.store()?;
    let mut zones = arguments.zones.clone();
    if let Some(store) = &mut store {
        if wanted.is_some() {
            store.check_shape(shape, folder.root())?;
        }
        store.check_flags(members, arguments.client_port, folder.root())?;
        match zones.is_empty() {
            true => zones.clone_from(&store.zones),
            false => store.zones.clone_from(&zones),
        }
    }
    let layout = Layout { root: folder.root().to_owned(), client_port: arguments.client_port, zones };
    let known = store.iter().flat_map(Store::numbers);
    let numbers: BTreeSet<u16> = known.chain(1..=members).collect();
    let places: Vec<Place> = numbers.into_iter().map(|number| layout.place(number)).collect();
    layout::wait_for_ports(&places, folder.left_in_haste()).await?;
    let program = match arguments.program {
        Some(program) => program,
        None => std::env::current_exe().map_err(|error| Failure::system("this program can't be found", &error))?,
    };
    let mut herd = Herd::new(program, environment, places.iter().cloned());
    if let Some(told) = wanted.and_then(file::Wanted::without_meaning) {
        eprintln!("{told}");
    }
    let dev = Dev { folder, layout, places, members, shape, no_restart: arguments.no_restart, began };
    let watched = tokio::select! {
        // Without an order, whatever is ready is taken: a stop is never starved by members that die all the time.
        () = stop.asked() => Ok(()),
        failed = dev.bring_up_and_watch(&mut herd, store, &mut follower) => failed,
    };
    eprintln!("Ending the members; once more Ctrl-C kills them.");
    herd.end(stop.asked()).await;
    watched
}

/// A store that runs.
struct Dev<'a> {
    folder: &'a Folder,
    layout: Layout,
    /// Everybody who is started.
    places: Vec<Place>,
    /// How many members are wanted at first.
    members: u16,
    /// What a new store is made with.
    shape: Shape,
    no_restart: bool,
    began: Instant,
}

impl Dev<'_> {
    /// Brings the store up and watches over it. Ends only with an error.
    async fn bring_up_and_watch(
        &self,
        herd: &mut Herd,
        store: Option<Store>,
        follower: &mut Option<Follower>,
    ) -> Result<(), Failure> {
        for place in &self.places {
            herd.start(place.number)?;
        }
        let starting = Start::new(&self.layout, self.folder, &self.places, self.shape);
        let statuses = tokio::select! {
            statuses = starting.identify(store.as_ref()) => statuses?,
            failure = herd.ended_early() => return Err(failure),
        };
        for (place, status) in self.places.iter().zip(&statuses) {
            herd.set_id(place.number, status.id.to_string());
        }
        self.folder.write_dev(&herd.dev_file())?;
        let existed = store.is_some();
        let (store, wake) = tokio::select! {
            made = self.make_or_compare(&starting, store, &statuses) => made?,
            failure = herd.ended_early() => return Err(failure),
        };
        let wanted: Vec<Place> = (1..=self.members).map(|number| self.layout.place(number)).collect();
        let mut keeper = Keeper::new(self.folder, store, wanted.clone())?;
        if wake {
            keeper.wake();
            self.watch(herd, &mut keeper, &mut None, Until::Stated).await?;
        }
        // Who has just joined comes up while the store serves.
        let old = |place: &&Place| {
            let status = self.places.iter().position(|known| known == *place).map(|at| &statuses[at]);
            status.is_some_and(|status| herd.member(place.number).is_some_and(|(_, id)| id == status.id.to_string()))
                && (!wake || status.is_some_and(|status| status.cluster.is_some()))
        };
        let first: Vec<Place> = wanted.iter().filter(old).cloned().collect();
        tokio::select! {
            late = starting.ready(&first) => for failure in late? {
                if !existed {
                    return Err(failure);
                }
                // Those that are ready may be enough for all that the store holds.
                eprintln!("annulus: {failure}\n  The others go on without it, as far as they can.");
            },
            failure = herd.ended_early() => return Err(failure),
        }
        keeper.aside(|| self.announce(herd, follower.as_ref()));
        self.watch(herd, &mut keeper, follower, Until::Stopped).await
    }

    /// Makes the store, or holds its map against who is wanted: tells whether they differ, or the ring has not settled.
    async fn make_or_compare(
        &self,
        starting: &Start<'_>,
        store: Option<Store>,
        statuses: &[Status],
    ) -> Result<(Store, bool), Failure> {
        let Some(store) = store else { return Ok((starting.make(statuses).await?, false)) };
        starting.bootstrap_again(&store, statuses).await?;
        let wanted: Vec<Place> = (1..=self.members).map(|number| self.layout.place(number)).collect();
        let known = |place: &Place| {
            let member = store.members.iter().find(|member| member.name == place.name);
            member.is_some_and(|member| member.zone == place.zone)
        };
        let same_ids =
            self.places.iter().zip(statuses).all(|(place, status)| {
                store.member(place.number).is_some_and(|member| member.id == status.id.to_string())
            });
        let unchanged = wanted.len() == self.places.len() && wanted.iter().all(known) && same_ids;
        let wake = match starting.plan().await? {
            Some(plan) => {
                let answers = self.places.iter().map(|place| place.number).zip(statuses.iter().cloned()).collect();
                let wish = wish::decide(&wanted, &answers, &store, &plan);
                let idle = !wish.to_be_stated && wish.discard.is_empty() && wish.leaving.is_empty() && plan.settled;
                !(unchanged && idle)
            }
            // Members of an older version: they go on as they are, and what is not so can't be changed.
            None => !unchanged,
        };
        Ok((store, wake))
    }

    /// Watches the members: says which one died and starts it again, and carries out what the keeper asks for. Ends, but for
    /// an error, only when the map names whom it should and that is what was waited for.
    async fn watch(
        &self,
        herd: &mut Herd,
        keeper: &mut Keeper<'_>,
        follower: &mut Option<Follower>,
        until: Until,
    ) -> Result<(), Failure> {
        let mut written = None;
        loop {
            let dev = herd.dev_file();
            if written.as_ref() != Some(&dev) {
                self.folder.write_dev(&dev)?;
                written = Some(dev);
            }
            let running = herd.places();
            tokio::select! {
                event = herd.event() => self.happened(herd, keeper, event, until)?,
                change = changed(follower) => self.follow(herd, keeper, follower, change),
                round = keeper.round(&running) => match round {
                    Ok(round) => {
                        if self.carry_out(herd, keeper, round, until) {
                            return Ok(());
                        }
                    }
                    Err(failure) if until == Until::Stated => return Err(failure),
                    Err(failure) => eprintln!("annulus: {failure}"),
                },
            }
        }
    }

    /// Goes on after something happened to a member.
    fn happened(&self, herd: &mut Herd, keeper: &mut Keeper<'_>, event: Event, until: Until) -> Result<(), Failure> {
        match event {
            Event::Ended(ended) if until == Until::Stated => return Err(herd.early_end(&ended)),
            Event::Ended(ended) => {
                keeper.aside(|| eprintln!("{}", herd.obituary(&ended, self.no_restart)));
                if !self.no_restart {
                    herd.start_later(&ended);
                }
            }
            Event::Due(number) => match herd.start(number) {
                Ok(()) => keeper.suspect(number),
                Err(failure) => {
                    eprintln!("annulus: {failure}");
                    herd.start_later_after_failure(number);
                }
            },
            Event::Stopped(number) => {
                if let Some((place, id)) = herd.member(number) {
                    self.folder.set_aside(place, id)?;
                }
                if keeper.wants(number) {
                    herd.start(number)?;
                } else {
                    herd.remove(number);
                }
            }
        }
        Ok(())
    }

    /// Goes on after the file has changed.
    fn follow(&self, herd: &mut Herd, keeper: &mut Keeper<'_>, follower: &mut Option<Follower>, change: Change) {
        keeper.aside(|| change.notes.iter().for_each(|note| eprintln!("{note}")));
        let Some(members) = change.members else { return };
        let wanted: Vec<Place> = (1..=members).map(|number| self.layout.place(number)).collect();
        let new: Vec<Place> = wanted.iter().filter(|place| herd.member(place.number).is_none()).cloned().collect();
        if let Err(failure) = layout::check_ports(&new) {
            keeper.aside(|| eprintln!("annulus: {failure}\n  It keeps {}.", count(keeper.count())));
            return;
        }
        keeper.aside(|| say(&format!("{} instead of {}.\n", count(members), keeper.count())));
        for place in new {
            let number = place.number;
            herd.add(place);
            if let Err(failure) = herd.start(number) {
                keeper.aside(|| eprintln!("annulus: {failure}"));
                herd.start_later_after_failure(number);
            }
        }
        keeper.want(wanted);
        if let Some(follower) = follower {
            follower.resized(members);
        }
    }

    /// Does what a round has found to be done; tells whether that is all that was waited for.
    fn carry_out(&self, herd: &mut Herd, keeper: &Keeper<'_>, round: Round, until: Until) -> bool {
        for (number, id) in round.ids {
            herd.set_id(number, id);
        }
        for number in round.discard {
            herd.stop(number);
        }
        if round.settled && until == Until::Stopped {
            let seconds = keeper.awake().as_secs_f64();
            say(&format!("The ring has settled: {} after {seconds:.1} s.\n", count(keeper.count())));
        }
        until == Until::Stated && round.stated
    }

    /// Says where everything is, and what to try first.
    fn announce(&self, herd: &Herd, follower: Option<&Follower>) {
        let seconds = self.began.elapsed().as_secs_f64();
        let root = self.folder.root().display();
        let running = herd.dev_file().members;
        let started = u16::try_from(running.len()).unwrap_or(u16::MAX);
        let mut text = format!("Annulus is up: {} after {seconds:.1} s. Data and logs: {root}\n", count(started));
        for member in &running {
            let pid = member.pid.map(|pid| pid.to_string()).unwrap_or_default();
            let (name, client, admin) = (&member.name, &member.client_address, &member.admin_address);
            text.push_str(&format!("  {name:<8} http://{client}   admin {admin}   pid {pid}\n"));
        }
        let first = self.layout.place(1).client_address;
        let last = self.layout.place(self.members).client_address;
        let endpoint = if self.layout.client_port == 7070 { String::new() } else { format!(" --endpoint {first}") };
        text.push_str(&format!(
            "\nTry it:\n  curl -X PUT http://{first}/v1/kv/greeting --data-binary hello\n  curl http://{last}/v1/kv/greeting\n  \
             annulus ring{endpoint}\n\nCtrl-C ends it; the data stays.\n"
        ));
        if let Some(follower) = follower {
            text.push_str(&format!("Another number of replicas in {} scales it.\n", follower.path().display()));
        }
        say(&text);
    }
}

/// What is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// That the map names whom it should. A member that ends by itself is an error.
    Stated,
    /// Nothing: the store is up.
    Stopped,
}

/// Waits until the file has changed, if there is one.
async fn changed(follower: &mut Option<Follower>) -> Change {
    match follower {
        Some(follower) => follower.change().await,
        None => std::future::pending().await,
    }
}

fn count(members: u16) -> String {
    format!("{members} {}", if members == 1 { "member" } else { "members" })
}

/// Says something on stdout. Whoever started this may not read what it says; the store runs all the same.
fn say(text: &str) {
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
