//! The answer to a watch: a body that ends only when the watch does, one line of JSON for each change.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use super::error::Error;
use super::request::{Call, Selection};
use super::resources::Kind;
use super::store::{Change, Event};
use super::{Server, lock};

/// How a watch ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The server closes it in good order.
    Closed,
    /// The connection breaks.
    Broken,
    /// The connection ends in the middle of what the server says.
    Torn,
    /// The server says that it can't go on from there (410), and the watcher has to list again.
    Expired,
}

/// How late watchers are told of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchDelay {
    /// At once.
    #[default]
    None,
    /// When this many more writes were done.
    Writes(u64),
    /// Not of anything newer than this version.
    HeldAt(u64),
}

impl WatchDelay {
    /// The newest version that watchers may know of.
    pub(super) fn visible(self, newest: u64) -> u64 {
        match self {
            Self::None => newest,
            Self::Writes(writes) => newest.saturating_sub(writes),
            Self::HeldAt(version) => version.min(newest),
        }
    }
}

/// One watch.
pub(super) struct WatchBody {
    server: Arc<Mutex<Server>>,
    session: usize,
    kind: Kind,
    selection: Selection,
    metadata_only: bool,
    /// All changes up to here were told.
    told: u64,
    lines: VecDeque<Bytes>,
    takes_bookmarks: bool,
    bookmarks: u64,
    ends: u64,
    deadline_seconds: Option<i64>,
    over: bool,
}

impl WatchBody {
    /// Begins a watch, while the server is locked.
    pub(super) fn new(
        shared: &Arc<Mutex<Server>>,
        server: &Server,
        session: usize,
        call: &Call,
    ) -> Result<Self, Error> {
        let asked = call.query.number("resourceVersion")?.unwrap_or(0);
        let send_all = call.query.is("sendInitialEvents");
        let visible = server.delay.visible(server.store.version()).max(server.store.oldest());
        let timeout = call.query.number("timeoutSeconds")?;
        let mut body = Self {
            server: Arc::clone(shared),
            session,
            kind: call.kind,
            selection: call.selection.clone(),
            metadata_only: call.metadata_only,
            told: asked,
            lines: VecDeque::new(),
            takes_bookmarks: call.query.is("allowWatchBookmarks"),
            bookmarks: server.bookmarks,
            ends: server.watch_ends,
            deadline_seconds: timeout
                .and_then(|timeout| i64::try_from(timeout).ok())
                .map(|timeout| server.store.now_seconds() + timeout),
            over: false,
        };
        if send_all || asked == 0 {
            body.told = visible;
            for (key, object) in server.store.list_at(call.kind, call.namespace.as_deref(), visible)? {
                if body.selection.matches(&key, &object) {
                    body.line("ADDED", &object);
                }
            }
        }
        if send_all {
            body.bookmark(&json!({"k8s.io/initial-events-end": "true"}));
        }
        Ok(body)
    }

    fn line(&mut self, change: &str, object: &Value) {
        let object = if self.metadata_only { metadata_of(object) } else { object.clone() };
        let mut text = json!({"type": change, "object": object}).to_string();
        text.push('\n');
        self.lines.push_back(Bytes::from(text));
    }

    fn bookmark(&mut self, annotations: &Value) {
        let object = json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.resource().kind,
            "metadata": {"resourceVersion": self.told.to_string(), "annotations": annotations},
        });
        let metadata_only = std::mem::replace(&mut self.metadata_only, false);
        self.line("BOOKMARK", &object);
        self.metadata_only = metadata_only;
    }

    /// An object that comes to match is new to the watcher, and one that no longer does is gone.
    fn tell(&mut self, event: &Event) {
        self.told = event.version;
        if event.key.kind != self.kind {
            return;
        }
        let before = event.before.as_ref().is_some_and(|before| self.selection.matches(&event.key, before));
        let after = event.change != Change::Deleted && self.selection.matches(&event.key, &event.object);
        match (before, after) {
            (false, false) => {}
            (false, true) => self.line("ADDED", &event.object),
            (true, true) => self.line("MODIFIED", &event.object),
            (true, false) => self.line("DELETED", &event.object),
        }
    }

    fn expire(&mut self, error: &Error) {
        self.line("ERROR", &error.status());
        self.over = true;
    }

    fn broken(&mut self) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.over = true;
        self.lines.clear();
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke"))))
    }

    /// Half of the next line is the last thing that the watcher gets.
    fn tear(&mut self, server: &Server) {
        if !self.look(server) {
            self.bookmark(&json!({}));
        }
        let half = self.lines.pop_front().map(|line| line.slice(..line.len() / 2));
        self.lines = half.into_iter().collect();
        self.over = true;
    }

    /// Looks what there is to tell; `false`: nothing yet.
    fn look(&mut self, server: &Server) -> bool {
        let visible = server.delay.visible(server.store.version());
        while self.lines.is_empty() && !self.over {
            match server.store.next_event(self.told) {
                Err(error) => self.expire(&error),
                Ok(Some(event)) if event.version <= visible => self.tell(event),
                Ok(_) => break,
            }
        }
        if self.lines.is_empty() && !self.over && self.bookmarks != server.bookmarks {
            self.bookmarks = server.bookmarks;
            if self.takes_bookmarks {
                self.told = self.told.max(visible);
                self.bookmark(&json!({}));
            }
        }
        let timed_out = self.deadline_seconds.is_some_and(|deadline| server.store.now_seconds() >= deadline);
        self.over |= self.lines.is_empty() && timed_out;
        self.over || !self.lines.is_empty()
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let shared = Arc::clone(&self.server);
        let mut server = lock(&shared);
        if !self.over {
            if server.sessions[self.session].is_cut {
                return self.broken();
            }
            if self.ends != server.watch_ends {
                self.ends = server.watch_ends;
                match server.watch_end {
                    WatchEnd::Closed => self.over = true,
                    WatchEnd::Broken => return self.broken(),
                    WatchEnd::Torn => self.tear(&server),
                    WatchEnd::Expired => {
                        let (asked, oldest) = (self.told, server.store.version());
                        self.lines.clear();
                        self.expire(&Error::Expired { asked, oldest });
                    }
                }
            } else if !self.look(&server) {
                server.store.wait(context.waker());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.lines.pop_front().map(|line| Ok(Frame::data(line))))
    }
}

/// An object without all but its metadata.
pub(super) fn metadata_of(object: &Value) -> Value {
    if object["kind"] == "Status" {
        return object.clone();
    }
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}
