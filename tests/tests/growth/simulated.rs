//! What an operation costs does not depend on how many members the store has.
//!
//! - `ANNULUS_OPERATIONS=100000`: how many operations of each kind are counted (4,000 without). With `--release` and
//!   `--nocapture` it shows the processor time of each, too.

use std::time::Duration;

use annulus_tests::simulator::growth::{Load, measure};
use annulus_tests::simulator::work::PerOperation;
use rustix::time::{ClockId, clock_gettime};

/// Members of the stores: what the others' operations cost is compared with the first's.
const MEMBERS: [usize; 4] = [3, 5, 9, 1];
/// How far it may be from that, as a part of it.
const FLAT: f64 = 0.2;

/// How much processor time this thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).expect("not negative"), u32::try_from(time.tv_nsec).expect("below 10⁹"))
}

/// One store's figures for each operation.
struct Figures {
    members: usize,
    work: PerOperation,
    /// Operations a second on the simulator's clock, by member.
    per_member: f64,
}

fn grow(load: Load) -> [Figures; 4] {
    let operations = std::env::var("ANNULUS_OPERATIONS").map_or(4000, |text| text.parse().expect("a number"));
    MEMBERS.map(|members| {
        let growth = measure(members, load, operations, &thread_time).expect("no member stops");
        assert_eq!(growth.turned_away, 0, "leaders stay, and all clients know them");
        let each = |time: Duration| time.as_secs_f64() / growth.operations as f64;
        let per_member = 1.0 / each(growth.took) / members as f64;
        let work = growth.work.per(growth.operations);
        println!(
            "{load:?}, members {members}: {work}; {:.2} µs of processor time; {per_member:.0}/s by member",
            each(growth.busy) * 1e6,
        );
        Figures { members, work, per_member }
    })
}

/// Panics unless what is read from each is about what it is for the first.
fn assert_flat(what: &str, figures: &[Figures], read: impl Fn(&Figures) -> f64) {
    let first = read(&figures[0]);
    for other in figures {
        let ratio = read(other) / first;
        assert!(
            (1.0 - FLAT..=1.0 + FLAT).contains(&ratio),
            "members {}: {what} are {ratio:.2} times as many",
            other.members
        );
    }
}

#[test]
fn a_get_is_as_much_work_in_a_large_store() {
    let figures = grow(Load::Get);
    assert_flat("rounds", &figures, |figures| figures.work.rounds);
    assert_flat("operations a second by member", &figures, |figures| figures.per_member);
    for figures in &figures {
        let PerOperation { messages, frames, syncs, .. } = figures.work;
        assert!(messages.max(frames).max(syncs) < 0.05, "a leader answers alone: {}", figures.work);
    }
}

#[test]
fn a_put_is_as_much_work_in_a_large_store() {
    let figures = grow(Load::Put);
    // One member replicates nothing: its puts are another thing.
    let replicated = &figures[..3];
    assert_flat("rounds", replicated, |figures| figures.work.rounds);
    assert_flat("messages", replicated, |figures| figures.work.messages);
    assert_flat("bytes of frames", replicated, |figures| figures.work.frame_bytes);
    assert_flat("syncs", replicated, |figures| figures.work.syncs);
    assert_flat("bytes to disks", replicated, |figures| figures.work.disk_bytes);
    assert_flat("operations a second by member", replicated, |figures| figures.per_member);
    // The more peers a round's messages go to, the fewer share a frame; there are never more frames than messages.
    for figures in replicated {
        assert!(figures.work.frames < figures.work.messages / 2.0, "messages share frames: {}", figures.work);
    }
}
