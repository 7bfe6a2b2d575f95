//! Changes of a store's members, and what the store makes of them: the operator's calls.
//!
//! They go to the admin port of any member, which forwards them to the leader of the map; when one does not answer, the
//! next is asked. Every change but [`Admin::remove`] states what is wanted, so that sending it twice changes nothing more;
//! it is repeated, within the deadline, also when its first attempt may have happened.
//!
//! What it never does: send a change anew after somebody else's came in between, or report one of unknown fate as failed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use annulus_core::id::MemberId;
use annulus_core::map::MemberState;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_encode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::client::SEGMENT;
use crate::node::MemberSpec;
use crate::transport::{Answer, Message, Transport};
use crate::verdict::{Safety, Trouble, Verdict, judge, settles};
use crate::{Error, Result, Ring, wire};

/// The wait after all addresses were asked in vain.
const ROUND_WAIT: Duration = Duration::from_millis(50);
/// An attempt that may be repeated gets this part of the call's time.
const ATTEMPT_SHARE: u32 = 4;

/// Changes the members of one store. Clones share what is known of the addresses.
#[derive(Debug, Clone)]
pub struct Admin {
    transport: Transport,
    /// Admin addresses, the one that answered last in front.
    addresses: Arc<Mutex<Vec<Authority>>>,
    fence: Option<u64>,
    deadline: Duration,
}

/// The members that a store should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Members {
    /// Only if the map still has this epoch; `None`: whatever it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// All of them: whoever is a member now and is not named here leaves.
    pub members: Vec<MemberSpec>,
}

/// What a change of the members comes to. Nobody in any list: all was so already.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Changed {
    /// The map's epoch with this change.
    pub epoch: u64,
    /// Who was no member before.
    #[serde(default, with = "wire::list")]
    pub joined: Vec<MemberId>,
    /// Whose replicas move away; then they are no members any more.
    #[serde(default, with = "wire::list")]
    pub leaving: Vec<MemberId>,
    /// Whose zone, weight, addresses or state are others now.
    #[serde(default, with = "wire::list")]
    pub updated: Vec<MemberId>,
}

/// What the store still has to do until its members hold what they should.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    /// The map's epoch.
    pub epoch: u64,
    /// Nothing is left to do.
    pub settled: bool,
    /// Replicas that are not where they should be.
    pub moves_left: u64,
    /// Those of them that are on their way.
    pub moves_under_way: u64,
    /// Bytes that are still to be copied.
    pub bytes_left: u64,
    /// How fast copies have gone lately.
    pub bytes_per_second: u64,
    /// How long it may still take; `None`: it can't be told.
    pub seconds_left: Option<u64>,
    /// Those under way first; not more than a thousand.
    pub moves: Vec<PlannedMove>,
    /// The members of the map.
    pub members: Vec<PlannedMember>,
}

/// A replica that is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct PlannedMove {
    /// The group that the replica belongs to.
    pub group: u32,
    /// The partition that the group replicates; `None`: it is the map group.
    pub partition: Option<u32>,
    /// Who gives the replica up.
    #[serde(default, with = "wire::optional")]
    pub from: Option<MemberId>,
    /// Who receives it.
    #[serde(default, with = "wire::optional")]
    pub to: Option<MemberId>,
    /// How far it has come.
    pub step: Step,
    /// What it waits for.
    pub gate: Option<Gate>,
    /// The size of the replica, as far as it is known.
    #[serde(default)]
    pub bytes: u64,
    /// How much of it has been sent.
    #[serde(default)]
    pub bytes_sent: u64,
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It has not begun.
    Waiting,
    /// The new replica becomes known to its group.
    Adding,
    /// The new replica receives what the group holds.
    Copying,
    /// The new replica takes the old one's vote.
    Switching,
    /// It was called off and is being undone.
    Cancelling,
    /// It is done, and the map is to say so.
    Recording,
    /// A step that this version does not know.
    #[serde(other)]
    Other,
}

impl Step {
    /// Its name, as the store has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Adding => "adding",
            Self::Copying => "copying",
            Self::Switching => "switching",
            Self::Cancelling => "cancelling",
            Self::Recording => "recording",
            Self::Other => "other",
        }
    }
}

/// What a move waits for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Gate {
    /// A stable name, such as `move-slots` or `no-quorum`.
    pub name: String,
    /// The member that it is about.
    #[serde(default, with = "wire::optional")]
    pub member: Option<MemberId>,
    /// The same in words.
    #[serde(default)]
    pub message: String,
}

/// A member of the map, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct PlannedMember {
    /// Its identity.
    #[serde(with = "wire::text")]
    pub id: MemberId,
    /// Its name among people.
    pub name: String,
    /// The zone it runs in; empty when zones are not told apart.
    #[serde(default)]
    pub zone: String,
    /// Its share of the partitions relative to others.
    pub weight: u32,
    /// Where it is in its life.
    #[serde(with = "wire::state")]
    pub state: MemberState,
    /// How many replicas it holds.
    pub replicas: u64,
    /// How many partitions it leads.
    pub leads: u64,
    /// The epoch of the map that it goes by; `None`: it has not been heard.
    pub epoch: Option<u64>,
    /// How long ago the map's leader heard of it; `None`: never.
    pub heard_ms: Option<u64>,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for other members.
    pub peer_address: String,
    /// `host:port` for the operator.
    pub admin_address: String,
}

impl PlannedMember {
    /// What the operator would say to have exactly this member.
    pub fn spec(&self) -> MemberSpec {
        MemberSpec {
            id: self.id.to_string(),
            name: self.name.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
            admin_address: self.admin_address.clone(),
        }
    }
}

/// A change of the map, as its history tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct HistoryEvent {
    /// The epoch that it made.
    pub epoch: u64,
    /// Where several changes stand as one: the epoch of the first.
    pub first_epoch: u64,
    /// When, in RFC 3339; `None`: it is not known.
    pub at: Option<String>,
    /// The operator's fence that it carried.
    #[serde(default)]
    pub fence: u64,
    /// What kind of change, such as `members` or `moves`.
    pub reason: String,
    /// The same in words.
    pub message: String,
}

#[derive(Deserialize)]
struct History {
    events: Vec<HistoryEvent>,
}

#[derive(Deserialize)]
struct Epoch {
    epoch: u64,
}

impl Admin {
    pub(crate) fn new(transport: Transport, addresses: Vec<Authority>, deadline: Duration) -> Self {
        Self { transport, addresses: Arc::new(Mutex::new(addresses)), fence: None, deadline }
    }

    /// Lets every change carry this number: the store refuses one that is lower than the highest it has seen, so that an
    /// operator that was superseded changes nothing any more.
    pub fn with_fence(mut self, fence: Option<u64>) -> Self {
        self.fence = fence;
        self
    }

    /// How long a call may take, repetitions included.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// States who the members should be. Returns when the map says so; the moves that follow are told by [`Admin::plan`].
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the map has another epoch than `members` wants (`map-changed`), or the store can't do it
    /// now without a risk.
    pub async fn put_members(&self, members: &Members) -> Result<Changed> {
        let body = serde_json::to_vec(members).expect("plain fields");
        let message = self.message(Method::PUT, "/admin/v1/members".to_owned(), body)?;
        read(&self.run(message, Safety::Guarded).await?)
    }

    /// Lets a member's replicas and leaders move away; it stays a member. `member` is an id or a name. Returns the epoch.
    pub async fn drain(&self, member: &str) -> Result<u64> {
        self.change(Method::POST, member, "/drain", Safety::Guarded).await
    }

    /// Lets a drained member hold replicas again. `member` is an id or a name. Returns the epoch.
    pub async fn undrain(&self, member: &str) -> Result<u64> {
        self.change(Method::DELETE, member, "/drain", Safety::Guarded).await
    }

    /// Removes a member that holds no replica, at once. `member` is an id or a name. Returns the epoch. It is sent once
    /// only: a member of that name could be another one by the time of a repetition.
    pub async fn remove(&self, member: &str) -> Result<u64> {
        self.change(Method::DELETE, member, "", Safety::Once).await
    }

    /// What is still to be done. Takes note of where the members are.
    pub async fn plan(&self) -> Result<Plan> {
        let plan: Plan = self.ask("/admin/v1/plan".to_owned()).await?;
        let now = plan.members.iter().filter_map(|member| member.admin_address.parse().ok());
        self.learn(now.collect());
        Ok(plan)
    }

    /// The last changes of the map, newest first.
    pub async fn history(&self) -> Result<Vec<HistoryEvent>> {
        Ok(self.ask::<History>("/admin/v1/history".to_owned()).await?.events)
    }

    /// The ring as it was after the change that made this epoch.
    pub async fn ring_at(&self, epoch: u64) -> Result<Ring> {
        self.ask(format!("/admin/v1/history?epoch={epoch}")).await
    }

    async fn change(&self, method: Method, member: &str, rest: &str, safety: Safety) -> Result<u64> {
        let member = percent_encode(member.as_bytes(), SEGMENT);
        let message = self.message(method, format!("/admin/v1/members/{member}{rest}"), Vec::new())?;
        Ok(read::<Epoch>(&self.run(message, safety).await?)?.epoch)
    }

    async fn ask<T: DeserializeOwned>(&self, path: String) -> Result<T> {
        let answer = self.run(self.message(Method::GET, path, Vec::new())?, Safety::Read).await?;
        serde_json::from_slice(&answer.body).map_err(|error| Error::UnexpectedAnswer { reason: error.to_string() })
    }

    fn message(&self, method: Method, path: String, body: Vec<u8>) -> Result<Message> {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(fence) = self.fence.filter(|_| method != Method::GET) {
            headers.insert(HeaderName::from_static("annulus-operator-fence"), HeaderValue::from(fence));
        }
        let path = PathAndQuery::try_from(&path).map_err(|error| Error::InvalidOption {
            what: "member",
            value: path,
            reason: error.to_string(),
        })?;
        Ok(Message { method, path, headers, body: Bytes::from(body) })
    }

    /// Asks one address after the other, round after round, until one has an answer that says what happened.
    async fn run(&self, message: Message, safety: Safety) -> Result<Answer> {
        let deadline = Instant::now() + self.deadline;
        let mut course = Course { doubt: None, last: "no time was left to ask".to_owned(), busy: false, attempts: 0 };
        loop {
            for address in self.addresses() {
                let share = if safety.repeatable() { self.deadline / ATTEMPT_SHARE } else { self.deadline };
                let limit = deadline.min(Instant::now() + share);
                course.attempts += 1;
                let reason = match judge(safety, self.transport.send(&address, &message, limit).await) {
                    Verdict::Answered(answer) => {
                        self.prefer(&address);
                        return course.settle(safety, answer);
                    }
                    Verdict::Elsewhere(reason) => reason,
                    Verdict::Later { reason, trouble, .. } => {
                        course.busy = trouble == Trouble::Overloaded;
                        reason
                    }
                    Verdict::Unknown(reason) => {
                        course.doubt.get_or_insert_with(|| format!("{address}: {reason}"));
                        if !safety.repeatable() {
                            return Err(course.give_up());
                        }
                        reason
                    }
                };
                course.last = format!("{address}: {reason}");
                if Instant::now() >= deadline {
                    return Err(course.give_up());
                }
            }
            if Instant::now() + ROUND_WAIT >= deadline {
                return Err(course.give_up());
            }
            sleep(ROUND_WAIT).await;
        }
    }

    fn addresses(&self) -> Vec<Authority> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks this address first from now on.
    fn prefer(&self, address: &Authority) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = addresses.iter().position(|known| known == address) {
            addresses[..=place].rotate_right(1);
        }
    }

    /// These are the members' addresses now; the one that has just answered stays in front.
    fn learn(&self, now: Vec<Authority>) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_empty() {
            return;
        }
        addresses.truncate(1);
        let rest = now.into_iter().filter(|address| Some(address) != addresses.first());
        let rest: Vec<Authority> = rest.collect();
        addresses.extend(rest);
    }
}

/// How far a call has come.
struct Course {
    /// Why an earlier attempt may have happened.
    doubt: Option<String>,
    last: String,
    busy: bool,
    attempts: u32,
}

impl Course {
    fn settle(mut self, safety: Safety, answer: Answer) -> Result<Answer> {
        if self.doubt.is_some() && !settles(safety, answer.status) {
            return Err(self.give_up());
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::CONFLICT => Err(Error::Conflict(Box::new(answer.problem()))),
            status if status.is_client_error() => Err(Error::Refused(Box::new(answer.problem()))),
            _ if safety == Safety::Read => Err(Error::UnexpectedAnswer { reason: answer.problem().to_string() }),
            _ => Err(Error::OutcomeUnknown { reason: answer.problem().to_string() }),
        }
    }

    fn give_up(&mut self) -> Error {
        match self.doubt.take() {
            Some(reason) => Error::OutcomeUnknown { reason },
            None => Error::Unavailable {
                reason: std::mem::take(&mut self.last),
                overloaded: self.busy,
                attempts: self.attempts,
            },
        }
    }
}

/// Reads what a change was answered with. It was done, but who can't read that does not know what.
fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| Error::OutcomeUnknown { reason: format!("the answer can't be read: {error}") })
}
