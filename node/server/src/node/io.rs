//! I/O threads beside the first: each has a runtime of its own and serves clients from the same port.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{oneshot, watch};

use crate::http::{self, Port, Resources};
use crate::router::{NodeParts, NodeRouter};
use crate::runtime::{IoLanes, ReplyQueue, Waiters};

/// What a thread serves, once the rest of the node is there.
pub(super) struct Work {
    pub(super) listener: std::net::TcpListener,
    pub(super) parts: NodeParts,
    pub(super) resources: Arc<Resources>,
    pub(super) stop: watch::Receiver<bool>,
}

/// One I/O thread.
pub(super) struct IoThread {
    work: oneshot::Sender<Work>,
    handle: JoinHandle<()>,
}

impl IoThread {
    /// Starts the thread with this number; answers with the way to it.
    pub(super) async fn spawn(number: u16) -> std::io::Result<(Self, ReplyQueue)> {
        let (work, receiver) = oneshot::channel();
        let (queue_sender, queue) = oneshot::channel();
        let handle = thread::Builder::new().name(format!("io-{number}")).spawn(move || {
            // Whoever started this thread waits for its queue, and then gives it its work.
            let runtime = match local_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(queue_sender.send(Err(error))),
            };
            runtime.block_on(async move {
                let (waiters, queue) = Waiters::start(number);
                let _ = queue_sender.send(Ok(queue));
                if let Ok(work) = receiver.await {
                    serve(work, waiters).await;
                }
            });
        })?;
        let queue = queue.await.map_err(|_| std::io::Error::other("an I/O thread ended at once"))??;
        Ok((Self { work, handle }, queue))
    }

    /// Lets the thread serve; returns what to wait for when the node stops.
    pub(super) fn serve(self, work: Work) -> JoinHandle<()> {
        // It waits for this.
        let _ = self.work.send(work);
        self.handle
    }
}

/// The runtime of an I/O thread: its tasks never leave it.
pub(super) fn local_runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

async fn serve(work: Work, waiters: Waiters) {
    let lanes = IoLanes::start(Arc::clone(&work.parts.lanes));
    let router = Rc::new(NodeRouter { parts: work.parts, waiters, lanes });
    match TcpListener::from_std(work.listener) {
        Ok(listener) => http::serve(listener, Port::Client, router, work.resources, work.stop).await,
        Err(error) => tracing::error!(%error, "an I/O thread can't listen; the others serve on"),
    }
}
