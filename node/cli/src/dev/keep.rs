//! Keeps the members of the map those that are wanted, while the store serves.
//!
//! ```text
//!  asleep ◀── settled ── awake ─▶ ask processes, plan ─▶ decide ─▶ store.json ─▶ state the members ─┐
//!    │                     ▲  ▲                                                                     │
//!    └── a member came back└──│─────────────────────────── a moment later ◀─────────────────────────┘
//!        as somebody else
//! ```
//!
//! What it never does: state what is not written down before; act on a plan that is older than what a member goes by; stop
//! or start a process, which is for whoever asks it to say.

use std::collections::BTreeSet;
use std::time::Duration;

use annulus_client::admin::{Admin, Members};
use annulus_client::node::Nodes;
use annulus_client::{Client, Error};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::folder::{Folder, Store};
use super::layout::Place;
use super::wish::{Answers, Wish, decide, is_behind};
use crate::exit::Failure;
use crate::members;
use crate::progress::Follow;

/// How far rounds are apart.
const ROUND: Duration = Duration::from_millis(200);
/// A person is told after this long in which nothing has come any further, and then each time it has passed again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long processes that have just been started may take until the leader of the map finds them and they have caught up.
const NEW_PATIENCE: Duration = Duration::from_secs(30);
/// The wait after a refusal: what was refused is tried again, and told again, no sooner.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// Keeps the members as they should be.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    folder: &'a Folder,
    store: Store,
    /// Who is wanted.
    places: Vec<Place>,
    nodes: Nodes,
    admin: Admin,
    /// While awake.
    follow: Option<Follow>,
    next: Instant,
    woken: Instant,
    /// When a person was last told that nothing moves.
    told: Instant,
    /// Members that were started again, and may have come back as somebody else.
    suspects: BTreeSet<u16>,
}

/// What came of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Who the members are, by number.
    pub(super) ids: Vec<(u16, String)>,
    /// Processes to stop for good, and whose volumes to put aside.
    pub(super) discard: Vec<u16>,
    /// Whether the map names exactly those who should be members.
    pub(super) stated: bool,
    /// Whether nothing is left to do.
    pub(super) settled: bool,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(folder: &'a Folder, store: Store, places: Vec<Place>) -> Result<Self, Failure> {
        let client = Client::builder(places.iter().map(|place| place.client_address.clone())).build()?;
        let known = store.members.iter().chain(&store.leaving).map(|member| member.admin_address.as_str());
        let admin = client.admin_at(known)?;
        let now = Instant::now();
        let (nodes, suspects) = (client.nodes(), BTreeSet::new());
        Ok(Self { folder, store, places, nodes, admin, follow: None, next: now, woken: now, told: now, suspects })
    }

    /// Who is wanted.
    pub(super) fn wants(&self, number: u16) -> bool {
        self.places.iter().any(|place| place.number == number)
    }

    /// How many are wanted.
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.places.len()).unwrap_or(u16::MAX)
    }

    /// From now on these are wanted.
    pub(super) fn want(&mut self, places: Vec<Place>) {
        self.places = places;
        self.wake();
    }

    /// For how long the members have been looked after.
    pub(super) fn awake(&self) -> Duration {
        self.woken.elapsed()
    }

    /// Begins to look after the members.
    pub(super) fn wake(&mut self) {
        self.follow.get_or_insert_with(|| Follow::new(self.admin.clone(), 0));
        self.woken = Instant::now();
        self.told = self.woken;
    }

    /// A member was started again: finds out whether it is still the same.
    pub(super) fn suspect(&mut self, number: u16) {
        self.suspects.insert(number);
    }

    /// The next round. Pending for ever while there is nothing to look after. May be dropped at any time.
    pub(super) async fn round(&mut self, running: &[Place]) -> Result<Round, Failure> {
        sleep_until(self.next).await;
        self.next = Instant::now() + ROUND;
        if self.follow.is_none() {
            self.look_at_suspects(running).await;
            return Ok(Round::default());
        }
        let done = self.keep(running).await;
        if done.is_err() {
            self.next = Instant::now() + AFTER_REFUSAL;
        }
        done
    }

    async fn keep(&mut self, running: &[Place]) -> Result<Round, Failure> {
        let answers = self.ask(running).await;
        let Some(follow) = &mut self.follow else { return Ok(Round::default()) };
        let looked = follow.look().await;
        if follow.stalled() > PATIENCE && self.told.elapsed() > PATIENCE {
            self.told = Instant::now();
            follow.say(&format!("Nothing has moved for a while: {}.", follow.outlook()));
        }
        let plan = looked.map_err(not_told)?;
        let Some(plan) = plan.filter(|plan| !is_behind(plan, &answers)) else { return Ok(Round::default()) };
        let wish = decide(&self.places, &answers, &self.store, &plan);
        let ids = answers.iter().map(|(number, status)| (*number, status.id.to_string())).collect();
        let all_known = wish.members.len() == self.places.len();
        if all_known {
            self.write_down(&wish)?;
            if wish.to_be_stated && self.state(plan.epoch, &wish).await? {
                // What came of it is looked at right away.
                self.next = Instant::now();
            }
        }
        let stated = all_known && !wish.to_be_stated && wish.discard.is_empty();
        let settled = stated && wish.leaving.is_empty() && plan.settled;
        if settled {
            self.sleep();
        }
        Ok(Round { ids, discard: wish.discard, stated, settled })
    }

    /// Writes something while no bar is in the way.
    pub(super) fn aside(&self, write: impl FnOnce()) {
        match &self.follow {
            Some(follow) => follow.aside(write),
            None => write(),
        }
    }

    /// Asks all processes at once who they are; one that does not answer is left out.
    async fn ask(&self, running: &[Place]) -> Answers {
        let mut asked = JoinSet::new();
        for place in running.iter().cloned() {
            let nodes = self.nodes.clone();
            asked.spawn(async move {
                let status = nodes.status(&place.admin_address).await.ok()?;
                // Whoever else listens there is not ours.
                (status.name == place.name).then_some((place.number, status))
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// Writes down who should be a member before anybody is told.
    fn write_down(&mut self, wish: &Wish) -> Result<(), Failure> {
        if self.store.members == wish.members && self.store.leaving == wish.leaving {
            return Ok(());
        }
        self.store.members.clone_from(&wish.members);
        self.store.leaving.clone_from(&wish.leaving);
        self.folder.write_store(&self.store)
    }

    /// States who should be a member; tells whether that is so now. What may succeed later is left to the next round.
    async fn state(&self, epoch: u64, wish: &Wish) -> Result<bool, Failure> {
        let members = Members { epoch: Some(epoch), members: wish.all.clone() };
        let error = match self.admin.put_members(&members).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        let passes = match &error {
            Error::Unavailable { .. } | Error::OutcomeUnknown { .. } => true,
            Error::Conflict(problem) => match problem.kind() {
                "map-changed" | "change-in-progress" => true,
                "member-mismatch" | "quorum-at-risk" => self.woken.elapsed() < NEW_PATIENCE,
                _ => false,
            },
            _ => false,
        };
        if passes { Ok(false) } else { Err(members::refused(error)) }
    }

    /// Looks who came back. One that is not who it was needs looking after.
    async fn look_at_suspects(&mut self, running: &[Place]) {
        if self.suspects.is_empty() {
            return std::future::pending().await;
        }
        let suspected = running.iter().filter(|place| self.suspects.contains(&place.number)).cloned();
        let suspected: Vec<Place> = suspected.collect();
        let answers = self.ask(&suspected).await;
        for (number, status) in &answers {
            self.suspects.remove(number);
            if self.store.member(*number).is_none_or(|member| member.id != status.id.to_string()) {
                self.wake();
            }
        }
    }

    fn sleep(&mut self) {
        if let Some(follow) = self.follow.take() {
            follow.end();
        }
    }
}

fn not_told(error: Error) -> Failure {
    match error {
        Error::Refused(problem) if problem.status == 404 => Failure::Refused(
            "the members run a version that can't change the members of a store; start them with a newer one".into(),
        ),
        error => error.into(),
    }
}
